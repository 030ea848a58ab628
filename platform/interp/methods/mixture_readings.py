"""What the parts of a mixture do in one text: gates, timescales and attention, numbers of tensors (T, ...) alone.

A sum z = sum_k z_k is divided into shares share_k = <z_k, z> / <z, z> over all tokens and channels. They add up to 1;
one is negative where a part is taken back by the others. The openings of two gates, channel by channel, go together by
Pearson's correlation over tokens, and by their mutual information in `BINS` classes that a normal distribution fills
equally, channels pooled after each has mean 0 and variance 1. What chance alone gives stands beside it: the same with
the tokens of one gate moved on by half the text, which leaves each gate what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from .typed_tensors import eigen

BINS = 8
#: an opening whose standard deviation over tokens is below this stands still: float32 knows no smaller change
STILL = 1e-5
#: share of the variance that `components` of a state hold
HELD = 0.9


def shares(parts: Sequence[Tensor]) -> list[float | None]:
    """The share of each of the parts (T, C) in their sum; None of all where that is zero."""
    total = torch.stack([part.double() for part in parts]).sum(0)
    power = float((total * total).sum())
    return [float((part.double() * total).sum()) / power if power > 0 else None for part in parts]


def ratio_of_sizes(part: Tensor, whole: Tensor) -> float | None:
    """Root mean square of `part` over that of `whole`; None where that is zero."""
    size = float(whole.double().square().mean())
    return (float(part.double().square().mean()) / size) ** 0.5 if size > 0 else None


def openings(output: Tensor, u: Tensor) -> Tensor:
    """What a gate lets through, output / u (T, C) in float64; NaN where u is zero."""
    return torch.where(u == 0, torch.nan, output.double() / u.double())


class Redundancy(NamedTuple):
    """Of two gates over the tokens of one text. correlation: mean over channels; mutual_information: nats; by_chance:
    the same with one gate's tokens moved. None of all where no channel of both moves."""

    correlation: float | None
    mutual_information: float | None
    by_chance: float | None


def redundancy(a: Tensor, b: Tensor) -> Redundancy:
    """Of openings (T, C) of two gates. Channels where one stands still or is not known at every token are left out."""
    moving = torch.ones(a.shape[1], dtype=torch.bool, device=a.device)
    for opening in (a, b):
        moving &= torch.isfinite(opening).all(0) & (opening.std(0, correction=0) > STILL)
    if not bool(moving.any()):
        return Redundancy(None, None, None)
    one, two = (_standardised(opening[:, moving]) for opening in (a, b))
    moved = two.roll(len(two) // 2, 0)
    return Redundancy(float((one * two).mean()), _information(one, two), _information(one, moved))


def _standardised(opening: Tensor) -> Tensor:
    return (opening - opening.mean(0)) / opening.std(0, correction=0)


def _information(a: Tensor, b: Tensor) -> float:
    """Of the classes of two standardised openings, in nats: sum p(a, b) log(p(a, b) / p(a) p(b))."""
    edges = torch.tensor([NormalDist().inv_cdf(i / BINS) for i in range(1, BINS)], dtype=a.dtype, device=a.device)
    one, two = (torch.bucketize(values.flatten(), edges) for values in (a, b))
    joint = torch.bincount(one * BINS + two, minlength=BINS**2).view(BINS, BINS).double() / len(one)
    apart = joint.sum(1, keepdim=True) * joint.sum(0)
    return max(0.0, float(torch.where(joint > 0, joint * (joint / apart).log(), 0.0).sum()))


class Held(NamedTuple):
    """How few directions hold the variance of a state. first: share of the largest; components: how many hold `HELD`;
    participation: (sum lambda)^2 / sum lambda^2; coordinates: N, which none of these exceeds."""

    first: float
    components: int
    participation: float
    coordinates: int


def held(states: Tensor) -> Held | None:
    """Of states (P, E, N) at P tokens, in the space of the N coordinates that all channels share: what they have in
    common over the tokens is taken off each channel. None for fewer than two tokens, and where nothing varies."""
    if len(states) < 2:
        return None
    centred = (states.double() - states.double().mean(0)).flatten(0, 1)
    covariance = centred.T @ centred / len(centred)
    values = eigen(covariance)[0].clamp(min=0).flip(0)
    total = values.sum()
    if float(total) == 0:
        return None
    portion = values.cumsum(0) / total
    return Held(
        float(portion[0]), int((portion < HELD - 1e-12).sum()) + 1, float(total**2 / (values**2).sum()), len(values)
    )


class Decays(NamedTuple):
    """Of heads' decays over the tokens of one text. mean: over tokens and heads; varies: standard deviation over
    tokens, mean over heads; fastest, slowest: mean over tokens of the head that forgets most, and least."""

    mean: float
    varies: float
    fastest: float
    slowest: float


def decays(delta: Tensor) -> Decays:
    """Of step sizes (T, H): the decay is exp(-delta)."""
    decay = torch.exp(-delta.double())
    heads = decay.mean(0)
    spread = decay.std(0, correction=0).mean()
    return Decays(float(decay.mean()), float(spread), float(heads.min()), float(heads.max()))
