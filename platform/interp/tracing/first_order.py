"""First-order effects of moving sites from a corrupted run to the clean one: <a_clean - a_corrupted, dM/da>.

Two forward passes and one backward pass give all sites of all layers. A site that later values are computed from has
its derivative from autograd. A recurrent state is a by-product of its scan: its derivative is the scan's adjoint
(`state_adjoint`), or, where other layers read the state too, that of an edit which adds zero to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.capture import STATE_SITES
from ...models.edits import Add, Edit, Replace
from ...models.norms import wide
from ..places import Place
from .outcome import answer_token, score
from .recurrences import ScanPlace, scans_of
from .state_adjoint import state_effects

if TYPE_CHECKING:
    from ...models import LanguageModel

_GRAPH_FACTOR = 8  # tensors of the size of the states at all steps that the graph of their edits holds, about

#: (layer, site relative to the block) -> effects (S, T) in float64
Effects = dict[tuple[int, str], Tensor]


class FirstOrder(NamedTuple):
    """answer: the token asked about. p_clean and p_corrupted (S): its probability in the runs."""

    effects: Effects
    answer: int
    p_clean: float
    p_corrupted: Tensor


class _Pass(NamedTuple):
    """A forward and a backward pass: the last token's logits (S, V); values by full site name; dM/da likewise."""

    logits: Tensor
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


class _Asked(NamedTuple):
    """The places of one group: whose gradient autograd has, who needs an edit, and the scans of the other states."""

    plain: list[Place]
    edited: list[Place]
    scans: list[ScanPlace]

    @property
    def outputs(self) -> list[str]:
        return [name for scan in self.scans for name in scan.outputs]

    @property
    def values(self) -> list[str]:
        """Sites whose values are needed of both runs."""
        inputs = [name for scan in self.scans for name in scan.inputs]
        return list(dict.fromkeys([*inputs, *(place.name for place in (*self.plain, *self.edited))]))


def first_order(
    model: LanguageModel, found: Sequence[Place], clean: Tensor, corrupted: Tensor, *, answer: int | str | None,
    metric: str, steps: int | None, memory_mb: int,
) -> FirstOrder:  # fmt: skip
    """Effects at `found` of prompts corrupted (S, T) and clean (T); see `attribution_patching` for the rest."""
    result: FirstOrder | None = None
    for group in layer_groups(model, found, corrupted.numel(), memory_mb):
        part = _of_group(model, _sorted(model, group), clean, corrupted, answer, metric, steps)
        wanted = {(place.layer, place.site) for place in group}
        known = {} if result is None else result.effects
        effects = known | {key: value for key, value in part.effects.items() if key in wanted}
        result = part._replace(effects=effects)
    assert result is not None, "places are never none"
    return result


def layer_groups(model: LanguageModel, found: Sequence[Place], tokens: int, memory_mb: int) -> list[list[Place]]:
    """`found` in groups of whole layers, so that the graph of states kept at all steps fits `memory_mb`."""
    if isinstance(memory_mb, bool) or memory_mb < 1:
        raise UsageError(f"memory_mb must be at least 1, not {memory_mb!r}")
    size = torch.finfo(wide(model.dtype)).bits // 8
    groups: list[list[Place]] = []
    left = 0.0
    for layer in dict.fromkeys(place.layer for place in found):
        here = [place for place in found if place.layer == layer]
        states = sum(torch.Size(place.shape).numel() for place in _sorted(model, here).edited)
        cost = _GRAPH_FACTOR * tokens * size * states / 2**20
        if not groups or cost > left:
            groups.append([])
            left = float(memory_mb)
        groups[-1] += here
        left -= cost
    return groups


def _sorted(model: LanguageModel, found: Sequence[Place]) -> _Asked:
    asked = _Asked([], [], [])
    for place in found:
        if place.site.rpartition(".")[2] not in STATE_SITES:
            asked.plain.append(place)
            continue
        scan = _scan_of(model, place)
        if scan is None:
            asked.edited.append(place)
        elif scan not in asked.scans:
            asked.scans.append(scan)
    return asked


