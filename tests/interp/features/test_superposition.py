"""Geometry of superposition: exact for the shapes of the literature, bounded as Welch says, and right for spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mplat.interp.methods.sae.examples import Held, moments
from mplat.interp.methods.superposition import (
    coherence,
    dimensionality,
    gaussian_like,
    geometry,
    random_directions,
    spectrum,
    spectrum_of_covariance,
    welch_bound,
)


def regular(n: int) -> torch.Tensor:
    angles = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_pentagon_antipodal_pairs_and_orthogonal_vectors_have_their_dimensionality() -> None:
    assert dimensionality(regular(5)).tolist() == pytest.approx([2 / 5] * 5, abs=1e-6)
    pairs = torch.cat([torch.eye(3), -torch.eye(3)])
    assert dimensionality(pairs).tolist() == pytest.approx([1 / 2] * 6, abs=1e-6)
    assert dimensionality(torch.eye(4)).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    tetrahedron = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert dimensionality(tetrahedron).tolist() == pytest.approx([3 / 4] * 4, abs=1e-6)
    both = torch.block_diag(regular(5), torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    assert dimensionality(both).tolist() == pytest.approx([0.4] * 5 + [0.5] * 2, abs=1e-6)
    with_nothing = torch.cat([regular(5), torch.zeros(1, 2)])
    assert math.isnan(dimensionality(with_nothing)[5]) and dimensionality(with_nothing)[0] == pytest.approx(0.4)
    assert float(dimensionality(regular(5) + 0.1)[0]) != pytest.approx(0.4, abs=1e-3)


def test_dimensionality_is_its_formula() -> None:
    w = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double().numpy()
    wanted = [
        (w[i] @ w[i]) / sum(((w[i] / np.linalg.norm(w[i])) @ w[j]) ** 2 for j in range(9)) for i in range(9)
    ]  # fmt: skip
    assert dimensionality(torch.from_numpy(w)).tolist() == pytest.approx(wanted, rel=1e-10)


def test_coherence_meets_the_welch_bound_where_vectors_are_spread_best() -> None:
    triangle = geometry(regular(3))
    assert triangle.coherence == pytest.approx(0.5) and triangle.welch_bound == pytest.approx(0.5)
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert coherence(tetrahedron) == pytest.approx(welch_bound(4, 3)) == pytest.approx(1 / 3)
    random = random_directions(40, 8, seed=0)
    assert coherence(random) > welch_bound(40, 8) > 0 == welch_bound(8, 8)
    wanted = max(abs(float(random[i] @ random[j])) for i in range(40) for j in range(i))
    assert coherence(random) == pytest.approx(wanted, rel=1e-12)
    assert coherence(torch.zeros(3, 2)) is None and geometry(torch.zeros(3, 2)).spectrum is None


def test_ranks_of_known_spectra() -> None:
    flat = spectrum(torch.ones(6))
    assert flat is not None and tuple(flat) == pytest.approx((6, 6, 6))
    one = spectrum(torch.tensor([3.0, 0, 0]))
    assert one is not None and tuple(one) == pytest.approx((1, 1, 1))
    two = spectrum(torch.tensor([2.0, 1.0]))
    share = np.array([2, 1]) / 3
    assert two is not None
    assert tuple(two) == pytest.approx((25 / 17, math.exp(-(share * np.log(share)).sum()), 5 / 4))
    found = geometry(torch.diag(torch.tensor([2.0, 1.0])))
    assert found.spectrum == pytest.approx(two) and found.frobenius_squared == 5
    assert found.dimensions_per_feature == pytest.approx(2 / 5)


def test_spectra_of_activations_are_those_of_the_centred_matrix() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 7) + 4
    _, covariance = moments(Held(x))
    centred = geometry(x.float() - x.float().mean(0), angles=False)
    assert tuple(spectrum_of_covariance(covariance)) == pytest.approx(tuple(centred.spectrum), rel=1e-4)
    assert centred.coherence is None


def test_random_matrices_have_the_shape_and_lengths_and_follow_from_their_seed() -> None:
    w = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)[:, None]
    random = gaussian_like(w, 3)
    torch.testing.assert_close(random.norm(dim=1), w.double().norm(dim=1))
    assert torch.equal(random, gaussian_like(w, 3)) and not torch.equal(random, gaussian_like(w, 4))
