"""How fast recurrent channels forget on given texts, and the parts of a recipe that change those in a range.

    half-life = ln 2 / (Delta |A|)   tokens

Delta is chosen by the token: its mean over all tokens of the texts is taken, since what is left after k tokens is
exp(-|A| times the sum of their Deltas). A channel (Mamba-2: a head) has N coordinates that forget at rates of their
own but share Delta, and it is steered as a whole: its half-life here is that of its slowest coordinate, which says how
long it remembers anything. Modes of a modal filter (StripedHyena) have poles instead, the same on every text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError
from .part import Part

if TYPE_CHECKING:
    from ..models import LanguageModel

OPERATOR = "scale_time_constants"
_TEXTS_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class HalfLives:
    """Of one recurrence. site: what sets them, after `blocks.{layer}.`, such as `mixer.delta`. tokens (U, N), float64:
    of the coordinates of its U channels or heads; N is 1 where all decay alike, and the number of a filter's modes."""

    layer: int
    site: str
    tokens: Tensor

    @property
    def modal(self) -> bool:
        """Whether they belong to the model alone, not to texts."""
        return self.site.endswith("poles")

    @property
    def slowest(self) -> Tensor:
        """Half-life (U,) of each channel's slowest coordinate."""
        return self.tokens.amax(1)


@torch.no_grad()
def half_lives(model: LanguageModel, texts: Sequence[str]) -> list[HalfLives]:
    """The half-lives of every recurrence of `model` on `texts`, layer by layer.

    Raises UsageError where the model has no recurrence, InputError where it has no tokenizer or a text has no token.
    """
    places = [
        (layer, f"mixer.{of.within}" + ("poles" if of.delta is None else of.delta), of.A.real.abs().cpu())
        for layer in range(model.n_layers)
        for of in model.blocks[layer].recurrences(torch.float64)
    ]
    if not places:
        raise UsageError(f"{model.name} has no recurrence, so nothing in it has a half-life")
    chosen = [f"blocks.{layer}.{site}" for layer, site, _ in places if not site.endswith("poles")]
    means = _mean_deltas(model, texts, chosen) if chosen else {}
    return [
        HalfLives(layer, site, math.log(2.0) / (rate * means[f"blocks.{layer}.{site}"][:, None]))
        if f"blocks.{layer}.{site}" in means
        else HalfLives(layer, site, math.log(2.0) / rate)
        for layer, site, rate in places
    ]


def time_constant_parts(
    measured: Sequence[HalfLives],
    low: float,
    high: float,
    factor: float,
    write: Literal["follows", "stays"] = "follows",
) -> list[Part]:
    """Parts that multiply by `factor` the half-lives of the channels and modes that have low to high tokens now.

    write: "follows" where Delta is scaled, which sets the write as well; "stays" where the decay rates A are scaled
    instead, the same for all tokens. Raises InputError where nothing lies in the range, with what there is; UsageError
    for a range that is none.
    """
    if not 0 <= low <= high:
        raise UsageError(f"half-lives of {low:g} to {high:g} tokens are no range")
    parts: list[Part] = []
    for found in measured:
        lives = found.tokens if found.modal else found.slowest
        inside = (lives >= low) & (lives <= high)
        if not bool(inside.any()):
            continue
        if found.modal:
            band = {"low": low} | ({"high": high} if math.isfinite(high) else {})
            parts.append(Part(OPERATOR, found.site, (found.layer,), factor, options=band))
            continue
        channels = tuple(int(i) for i in inside.nonzero()[:, 0])
        site = found.site if write == "follows" else found.site.removesuffix("delta") + "A"
        parts.append(Part(OPERATOR, site, (found.layer,), factor, channels=channels))
    if not parts:
        every = torch.cat([(f.tokens if f.modal else f.slowest).flatten() for f in measured])
        raise InputError(
            f"nothing has a half-life of {low:g} to {high:g} tokens; those measured lie between "
            f"{float(every.min()):.3g} and {float(every.max()):.3g}"
        )
    return parts


def _mean_deltas(model: LanguageModel, texts: Sequence[str], sites: Sequence[str]) -> dict[str, Tensor]:
    """Mean Delta (U,) of each site over all tokens of the texts, each text read from its beginning."""
    from ..models.decoding.text import encode_text

    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts; name one with --tokenizer")
    rows = [encode_text(model.tokenizer, text).ids for text in texts]
    if not rows or not all(rows):
        raise InputError("half-lives are measured on texts of at least one token each")
    sums: dict[str, Tensor] = {}
    rows.sort(key=len)
    for start in range(0, len(rows), _TEXTS_TOGETHER):
        some = rows[start : start + _TEXTS_TOGETHER]
        tokens = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for i, row in enumerate(some):
            tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        with model.capture(*sites) as acts:
            model(tokens.to(model.device), mask=mask.to(model.device))
        for site in sites:
            here = acts[site].double().cpu()[mask].sum(0)
            sums[site] = sums[site] + here if site in sums else here
    n_tokens = sum(map(len, rows))
    return {site: total / n_tokens for site, total in sums.items()}
