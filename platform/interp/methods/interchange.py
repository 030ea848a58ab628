"""Interchange interventions: a subspace of a site in the run of one prompt takes its value from the run of another.

With R (k, D) of orthonormal rows, b the site's value at one token of the base prompt and s that of the source prompt,

    b -> b + (s - b) R^T R

and the rest of the base's run goes on from there (Geiger et al., arXiv 2106.02997 and 2303.02536). Where the output
becomes the answer that the causal model gives for the base with a variable of the source, the subspace holds what the
model uses of that variable at this place. R = 1 exchanges the whole site.

Nothing before the site's token depends on the exchange, nor does anything below its block: each base prompt is read
once, and every exchange reads what is left behind the state at that token, from that block on. At the last token this
is a single token, whatever the length of the prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import InputError
from ...models import Add
from ...models.decoding.prefill import pad
from ...models.entering import exchanges
from ..engine.places import Place
from .asked import evaluating
from .counterfactuals import Pair
from .typed_tensors import ints

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.state import ModelState

_ROWS = 64  # prompts that go through the model together where nothing is learned


class Region(NamedTuple):
    """Part of a site that is exchanged as one: channels start to stop of its first axis, with all their coordinates."""

    place: Place
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Whether it is the whole site."""
        return self.stop - self.start == self.place.channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its value at one token."""
        return (self.stop - self.start, *self.place.shape[1:])

    @property
    def size(self) -> int:
        """D: numbers in its value at one token."""
        return int(np.prod(self.shape))

    @property
    def label(self) -> str:
        """The name of the site, with its channels where these are not all."""
        return self.place.name + ("" if self.whole else f"[{self.start}:{self.stop}]")


def regions(place: Place, parts: int) -> list[Region]:
    """The site cut into `parts` runs of channels of about equal length (as many as it has channels, at most)."""
    cuts = np.linspace(0, place.channels, min(parts, place.channels) + 1).round().astype(int).tolist()
    return [Region(place, start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Pairs, ready for exchanges at one token of each.

    tokens, mask (n, S): each base prompt from that token on; state: after what precedes it, None where that is nothing.
    at (n,): the token's place in the base prompt. answers (n, 3): tokens, see `counterfactuals.Answers`.
    base, source: name of a site -> its values (n, channels, ...) there in either run. entering: block -> the residual
    stream (n, S, d) that enters it in the base run, where it can be entered by itself. groups: of the pairs.
    """

    tokens: Tensor
    mask: Tensor
    state: ModelState | None
    at: Tensor
    answers: Tensor
    base: Mapping[str, Tensor]
    source: Mapping[str, Tensor]
    entering: Mapping[int, Tensor]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def values(self, region: Region, of: str = "base") -> Tensor:
        """What the region holds at its token, (n, D), in the "base" or the "source" run."""
        values = (self.base if of == "base" else self.source)[region.place.name]
        return values[:, region.start : region.stop].flatten(1)

    def differences(self, region: Region) -> Tensor:
        """s - b (n, D)."""
        return self.values(region, "source") - self.values(region)


@torch.no_grad()
def prepare(model: LanguageModel, pairs: Sequence[Pair], position: str, places: Sequence[Place]) -> Exchange:
    """`pairs` ready for exchanges at `position` of any of `places`.

    Raises InputError where the model has values there that are not finite.
    """
    at = [pair.at[position] for pair in pairs]
    with evaluating(model):
        base, source = (
            _values(model, [getattr(p, of)[: t[i] + 1] for p, t in zip(pairs, at, strict=True)], places)
            for i, of in enumerate(("base", "source"))
        )
        for name in base:
            if not bool(torch.isfinite(base[name]).all() and torch.isfinite(source[name]).all()):
                raise InputError(f"model {model.name}: {name} holds values that are not finite")
        before = [p.base[:t] for p, (t, _) in zip(pairs, at, strict=True)]
        whole = min(map(len, before)) == 0
        state = None if whole else _state(model, before)
        tokens, mask = (
            t.to(model.device) for t in pad([p.base[0 if whole else t :] for p, (t, _) in zip(pairs, at, strict=True)])
        )
        entering = _entering(model, tokens, mask, state, sorted({place.layer for place in places}))
    here = model.device
    return Exchange(
        tokens, mask, state, torch.tensor([t for t, _ in at], device=here),
        torch.tensor([pair.answers for pair in pairs], device=here), base, source, entering,
        tuple(pair.group for pair in pairs),
    )  # fmt: skip


