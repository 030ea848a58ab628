"""Waves of a + b: a model built of exact trigonometry is all rule, random weights are none, and the numbers are those
of the two-dimensional transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mplat.core.errors import UsageError
from mplat.interp.methods.fourier import (
    answer_losses,
    basis,
    frequency_norms,
    key_frequencies,
    part_of,
    progress_losses,
    sum_waves,
)
from mplat.interp.methods.sparsity_measures import gini
from torch import Tensor

P = 31
KEYS = (2, 7, 11)


def angles(p: int = P) -> Tensor:
    return 2 * math.pi * torch.arange(p, dtype=torch.float64) / p


def planted_embedding(keys: tuple[int, ...] = KEYS, p: int = P) -> Tensor:
    """Cosine and sine of the number at each key frequency, turned into other directions of the stream: (p, 16)."""
    waves = torch.stack([f(k * angles(p)) for k in keys for f in (torch.cos, torch.sin)], dim=1)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    return waves @ turn[: waves.shape[1]]


def planted_logits(keys: tuple[int, ...] = KEYS, p: int = P, scale: float = 4.0) -> Tensor:
    """scale * sum over keys of cos(w_k (a + b - c)): what such a model's unembedding reads off."""
    a = torch.arange(p)
    of = a[:, None, None] + a[None, :, None] - a[None, None, :]
    return scale * torch.stack([torch.cos(2 * math.pi * k * of.double() / p) for k in keys]).sum(0)


def sides(p: int = P) -> Tensor:
    return torch.rand(p, p, generator=torch.Generator().manual_seed(1)) < 0.3


def test_the_basis_is_orthonormal() -> None:
    assert torch.allclose(basis(P) @ basis(P).T, torch.eye(P, dtype=torch.float64), atol=1e-12)


def test_a_model_of_exact_waves_is_all_rule() -> None:
    logits = planted_logits()
    waves = sum_waves(logits)
    assert key_frequencies(waves.power, 0.95) == KEYS
    assert float(waves.power.sum()) == pytest.approx(waves.total, rel=1e-12)
    losses = progress_losses(logits, sides(), KEYS)
    assert losses.restricted == pytest.approx(float(answer_losses(logits).mean()), abs=1e-9)
    assert losses.excluded == pytest.approx(math.log(P), abs=1e-9)
    assert losses.train == pytest.approx(losses.held_out, abs=1e-9) and losses.train < 0.2


def test_a_memory_is_no_rule() -> None:
    """What is right only where it was trained on is gone in the restricted loss and stays in the excluded one."""
    trained = sides()
    a = torch.arange(P)
    logits = torch.zeros(P, P, P, dtype=torch.float64)
    logits[a[:, None], a, (a[:, None] + a) % P] = 12.0 * trained.double()
    losses = progress_losses(logits, trained, KEYS)
    assert losses.train < 0.01 and losses.held_out == pytest.approx(math.log(P))
    assert losses.restricted > 2.5 and losses.excluded < 0.01  # the mean over pairs of a sum still hints at the answer


def test_rule_and_memory_together_are_told_apart() -> None:
    """Only the key frequencies carry the rule: without as many others the loss stays."""
    noise = torch.randn(P, P, P, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits = planted_logits() + 0.1 * noise
    assert key_frequencies(sum_waves(logits).power, 0.95) == KEYS
    losses, control = progress_losses(logits, sides(), KEYS), progress_losses(logits, sides(), (1, 3, 5))
    assert losses.excluded > 3.4 and control.excluded == pytest.approx(control.train, abs=0.01)
    assert control.restricted > 3.4


def test_embeddings_of_few_frequencies_are_sparse_and_random_ones_are_not() -> None:
    norms = frequency_norms(planted_embedding())
    assert [k + 1 for k in torch.nonzero(norms > 1e-9)[:, 0].tolist()] == list(KEYS)
    assert torch.allclose(norms[[k - 1 for k in KEYS]], torch.full((3,), math.sqrt(P), dtype=torch.float64))
    assert gini(norms) == pytest.approx(1 - len(KEYS) / len(norms))
    assert gini(frequency_norms(planted_embedding((5,), 113))) > 0.98
    drawn = torch.randn(P, 64, generator=torch.Generator().manual_seed(3))
    assert gini(frequency_norms(drawn)) < 0.1
    assert gini(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.25) and math.isnan(gini(torch.zeros(4)))


def test_parts_are_those_of_the_two_dimensional_transform() -> None:
    """A wave of a + b of frequency k is what stands at (k, k) and (-k, -k) of the transform over a and b."""
    logits = torch.randn(P, P, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = np.fft.fft2(logits.numpy(), axes=(0, 1))
    kept = np.zeros_like(found)
    for k in KEYS:
        kept[k, k], kept[-k, -k] = found[k, k], found[-k, -k]
    assert np.allclose(part_of(logits, KEYS).numpy(), np.fft.ifft2(kept, axes=(0, 1)).real, atol=1e-12)
    power = [sum(np.abs(found[s * k, s * k]) ** 2 for s in (1, -1)).sum() / P**4 for k in KEYS]
    assert np.allclose(sum_waves(logits).power[[k - 1 for k in KEYS]].numpy(), power, atol=1e-12)


def test_waves_of_a_difference_are_no_waves_of_the_sum() -> None:
    a = torch.arange(P)
    of = (a[:, None] - a)[..., None] - a
    assert float(sum_waves(torch.cos(2 * math.pi * 3 * of.double() / P)).power.max()) < 1e-12


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: basis(10), "must be odd"),
        (lambda: part_of(torch.zeros(5, 5, 5), (3,)), "of 1 to 2"),
        (lambda: part_of(torch.zeros(5, 5, 5), (1, 1)), "each once"),
        (lambda: sum_waves(torch.zeros(5, 7, 5)), r"\(p, p, outputs\)"),
        (lambda: progress_losses(torch.zeros(5, 5, 6), torch.ones(5, 5) > 0, (1,)), "5 numbers"),
    ],
)
def test_what_is_no_addition_is_refused(call, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()
