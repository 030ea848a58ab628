"""What a model of addition modulo p computes with: waves over the numbers, and losses with and without a few of them.

A network that adds by trigonometry holds cos(w_k a) and sin(w_k a), w_k = 2 pi k / p, of a few *key* frequencies k and
writes logits that are waves of a + b. Of logits L[a, b, c] the part of frequency k is the projection, for every c, on
cos(w_k (a + b)) and sin(w_k (a + b)) as functions of the pair (a, b).

- restricted loss: of logits of which only their mean over pairs and the parts of the key frequencies are left;
- excluded loss: of logits without the parts of the key frequencies, over the pairs that were trained on: what is left
  of the right answers is remembered.

Source: Nanda et al. 2023 (arXiv 2301.05217), sections 4 and 5. p is odd: frequencies are 1 to (p - 1) / 2. float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError


class Waves(NamedTuple):
    """Logits over (a, b) in waves of a + b. power (K,): variance of each frequency's part, summed over outputs, for
    frequencies 1 to K; total: that of the logits less their mean over pairs."""

    power: Tensor
    total: float


class ProgressLosses(NamedTuple):
    """Nats. train, held_out: of the logits as they are, over their pairs; restricted: over all pairs; excluded: over
    those trained on. None where there are no such pairs."""

    train: float | None
    held_out: float | None
    restricted: float
    excluded: float | None


def frequencies(p: int) -> range:
    """1 to (p - 1) / 2. Raises UsageError for a p that is even or below 3."""
    if p < 3 or p % 2 == 0:
        raise UsageError(f"waves over {p} numbers: their number must be odd and at least 3")
    return range(1, (p - 1) // 2 + 1)


def basis(p: int) -> Tensor:
    """Orthonormal rows (p, p), float64: the constant, then cosine and sine of each frequency."""
    angles: Tensor = 2 * math.pi * torch.arange(p, dtype=torch.float64) / p
    waves: list[Tensor] = [torch.full((p,), math.sqrt(1 / p), dtype=torch.float64)]
    for k in frequencies(p):
        waves += [math.sqrt(2 / p) * (k * angles).cos(), math.sqrt(2 / p) * (k * angles).sin()]
    return torch.stack(waves)


def frequency_norms(table: Tensor) -> Tensor:
    """Norm (K,) of the part of each frequency in a table (p, d) of what belongs to the numbers 0 to p - 1."""
    parts: Tensor = basis(len(table)).to(table.device) @ table.detach().double()
    return _squares(parts[1:]).sqrt()


def by_sum(logits: Tensor) -> Tensor:
    """Means (p, C) of logits (p, p, C) over the p pairs (a, b) of each sum a + b modulo p: all that waves of the sum
    see."""
    p = logits.shape[0]
    a = torch.arange(p, device=logits.device)
    return torch.stack([logits[a, (s - a) % p].double().mean(0) for s in range(p)])


def sum_waves(logits: Tensor) -> Waves:
    """How much of logits (p, p, C) is of which frequency of a + b."""
    p = _modulus(logits)
    centred = logits.double() - logits.double().mean((0, 1))
    parts: Tensor = basis(p).to(logits.device)[1:] @ by_sum(logits)
    return Waves(_squares(parts) / p, float(centred.square().mean((0, 1)).sum()))


def part_of(logits: Tensor, chosen: Sequence[int]) -> Tensor:
    """The parts (p, p, C) of the frequencies `chosen` in logits (p, p, C)."""
    p = _modulus(logits)
    _check(chosen, p)
    rows = [row for k in chosen for row in (2 * k - 1, 2 * k)]
    waves = basis(p).to(logits.device)[rows]
    of_sum = waves.T @ (waves @ by_sum(logits))  # (p, C)
    a = torch.arange(p, device=logits.device)
    return of_sum[(a[:, None] + a) % p]


def key_frequencies(power: Tensor, share: float) -> tuple[int, ...]:
    """The fewest frequencies that hold `share` of the power (K,) of all, ascending; none where there is no power."""
    total = float(power.sum())
    if not total > 0.0:
        return ()
    order = torch.argsort(power, descending=True, stable=True)
    enough = int((power[order].cumsum(0) < share * total).sum()) + 1
    return tuple(sorted(int(k) + 1 for k in order[:enough]))


def progress_losses(logits: Tensor, trained: Tensor, chosen: Sequence[int]) -> ProgressLosses:
    """Losses of the answer among the numbers, of logits (p, p, p) over (a, b, c).

    trained (p, p) bool: pairs that were trained on. chosen: the key frequencies. Raises UsageError for a frequency that
    there is not.
    """
    p = _modulus(logits)
    if logits.shape[2] != p or trained.shape != (p, p):
        raise UsageError(f"logits of shape {tuple(logits.shape)} and pairs of shape {tuple(trained.shape)}: they must "
                         f"be those of {p} numbers")  # fmt: skip
    whole, part = logits.double(), part_of(logits, chosen)
    restricted = answer_losses(whole.mean((0, 1)) + part)
    plain, excluded = answer_losses(whole), answer_losses(whole - part)
    return ProgressLosses(
        _mean(plain[trained]), _mean(plain[~trained]), float(restricted.mean()), _mean(excluded[trained])
    )


def answer_losses(logits: Tensor) -> Tensor:
    """Nats (p, p) of the answer a + b among the outputs of logits (p, p, p)."""
    a = torch.arange(len(logits), device=logits.device)
    answers = ((a[:, None] + a) % len(logits))[..., None]
    return logits.logsumexp(-1) - logits.gather(-1, answers)[..., 0]


def _squares(parts: Tensor) -> Tensor:
    """Sum of squares (K,) of the cosine's and the sine's row of each frequency in parts (2 K, n)."""
    squares: Tensor = parts.square().sum(1)
    return squares.reshape(-1, 2).sum(1)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _modulus(logits: Tensor) -> int:
    if logits.ndim != 3 or logits.shape[0] != logits.shape[1]:
        raise UsageError(f"logits over pairs of numbers have shape (p, p, outputs), not {tuple(logits.shape)}")
    frequencies(len(logits))
    return len(logits)


def _check(chosen: Sequence[int], p: int) -> None:
    wrong = next((k for k in chosen if k not in frequencies(p)), None)
    if wrong is not None or len(set(chosen)) < len(chosen):
        raise UsageError(f"frequencies {list(chosen)}: name each once, of 1 to {(p - 1) // 2}")
