"""What both state-space mixers share around their scan: the convolution with its window, and the state sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access.replaced_layers import is_replaced
from ..access.run import Run
from ..access.states import Scanned, StateChange, Writes, edit_states, edit_windows, windows
from ..kernels import causal_conv
from ..mixer import LayerState, SiteInfo

#: scan(start, stop, x or None for zeros, h, states_at) -> y (B, t, E), final (B, E, N), states (B, P, E, N)
SegmentScan = Callable[[int, int, bool, Tensor | None, list[int] | None], Scanned]


def convolve(
    run: Run, prefix: str, u: Tensor, conv: nn.Conv1d, state: LayerState | None, need_state: bool
) -> tuple[Tensor, Tensor | None]:
    """Depthwise causal convolution of u (B, T, E) from the window "conv" of `state`, with its site `conv_state`; also
    the window after the last token."""
    name, weight, history = prefix + "conv_state", conv.weight[:, 0], state["conv"] if state else None
    if is_replaced(conv):
        out = conv(u, history, run.reset)
    else:
        out = causal_conv(u, weight, conv.bias, initial_state=history, reset=run.reset)
    assert isinstance(out, Tensor)
    deviation: Tensor | None = None
    active = run.active(name)
    if not active and not need_state:
        return out, None
    if history is None:
        history = u.new_zeros(len(u), u.shape[2], weight.shape[1] - 1)
    if active:
        out, deviation = edit_windows(run, name, out, u, weight, history)
    if not need_state:
        return out, None
    if u.shape[1] == 1 and not active and run.reset is None and run.keep is None:
        kept = history[..., 1:].to(u.dtype)
        return out, torch.cat((kept, u.transpose(1, 2)), -1) if history.shape[2] else kept
    last = windows(u, history, (run.lengths - 1)[:, None], run.reset)[:, 0]
    return out, last if deviation is None else last + deviation


def scan_with_sites(
    run: Run,
    prefix: str,
    width: int,
    h0: Tensor | None,
    need_state: bool,
    scan: SegmentScan,
    C_read: Callable[[int, Tensor], Tensor],
    writes: Writes | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`trace_scan` for layers whose states nobody else reads: y (B, T, E) with skip and the final state (B, E, N), None
    unless `need_state`."""
    traced = trace_scan(run, prefix, width, h0, scan, C_read, writes)
    return traced.y, traced.final if need_state else None


def begun(run: Run, prefix: str, state: LayerState | None, zero: Callable[[], LayerState]) -> LayerState | None:
    """`state` with the edits of the sites `h_init` and `conv_init`; the same where they are idle or no text begins.

    zero: makes what a text begins with where no state is carried. Captures and edits see "h" as (B, E, N).
    """
    names = {"h": prefix + "h_init", "conv": prefix + "conv_init"}
    if not any(run.active(name) for name in names.values()) or run.begins is None:
        return state
    start = {key: value for key, value in (state or zero()).items()}
    for key, name in names.items():
        if key in start and start[key].shape[-1]:
            shown = start[key].flatten(1, -2)
            start[key] = run.beginning(name, shown).view_as(start[key])
    return start


def next_state(need_state: bool, **parts: Tensor | None) -> LayerState | None:
    """What a layer hands on; None where nobody needs it, and only then may a part be missing."""
    return {name: part for name, part in parts.items() if part is not None} if need_state else None


class Traced(NamedTuple):
    """y (B, T, E) with skip and the final state (B, E, N), with the consequences of edits; that state without them; and
    what the edits did, for other read-outs of the same states."""

    y: Tensor
    final: Tensor
    unedited: Tensor
    changes: list[StateChange]


