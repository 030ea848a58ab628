"""First-order effects of moving sites from a corrupted run to the clean one: <a_clean - a_corrupted, dM/da>.

A forward pass of the clean prompt, one of each corrupted one and one backward pass give all sites of all layers. A site
that later values are computed from has its derivative from autograd. A recurrent state is a by-product of its scan: its
derivative is the scan's adjoint (`state_adjoint`), or, where other layers read the state too, that of an edit which
adds zero to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...models.access.capture import STATE_SITES
from ...models.access.edits import Add, Edit, Replace
from ...models.parts.norms import wide
from ..engine.places import Place
from .arguments import integer
from .corruption import Corruption
from .metric import Metric
from .recurrences import LayerRecurrence, scans_of
from .state_adjoint import state_effects

if TYPE_CHECKING:
    from ...models import LanguageModel

_GRAPH_FACTOR = 8  # tensors of the size of the states at all steps that the graph of their edits holds, about

#: (layer, site relative to the block) -> effects (S, T) in float64
Effects = dict[tuple[int, str], Tensor]
#: final logits of the clean run (V,) and of the corrupted ones (S, V) -> what they are judged by
MakeMetric = Callable[[Tensor, Tensor], Metric]


class FirstOrder(NamedTuple):
    """clean (V,), corrupted (S, V): final logits of the runs, judged by `judge`."""

    effects: Effects
    judge: Metric
    clean: Tensor
    corrupted: Tensor


class _Pass(NamedTuple):
    """One forward pass and, for its last S rows, a backward pass: final logits; values and dM/da by full site name."""

    logits: Tensor
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    def rows(self, part: slice) -> Mapping[str, Tensor]:
        return {name: value[part] for name, value in self.values.items()}


class _Asked(NamedTuple):
    """The places of one group: whose gradient autograd has, who needs an edit, and the scans of the other states."""

    plain: list[Place]
    edited: list[Place]
    scans: list[LayerRecurrence]

    @property
    def outputs(self) -> list[str]:
        return [name for scan in self.scans for name in scan.outputs]

    @property
    def values(self) -> list[str]:
        """Sites whose values are needed of both runs."""
        inputs = [name for scan in self.scans for name in scan.inputs]
        return list(dict.fromkeys(["embed", *inputs, *(place.name for place in (*self.plain, *self.edited))]))


def first_order(
    model: LanguageModel,
    asked: Sequence[Place],
    corruption: Corruption,
    make: MakeMetric,
    steps: int | None,
    memory: int,
) -> FirstOrder:
    """Effects at `asked`; steps: None, or how many runs between the two the derivative is averaged over.

    memory: bytes for the graph of states at all steps, where it is needed; layers are done in groups that keep to it.
    """
    result: FirstOrder | None = None
    for group in layer_groups(model, asked, corruption, memory):
        part = _of_group(model, _sorted(model, group), corruption, make, steps)
        wanted = {(place.layer, place.site) for place in group}
        known = {} if result is None else result.effects
        effects = known | {key: value for key, value in part.effects.items() if key in wanted}
        result = part._replace(effects=effects)
    assert result is not None, "places are never none"
    return result


def layer_groups(
    model: LanguageModel, asked: Sequence[Place], corruption: Corruption, memory: int
) -> list[list[Place]]:
    """`asked` in groups of whole layers, one layer at least."""
    memory = integer(memory, "memory_budget, a number of bytes,", 1)
    numbers = (1 + corruption.samples) * len(corruption.clean) * torch.finfo(wide(model.dtype)).bits // 8
    groups: list[list[Place]] = []
    left = 0
    for layer in dict.fromkeys(place.layer for place in asked):
        here = [place for place in asked if place.layer == layer]
        cost = sum(_GRAPH_FACTOR * numbers * torch.Size(p.shape).numel() for p in _sorted(model, here).edited)
        if not groups or cost > left:
            groups.append([])
            left = memory
        groups[-1] += here
        left -= cost
    return groups


def _sorted(model: LanguageModel, places: Sequence[Place]) -> _Asked:
    asked = _Asked([], [], [])
    for place in places:
        if place.site.rpartition(".")[2] not in STATE_SITES:
            asked.plain.append(place)
            continue
        scan = _scan_of(model, place)
        if scan is None:
            asked.edited.append(place)
        elif scan not in asked.scans:
            asked.scans.append(scan)
    return asked


def _scan_of(model: LanguageModel, place: Place) -> LayerRecurrence | None:
    """The scan whose adjoint is the derivative by the state at `place`; None where an edit has to find it."""
    prefix, _, last = place.name.rpartition(".")
    if last not in ("h", "h_post") or model.edits:  # edits in force may change a state behind its scan's back
        return None
    return next((scan for scan in scans_of(model, place.layer) if scan.prefix == prefix + "."), None)


@torch.inference_mode(False)
def _of_group(
    model: LanguageModel, asked: _Asked, corruption: Corruption, make: MakeMetric, steps: int | None
) -> FirstOrder:
    every = slice(None)
    tokens, noise = corruption.rows(every), corruption.edits(model, every)

    def judged(logits: Tensor) -> Metric:
        return make(logits[0].detach(), logits[1:].detach())

    if steps is None:
        first = _differentiate(model, asked, tokens, noise, judged, corruption.samples)
        passes: Iterator[_Pass] = iter([first])
    else:
        first = _differentiate(model, asked, tokens, noise, None, corruption.samples)
        judge = judged(first.logits)
        clean, corrupted = first.values["embed"][:1], first.values["embed"][1:]
        mixed = (torch.lerp(corrupted, clean.expand_as(corrupted), (i + 0.5) / steps) for i in range(steps))
        starts = ([Replace("embed", embedded)] for embedded in mixed)
        passes = (
            _differentiate(model, asked, tokens[1:], start, lambda logits: judge, corruption.samples)
            for start in starts
        )
    total: Effects = {}
    for one in passes:  # one graph at a time
        for key, effect in _along(asked, first, one, corruption.samples).items():
            total[key] = total.get(key, 0.0) + effect / (steps or 1)
    return FirstOrder(total, judged(first.logits), first.logits[0], first.logits[1:])


def _along(asked: _Asked, ends: _Pass, one: _Pass, samples: int) -> Effects:
    """The way from the corrupted to the clean values, rows of `ends`, times the derivative in the pass `one`."""
    before, after, here = ends.rows(slice(0, 1)), ends.rows(slice(1, None)), one.rows(slice(-samples, None))
    slope = {name: gradient[-samples:] for name, gradient in one.gradients.items()}
    effects: Effects = {}
    for place in (*asked.plain, *asked.edited):
        moved = (before[place.name] - after[place.name]).double()
        effects[place.layer, place.site] = (moved * slope[place.name].double()).flatten(2).sum(2)
    for scan in asked.scans:
        gradient = torch.cat([slope[name] for name in scan.outputs], -1)
        both = state_effects(scan.rebuild(before), scan.rebuild(after), scan.rebuild(here), gradient)
        relative = scan.prefix.split(".", 2)[2]
        effects[scan.layer, relative + "h"], effects[scan.layer, relative + "h_post"] = both
    return effects


def _differentiate(
    model: LanguageModel, asked: _Asked, tokens: Tensor, start: Sequence[Edit],
    judged: Callable[[Tensor], Metric] | None, samples: int,
) -> _Pass:  # fmt: skip
    """One forward pass over `tokens` with the edits `start`; with `judged` also the backward pass of its last rows."""

    def leaf(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=wide(model.dtype), device=model.device, requires_grad=True)

    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(judged is not None))
        # a start that requires a gradient, so that there is a graph even where no parameter requires one
        edits = [*start, Add("embed", leaf())]
        zeros = {p.name: leaf(*tokens.shape, *p.shape) for p in asked.edited if judged is not None}
        stack.enter_context(model.edit(*edits, *(Add(name, zero) for name, zero in zeros.items())))
        seen = list(dict.fromkeys([*(place.name for place in asked.plain), *asked.outputs]))
        acts = stack.enter_context(model.capture(*dict.fromkeys([*asked.values, *seen]), gradients=True))
        logits = model(tokens, phase="prefill", last_only=True)[:, 0]
        gradients: dict[str, Tensor] = {}
        if judged is not None:
            leaves = {name: acts[name] for name in seen} | zeros
            # Rows of a batch do not meet, so the gradient of the sum is every row's own.
            outcome = judged(logits)(logits[-samples:]).sum()
            slopes = torch.autograd.grad(outcome, list(leaves.values()), allow_unused=True, materialize_grads=True)
            gradients = dict(zip(leaves, slopes, strict=True))  # zeros where nothing later is computed from it
    return _Pass(logits.detach(), {name: acts[name].detach() for name in asked.values}, gradients)
