"""What one forward and backward pass over the development questions tells of every channel of several sites.

    x[t, c]   the site's value at token t          g[t, c] = d log p(answer) / d x[t, c]

For each question: the sums over its tokens of x g, of g, of x^2 and of g^2; over all tokens: mean and variance of x.
From these all detectors are computed, so that a dozen of them cost what one does. Everything is summed in float64.

It sees the model at one point: the derivative at the activations as they are. What a large change does is for the
search to try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ...core.errors import InputError, UsageError
from ...models import Edit
from ..answered import Batch, score_batch

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.run import Run


@dataclass(frozen=True)
class Observed:
    """Of n questions and one site with C channels; all float64.

    attribution (n, C): sum over tokens of x g, nats; also the derivative of log p(answer) by a common factor on the
    channel, at factor 1. slope (n, C): sum of g. energy (n, C): sum of x^2. sensitivity (n, C): sum of g^2. mean,
    variance (C,): of x over all tokens.
    """

    site: str
    attribution: Tensor
    slope: Tensor
    energy: Tensor
    sensitivity: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def channels(self) -> int:
        """Channels of the site."""
        return self.attribution.shape[1]


@dataclass(frozen=True, eq=False)
class Tap(Edit):
    """Keeps the site's tensor, which it makes a node of the graph of derivatives; every bit stays as it was."""

    kind: ClassVar[str] = "tap"
    one: Tensor
    seen: list[tuple[Tensor, Tensor]]

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        y = x * self.one.to(x.dtype)
        real = torch.arange(x.shape[1], device=x.device)[None, :] < run.lengths[:, None]
        self.seen.append((y, real))
        return y, True


def channels_of(model: LanguageModel, site: str) -> int | None:
    """Channels of a site (full name) with one value per token and channel; None where the model has no such site."""
    for known in model.sites():
        if known.name == site and not known.constant and len(known.shape) == 3 and isinstance(known.channels, int):
            return known.channels
    return None


@torch.enable_grad()
def observe(model: LanguageModel, asked: Sequence[Batch], sites: Sequence[str]) -> dict[str, Observed]:
    """What the questions in `asked` say of `sites` (full names); costs a forward and a backward pass.

    Edits in force count as part of the model. Questions whose scores or derivatives are not finite are left out.
    Raises UsageError for a site that has not one value per token and channel, InputError where no question is left.
    """
    wrong = [site for site in sites if channels_of(model, site) is None]
    if wrong or not sites:
        raise UsageError(f"{wrong[0] if wrong else 'no site'} has one value per token and channel in {model.name}")
    sums: dict[str, list[Tensor]] = {site: [] for site in sites}
    for batch in asked:
        taps = {s: Tap(s, torch.ones(1, device=model.device, requires_grad=True), []) for s in sites}
        scored = score_batch(model, batch, list(taps.values()))
        values = [taps[s].seen[0][0] for s in sites]
        gradients = torch.autograd.grad(scored.logprob.sum(), values)
        for site, x, g in zip(sites, values, gradients, strict=True):
            parts = sums_of(x, g, taps[site].seen[0][1])
            sums[site].append(parts[scored.finite & torch.isfinite(parts).flatten(1).all(1)].cpu())
    return {site: observed(site, torch.cat(parts)) for site, parts in sums.items()}


def sums_of(x: Tensor, g: Tensor, real: Tensor) -> Tensor:
    """(n, 6, C): sums over the real tokens (n, T) of x g, g, x^2, g^2, x and 1, of n questions; x, g (n, T, C)."""
    x, g = (v.detach().double().masked_fill(~real[..., None], 0.0) for v in (x, g))
    count = real.sum(1)[:, None].expand(-1, x.shape[2])
    return torch.stack([(x * g).sum(1), g.sum(1), (x * x).sum(1), (g * g).sum(1), x.sum(1), count], 1)


def observed(site: str, sums: Tensor) -> Observed:
    """What the sums (n, 6, C) of n questions say together. Raises InputError without a question."""
    if len(sums) == 0:
        raise InputError(f"at {site} no development question has finite scores and derivatives; take float64")
    attribution, slope, energy, sensitivity, total, count = sums.unbind(1)
    mean = total.sum(0) / count.sum(0)
    variance = (energy.sum(0) / count.sum(0) - mean**2).clamp(min=0)
    return Observed(site, attribution, slope, energy, sensitivity, mean, variance)