def _state(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> ModelState:
    tokens, mask = pad(prompts)
    _, state = model(tokens.to(model.device), mask.to(model.device), return_state=True, last_only=True)
    return state


def _entering(
    model: LanguageModel, tokens: Tensor, mask: Tensor, state: ModelState | None, layers: Sequence[int]
) -> dict[int, Tensor]:
    """The residual stream that enters each of these blocks; none where blocks cannot be entered by themselves."""
    if exchanges(model):
        return {}
    with model.capture(*(f"blocks.{layer}.resid_pre" for layer in layers)) as acts:
        model(tokens, mask, state=state, last_only=True)
    return {layer: acts[f"blocks.{layer}.resid_pre"] for layer in layers}


def _values(model: LanguageModel, prompts: Sequence[Sequence[int]], places: Sequence[Place]) -> dict[str, Tensor]:
    """What the sites hold at each prompt's last token, (n, channels, ...), in float32 or wider."""
    names = [place.name for place in places]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(prompts), _ROWS):
        tokens, mask = pad(prompts[start : start + _ROWS])
        with model.capture(*(f"{name}@-1" for name in names)) as acts:
            model(tokens.to(model.device), mask.to(model.device), last_only=True)
        for name in names:
            value = acts[f"{name}@-1"][:, 0]
            parts[name].append(value if value.dtype == torch.float64 else value.float())
    return {name: torch.cat(of) for name, of in parts.items()}


def interchanged(
    model: LanguageModel, exchange: Exchange, region: Region, change: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Logits (b, V) behind base prompts in which `change` (b, D) is added to the region at its token.

    rows (b,): which of the exchange's pairs these are; None: all. Differentiable with respect to `change`. The model is
    in evaluation mode (`frozen`).
    """
    rows = torch.arange(len(exchange), device=exchange.at.device) if rows is None else rows.to(exchange.at.device)
    at = exchange.at[rows]
    where = torch.zeros(len(rows), int(at.max()) + 1, dtype=torch.bool, device=at.device)
    where[torch.arange(len(rows), device=at.device), at] = True
    channels = None if region.whole else range(region.start, region.stop)
    edit = Add(region.place.name, change.view(len(rows), 1, *region.shape), where=where, channels=channels)
    state = None if exchange.state is None else exchange.state.rows(rows)
    layer = region.place.layer
    enter = (layer, exchange.entering[layer][rows]) if layer in exchange.entering else None
    with model.edit(edit):
        return model(exchange.tokens[rows], exchange.mask[rows], state=state, last_only=True, enter=enter)[:, 0]


class Outcome(NamedTuple):
    """target, base, source: whether each pair's output is that answer, (n,) of 0 and 1. loss (n,): -ln p(target)."""

    target: NDArray[np.float64]
    base: NDArray[np.float64]
    source: NDArray[np.float64]
    loss: NDArray[np.float64]


@torch.no_grad()
def outcome(model: LanguageModel, exchange: Exchange, region: Region, subspace: Tensor | None) -> Outcome:
    """What the model says after the exchange of `subspace`, orthonormal rows (k, D); None: of the whole region.

    Raises InputError where its scores are not finite.
    """
    change, parts = exchange.differences(region), list[Tensor]()
    if subspace is not None:
        rows = subspace.to(change)
        change = (change @ rows.T) @ rows
    with evaluating(model):
        for start in range(0, len(exchange), _ROWS):
            chosen = torch.arange(start, min(start + _ROWS, len(exchange)), device=change.device)
            parts.append(interchanged(model, exchange, region, change[chosen], chosen).double())
    scores = torch.cat(parts).log_softmax(-1)
    if not bool(torch.isfinite(scores).all()):
        raise InputError(f"model {model.name}: scores after an exchange at {region.label} are not finite")
    said = (scores.argmax(-1)[:, None] == exchange.answers).double().cpu().numpy()
    loss = -scores.gather(1, exchange.answers[:, :1])[:, 0].cpu().numpy()
    return Outcome(said[:, 0], said[:, 1], said[:, 2], loss)


@torch.no_grad()
def answered(model: LanguageModel, pairs: Sequence[Pair]) -> list[bool]:
    """Whether the model finds the right answer most probable in base, source and counterfactual prompt of each."""
    right = [True] * len(pairs)
    for i, of in enumerate(("counterfactual", "base", "source")):
        left = [j for j, good in enumerate(right) if good]  # the others are decided
        for start in range(0, len(left), _ROWS):
            part = left[start : start + _ROWS]
            tokens, mask = pad([getattr(pairs[j], of) for j in part])
            with evaluating(model):
                scores = model(tokens.to(model.device), mask.to(model.device), last_only=True)[:, 0]
            for j, said in zip(part, ints(scores.argmax(-1)), strict=True):
                right[j] = said == pairs[j].answers[i]
    return right


@contextmanager
def frozen(model: LanguageModel) -> Generator[None]:
    """The model in evaluation mode, and no gradient with respect to its weights is taken."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