def trace_scan(
    run: Run,
    prefix: str,
    width: int,
    h0: Tensor | None,
    scan: SegmentScan,
    C_read: Callable[[int, Tensor], Tensor],
    writes: Writes | None,
) -> Traced:
    """Run a mixer's scan; where `h`, `h_post` or `write` is captured or edited, also do that (see `states`).

    writes: None for a mixer without the site `write`.
    """
    at_states = run.active(prefix + "h") or run.active(prefix + "h_post")
    if not (at_states or run.active(prefix + "write")):
        out = scan(0, width, True, h0, None)
        return Traced(out.y, out.final, out.final, [])
    columns = run.columns(prefix + "h", prefix + "h_post", prefix + "write")
    base = scan(0, width, True, h0, columns if at_states else None)

    def propagate(start: int, stop: int, h: Tensor) -> tuple[Tensor, Tensor]:
        part = scan(start, stop, False, h, None)
        return part.y, part.final

    y, final, changes = edit_states(run, prefix, columns, base, C_read, propagate, writes)
    return Traced(y, final, base.final, changes)


def state_sites(E: int, N: int, conv_width: int, kernel: int) -> list[SiteInfo]:
    """The state sites, which every architecture with a recurrence has; a convolution of one tap sees nothing later."""
    window = (conv_width, kernel - 1)
    found = [
        initial_site("h_init", (E, N), "recurrent state that a text begins with; zero unless edited", wide=True),
        initial_site("conv_init", window, "inputs that convolutions see before the text, oldest first; zero likewise"),
        SiteInfo("write", (E, N), "what token t adds to the recurrent state"),
        SiteInfo("h", (E, N), "recurrent state after step t; an edit acts before the read-out of step t"),
        SiteInfo("h_post", (E, N), "recurrent state after step t; an edit acts from step t + 1 on"),
        SiteInfo("conv_state", window, "inputs that convolutions after step t still see, oldest first"),
    ]
    return [info for info in found if kernel > 1 or not info.name.startswith("conv_")]


def decay_site(*shape: int) -> SiteInfo:
    """The site of the decay rates, which no token decides."""
    meaning = "decay rates, below 0: a state decays by exp(delta A) at each step"
    return SiteInfo("A", shape, meaning, wide=True, constant=True)


def initial_site(name: str, shape: tuple[int, ...], meaning: str, wide: bool = False) -> SiteInfo:
    """A site that texts begin with."""
    return SiteInfo(name, shape, meaning, wide, constant=True, initial=True)


def split_linear(u: Tensor, layer: nn.Linear, sizes: list[int]) -> list[Tensor]:
    """The parts of layer(u) along its last axis, each contiguous.

    An elementwise edit returns contiguous memory, and vectorised silu rounds differently on strided memory: without
    this, an edit that changes nothing would change the last bits. For one token a copy is cheaper than a product more.
    """
    if u.shape[1] == 1 or is_replaced(layer):
        return [part.contiguous() for part in layer(u).split(sizes, -1)]
    weights = layer.weight.split(sizes)
    biases = [None] * len(sizes) if layer.bias is None else layer.bias.split(sizes)
    return [F.linear(u, w, b) for w, b in zip(weights, biases, strict=True)]


def draw_dt_bias(n: int, low: float, high: float, floor: float, generator: torch.Generator) -> Tensor:
    """Inverse softplus of Delta drawn log-uniformly from [low, high] and floored: the reference initialisation."""
    log_low, log_high = torch.tensor(low).log(), torch.tensor(high).log()
    dt = (torch.rand(n, generator=generator) * (log_high - log_low) + log_low).exp().clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))


def reset_linear(weight: Tensor, bias: Tensor | None, fan_in: int, generator: torch.Generator) -> None:
    """PyTorch's default for linear and convolution layers, U(+-1/sqrt(fan_in)), from an explicit generator."""
    bound = fan_in**-0.5
    with torch.no_grad():
        weight.copy_(torch.empty_like(weight, dtype=torch.float32).uniform_(-bound, bound, generator=generator))
        if bias is not None:
            bias.copy_(torch.empty_like(bias, dtype=torch.float32).uniform_(-bound, bound, generator=generator))
