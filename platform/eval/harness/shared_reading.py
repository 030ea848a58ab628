"""Many prompts in batches, where what many of them begin with is read once for all batches.

`models.decoding.prefill` reads a beginning once that several prompts of a batch share. A header of worked examples
before every question of a task is shared by more prompts than fit into a batch: it is read once here, and every batch
goes on from the state behind it.

Promises: every prompt is in one batch, and a batch has at most `size` of them; each keeps at least its last token,
whose scores are wanted. What is read this way equals reading each prompt alone, up to rounding. Where an edit goes by
positions or by rows, or something is captured, only batches share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...models.access.edit_kinds import KINDS
from ...models.decoding.prefill import beginnings

if TYPE_CHECKING:
    from ...models import LanguageModel, ModelState


class Batch(NamedTuple):
    """rows: which prompts. rest: what is left of each to be read. state: the one row behind what they begin with,
    None where nothing has been read."""

    rows: tuple[int, ...]
    rest: tuple[tuple[int, ...], ...]
    state: ModelState | None


def batches(
    model: LanguageModel, prompts: Sequence[Sequence[int]], size: int, *, ahead: bool = True
) -> Iterator[Batch]:
    """`prompts`, token ids of at least one token each, in batches of at most `size`; long ones first.

    ahead: whether beginnings may be read before their batches, which edits that come with a batch forbid.
    """
    rows = [tuple(prompt) for prompt in prompts]
    return _batches(model, rows, list(range(len(rows))), None, size, ahead and _may_go_on(model))


def _batches(
    model: LanguageModel,
    rest: Sequence[tuple[int, ...]],
    members: list[int],
    state: ModelState | None,
    size: int,
    share: bool,
) -> Iterator[Batch]:
    """Batches of the prompts `members`, of which `rest` is left after `state`."""
    found = beginnings(rest, [0] * len(rest), 1) if share and len(rest) > 1 else []
    together = [list(b.rows) for b in found if len(b.rows) <= size]  # one batch can read these once by itself
    for beginning in found:
        if len(beginning.rows) > size:
            read = _read(model, rest[beginning.rows[0]][: beginning.length], state)
            inside = [rest[i][beginning.length :] for i in beginning.rows]
            yield from _batches(model, inside, [members[i] for i in beginning.rows], read, size, share)
    begun = {i for beginning in found for i in beginning.rows}
    together += [[i] for i in range(len(rest)) if i not in begun]
    # rows that begin alike stand together, and of these groups the longest come first, so that batches are even
    together.sort(key=lambda group: -max(len(rest[i]) for i in group))
    order = [i for group in together for i in sorted(group, key=lambda i: -len(rest[i]))]
    for at in range(0, len(order), size):
        chosen = order[at : at + size]
        yield Batch(tuple(members[i] for i in chosen), tuple(rest[i] for i in chosen), state)


@torch.no_grad()
def _read(model: LanguageModel, tokens: Sequence[int], state: ModelState | None) -> ModelState:
    row = torch.tensor([list(tokens)], device=model.device)
    return model(row, state=state, return_state=True, phase="prefill", last_only=True)[1]


def _may_go_on(model: LanguageModel) -> bool:
    """Whether a beginning may be read before it is known which prompts follow it."""
    edits = [applied.edit for applied in model.edits]
    if model.captures or any(type(edit) not in KINDS.values() or edit.of_rows for edit in edits):
        return False
    return all(edit.selection.positions is None and edit.where is None for edit in edits)
