"""Questions beside the same question with another fact, and what of the answer decides between the two.

A *contrast* replaces the answer, wherever the prompt states it, by that of another question with as many tokens; so
positions correspond, and the other answer (the foil) is what a model that reads the prompt should say now. Both are
judged at the first token in which answer and foil differ, after the tokens that they share:

    m = logit(answer) - logit(foil)                                   ("logit_diff")
    m = log p(answer)                                                 ("logprob")

These are the counterfactual inputs and the metric of the mechanistic-interpretability benchmark (Mueller et al., arXiv
2504.13151, section 3). A question whose prompt does not state its answer, or without a partner of equal length, has no
contrast, which is said and never replaced by another kind of corruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...models.decoding.prefill import pad
from ...runtime.plan import digest_of
from ..engine.batches import Item
from .arguments import is_list
from .evidence import occurrences

Judged = Literal["logit_diff", "logprob"]
NO_FACT = "the prompt does not state the answer"
NO_PARTNER = "no other question states another answer of as many tokens"


@dataclass(frozen=True)
class Contrast:
    """clean, corrupted: tokens of equal number, the prompt and what answer and foil share. answer, foil: the tokens
    that may follow. id, kind, distance: of the question."""

    id: str
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answer: int
    foil: int
    kind: str | None = None
    distance: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the arguments of a batch function."""
        return {name: list(v) if is_list(v) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Contrast:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {name: tuple(v) if is_list(v) else v for name, v in value.items()}
        return cls(**fields)


def contrasts(items: Sequence[Item], seed: int) -> dict[str, Contrast | str]:
    """Question id -> its contrast, or in words why it has none.

    The partner is drawn by a digest of the seed and both ids, among questions of the same kind where one fits.
    """
    return {item.id: _contrast(item, items, seed) for item in items}


def _contrast(item: Item, items: Sequence[Item], seed: int) -> Contrast | str:
    if item.fact is None:
        return NO_FACT
    stated = item.prompt[slice(*item.fact)]
    fitting: list[tuple[bool, str, Item, int]] = []
    for other in items:
        if other.fact is None or other.id == item.id:
            continue
        at = next((i for i, (a, b) in enumerate(zip(item.answer, other.answer, strict=False)) if a != b), None)
        told = other.prompt[slice(*other.fact)]
        if at is not None and len(told) == len(stated) and told != stated:
            fitting.append((other.kind != item.kind, digest_of([seed, item.id, other.id]), other, at))
    if not fitting:
        return NO_PARTNER
    _, _, other, at = min(fitting, key=lambda entry: entry[:2])
    assert other.fact is not None
    told, swapped = other.prompt[slice(*other.fact)], list(item.prompt)
    for start, stop in occurrences(item.prompt, stated):
        swapped[start:stop] = told
    shared = item.answer[:at]
    return Contrast(
        item.id, (*item.prompt, *shared), (*swapped, *shared), item.answer[at], other.answer[at], item.kind,
        item.distance,
    )  # fmt: skip


class Pairs(NamedTuple):
    """Contrasts as tensors: clean, corrupted and mask (B, T), padded on the right; answer, foil (B,)."""

    clean: Tensor
    corrupted: Tensor
    mask: Tensor
    answer: Tensor
    foil: Tensor

    @property
    def rows(self) -> int:
        return len(self.clean)

    def judge(self, logits: Tensor, kind: Judged, index: Tensor | None = None) -> Tensor:
        """m (R,), float64, of final logits (R, V) whose rows are of the pairs `index` (R,); None: one for each."""
        answer, foil = (self.answer, self.foil) if index is None else (self.answer[index], self.foil[index])
        said = logits.gather(1, answer[:, None])[:, 0]
        if kind == "logprob":
            return (said - torch.logsumexp(logits, -1)).double()
        return (said - logits.gather(1, foil[:, None])[:, 0]).double()

    def right(self, logits: Tensor, index: Tensor | None = None) -> Tensor:
        """Whether the answer's token is the most probable one (R,)."""
        return logits.argmax(-1) == (self.answer if index is None else self.answer[index])


def pairs_of(chosen: Sequence[Contrast], device: torch.device) -> Pairs:
    """Contrasts as tensors."""
    clean, mask = pad([contrast.clean for contrast in chosen])
    corrupted, _ = pad([contrast.corrupted for contrast in chosen])
    answer, foil = (torch.tensor([getattr(c, name) for c in chosen]) for name in ("answer", "foil"))
    return Pairs(*(x.to(device) for x in (clean, corrupted, mask, answer, foil)))