def _scan_of(model: LanguageModel, place: Place) -> ScanPlace | None:
    """The scan whose adjoint is the derivative by the state at `place`; None where an edit has to find it."""
    prefix, _, last = place.name.rpartition(".")
    if last not in ("h", "h_post") or model.edits:  # edits in force may change a state behind its scan's back
        return None
    return next((scan for scan in scans_of(model, place.layer) if scan.prefix == prefix + "."), None)


def _of_group(
    model: LanguageModel, asked: _Asked, clean: Tensor, corrupted: Tensor, answer: int | str | None, metric: str,
    steps: int | None,
) -> FirstOrder:  # fmt: skip
    with torch.inference_mode(False), torch.no_grad(), model.capture("embed", *asked.values) as before:
        said = model(clean[None], last_only=True)[:, -1]
    target = answer_token(model, answer, said[0])
    if steps is None:
        run = _differentiate(model, asked, corrupted, None, target, metric)
        after, logits, runs = run.values, run.logits, [run]
    else:
        with torch.inference_mode(False), torch.no_grad(), model.capture("embed", *asked.values) as after:
            logits = model(corrupted, last_only=True)[:, -1]
        mixed = (torch.lerp(after["embed"], before["embed"], (i + 0.5) / steps) for i in range(steps))
        runs = (_differentiate(model, asked, corrupted, embedded, target, metric) for embedded in mixed)
    total: Effects = {}
    for run in runs:  # a generator: one graph at a time
        for key, effect in _along(asked, before, after, run).items():
            total[key] = total.get(key, 0.0) + effect / (steps or 1)
    p_clean = float(torch.softmax(said[0], -1)[target])
    return FirstOrder(total, target, p_clean, torch.softmax(logits, -1)[:, target].double())


def _along(asked: _Asked, before: Mapping[str, Tensor], after: Mapping[str, Tensor], run: _Pass) -> Effects:
    """The way from `after` to `before`, times the derivative in `run`."""
    effects: Effects = {}
    for place in (*asked.plain, *asked.edited):
        moved = (before[place.name] - after[place.name]).double()
        effects[place.layer, place.site] = (moved * run.gradients[place.name].double()).flatten(2).sum(2)
    for scan in asked.scans:
        gradient = torch.cat([run.gradients[name] for name in scan.outputs], -1)
        found = state_effects(scan.rebuild(before), scan.rebuild(after), scan.rebuild(run.values), gradient)
        relative = scan.prefix.split(".", 2)[2]
        effects[scan.layer, relative + "h"], effects[scan.layer, relative + "h_post"] = found
    return effects


def _differentiate(
    model: LanguageModel, asked: _Asked, tokens: Tensor, embedded: Tensor | None, answer: int, metric: str
) -> _Pass:
    """One forward and one backward pass of tokens (S, T), with embeddings `embedded` instead of theirs unless None."""
    options = {"dtype": wide(model.dtype), "device": model.device, "requires_grad": True}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        zeros = {p.name: torch.zeros(*tokens.shape, *p.shape, **options) for p in asked.edited}
        # a start that requires a gradient, so that there is a graph even where no parameter requires one
        start: Edit = (
            Add("embed", torch.zeros((), **options))
            if embedded is None
            else Replace("embed", embedded.detach().clone().requires_grad_())
        )
        stack.enter_context(model.edit(start, *(Add(name, zero) for name, zero in zeros.items())))
        seen = list(dict.fromkeys([*(place.name for place in asked.plain), *asked.outputs]))
        acts = stack.enter_context(model.capture("embed", *seen, *asked.values))
        logits = model(tokens, last_only=True)[:, -1]
        leaves = [*(acts[name] for name in seen), *zeros.values()]
        names = [*seen, *zeros]
        # Rows of a batch do not meet, so the gradient of the sum is every row's own.
        found = torch.autograd.grad(score(logits, answer, metric).sum(), leaves, allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient  # None: nothing later is computed from it
        for name, leaf, gradient in zip(names, leaves, found, strict=True)
    }
    values = {name: acts[name].detach() for name in ("embed", *asked.values)}
    return _Pass(logits.detach(), values, gradients)
