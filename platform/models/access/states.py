"""Reading and editing the recurrent state and the convolution's window at chosen time steps, without replay.

Setting h_t := h* changes every later read-out by a linear term,
    y'_s = y_s + C_s . [prod_{r=t+1..s} Abar_r (h* - h_t)],  s >= t,
so an edit costs one scan of the *deviation* (h* - h_t) with zero input over the steps after t; the unedited scan is
never repeated, and an edit that changes nothing adds exact zeros. Edits at several steps are taken in order of time:
each sees the state as the earlier ones left it and replaces their deviation from there on.

A captured state is a by-product of the scan: the output does not depend on it in the autograd graph. For the gradient
with respect to a state, edit it with `Add` of a zero tensor that requires a gradient.

`write` is what one token adds to the state: h_t = Abar_t h_{t-1} + write_t. Editing it is that deviation at its step.
`h` is edited before the read-out of its own step, `h_post` after it. `conv_state` after step t is the window of the
last k-1 inputs as later convolutions see them; an edit of it reaches the outputs of the next k-1 steps directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.conv.conv_windows import windows_after
from .run import Run


class Scanned(NamedTuple):
    """Outputs of a scan: y (B, T, E) without skip, final state (B, E, N), states (B, P, E, N) at the asked columns."""

    y: Tensor
    final: Tensor
    states: Tensor


class StateChange(NamedTuple):
    """What edits did to the state at one packed column: its deviation (B, E, N) from the unedited state.

    seen: as the read-out of that step sees it; after: as later steps inherit it. Edits of earlier columns are in both.
    """

    column: int
    seen: Tensor
    after: Tensor


#: columns -> what the tokens there write into the state (B, P, E, N)
Writes = Callable[[list[int]], Tensor]
#: (start, stop, h) -> y (B, stop - start, E) and the state after the last step: the scan of `h` with zero input
Propagate = Callable[[int, int, Tensor], tuple[Tensor, Tensor]]


def edit_states(
    run: Run,
    prefix: str,
    columns: list[int],
    base: Scanned,
    C_read: Callable[[int, Tensor], Tensor],
    propagate: Propagate,
    writes: Writes | None,
) -> tuple[Tensor, Tensor, list[StateChange]]:
    """Apply the edits of `write`, `h` and `h_post` at `columns` and let captures see the states.

    base: the unedited scan, whose states are there if `h` or `h_post` is active. C_read(t, h): the read-out (B, E) of a
    state (B, E, N) at step t.
    Returns y (B, T, E) and the final state, both with the edits' consequences, and what the edits did to the states, in
    order of time, for whoever reads the same states with other vectors.
    """
    if not columns:  # none of the wanted positions is in this call
        return base.y, base.final, []
    h_name, post_name, write_name = prefix + "h", prefix + "h_post", prefix + "write"
    looked_at, edited_states = run.active(h_name) or run.active(post_name), run.edited(h_name) or run.edited(post_name)
    write_columns = run.columns(write_name) if writes is not None and run.active(write_name) else []
    written: dict[int, Tensor] = {}
    if writes is not None and write_columns:
        written = dict(zip(write_columns, writes(write_columns).unbind(1), strict=True))
    if not (edited_states or run.edited(write_name)):
        if write_columns:
            run.show_at(write_name, write_columns, torch.stack(list(written.values()), 1))
        if looked_at:
            run.show_at(h_name, columns, base.states)
            run.show_at(post_name, columns, base.states)
        return base.y, base.final, []
    shown_h: list[Tensor] = []
    shown_post: list[Tensor] = []
    changes: list[StateChange] = []
    pieces: list[Tensor] = [torch.zeros_like(base.y[:, : columns[0]])]  # what to add to y, in order of time
    deviation = torch.zeros_like(base.final)
    for j, column in enumerate(columns):
        if j > 0:
            y_change, deviation = propagate(columns[j - 1] + 1, column + 1, deviation)
            pieces.append(y_change[:, :-1])
            here = y_change[:, -1:]
        else:
            here = torch.zeros_like(base.y[:, :1])
        change = torch.zeros_like(deviation)
        if column in written:
            plain = written[column]
            written[column] = run.site_at(write_name, column, plain)
            change = written[column] - plain
            deviation = deviation + change
        seen = deviation
        if looked_at:
            h = base.states[:, j] + deviation
            edited = run.site_at(h_name, column, h)
            after = run.site_at(post_name, column, edited)
            shown_h.append(edited)
            shown_post.append(after)
            if edited_states:
                change = change + (edited - h)
                seen, deviation = edited - base.states[:, j], after - base.states[:, j]
        pieces.append(here + C_read(column, change)[:, None])
        changes.append(StateChange(column, seen, deviation))
    if columns[-1] + 1 < base.y.shape[1]:
        y_change, deviation = propagate(columns[-1] + 1, base.y.shape[1], deviation)
        pieces.append(y_change)
    final = base.final + deviation
    y = base.y + torch.cat(pieces, 1).to(base.y.dtype)
    if looked_at:
        run.show_at(h_name, columns, torch.stack(shown_h, 1))
        run.show_at(post_name, columns, torch.stack(shown_post, 1))
    if write_columns:
        run.show_at(write_name, write_columns, torch.stack(list(written.values()), 1))
    return y, final, changes


def windows(u: Tensor, history: Tensor, columns: Tensor, reset: Tensor | None) -> Tensor:
    """The convolution's window after given steps: inputs (B, P, E, k-1), oldest first, that later steps will see.

    u (B, T, E) inputs of this call; history (B, E, k-1) inputs before it; columns (B, P), -1 meaning before the call.
    Inputs from before the last reset at or before a step are zero there, as the convolution treats them.
    """
    rows = torch.arange(len(u), device=u.device)[:, None].expand(columns.shape)
    return windows_after(u, history, rows.flatten(), columns.flatten(), reset).unflatten(0, columns.shape)


def edit_windows(
    run: Run, name: str, conv: Tensor, u: Tensor, weight: Tensor, history: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Apply the edits of a `conv_state` site to the convolution's output, and let captures see the windows.

    conv (B, T, E): unedited convolution output; weight (E, k). Returns the edited output and the deviation
    (B, E, k-1) of the window after the last step (None if there is none).
    """
    columns = run.columns(name)
    if not columns:
        return conv, None
    at = torch.as_tensor(columns, device=u.device).expand(len(u), -1)
    plain = windows(u, history, at, run.reset)
    if not run.edited(name):
        run.show_at(name, columns, plain)
        return conv, None
    deviation = torch.zeros_like(plain[:, 0])
    shown: list[Tensor] = []
    changes: dict[int, Tensor] = {}
    stops = [*columns[1:], conv.shape[1] - 1]
    for j, (column, stop) in enumerate(zip(columns, stops, strict=True)):
        edited = run.site_at(name, column, plain[:, j] + deviation)
        shown.append(edited)
        deviation = _advance(run, weight, edited - plain[:, j], column, stop, changes)
    if changes:
        steps = torch.as_tensor(sorted(changes), device=conv.device)
        stacked = torch.stack([changes[s] for s in sorted(changes)], 1).to(conv.dtype)
        conv = conv + torch.zeros_like(conv).index_copy(1, steps, stacked)
    run.show_at(name, columns, torch.stack(shown, 1))
    return conv, deviation


def _advance(run: Run, weight: Tensor, deviation: Tensor, start: int, stop: int, changes: dict[int, Tensor]) -> Tensor:
    """Move a window deviation from after step `start` to after `stop`, noting what it adds to each convolution output.

    Where padding follows the real tokens, a row's window stays as it is after its last real token.
    """
    reach = deviation.shape[2]
    for step in range(start + 1, stop + 1):
        if run.keep is None and step - start > reach:
            return torch.zeros_like(deviation)
        moved = deviation
        if run.reset is not None:
            moved = moved.masked_fill(run.reset[:, step].view(-1, 1, 1), 0)
        # tap m of the convolution at `step` meets window entry m (m < k-1); the last tap is the current input
        changes[step] = torch.einsum("bek,ek->be", moved, weight[:, :-1].to(moved.dtype))
        moved = torch.cat([moved[:, :, 1:], torch.zeros_like(moved[:, :, :1])], 2)
        deviation = moved if run.keep is None else torch.where(run.keep[:, step].view(-1, 1, 1), moved, deviation)
    return deviation
