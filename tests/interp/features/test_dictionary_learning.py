"""Dictionary learning finds planted atoms, and pursuit is orthogonal matching pursuit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mplat.core.errors import InputError
from mplat.interp.methods.dictionary_learning import explained, learn_dictionary, pursuit
from mplat.interp.methods.sae.examples import Held
from mplat.interp.methods.sae.measures import mean_max_cosine
from mplat.interp.methods.superposition import random_directions
from planted_features import planted_features

PLANTED = planted_features(3000)


@pytest.mark.slow
def test_planted_atoms_are_found_and_explain_more_than_random_ones() -> None:
    learned = learn_dictionary(Held(PLANTED.x), 24, penalty=0.3, rounds=5, batch_size=256, seed=0)
    assert mean_max_cosine(PLANTED.directions, learned.atoms, signed=False) > 0.93
    torch.testing.assert_close(learned.atoms.norm(dim=1), torch.ones(24), rtol=0, atol=1e-5)
    random = random_directions(24, 16, seed=0)
    assert mean_max_cosine(PLANTED.directions, random, signed=False) < 0.75
    assert explained(PLANTED.x, learned.mean, learned.atoms, 3) > explained(PLANTED.x, learned.mean, random, 3) + 0.2
    again = learn_dictionary(Held(PLANTED.x), 24, penalty=0.3, rounds=5, batch_size=256, seed=0)
    assert torch.equal(again.atoms, learned.atoms)


def test_pursuit_chooses_and_fits_as_scikit_learn_does() -> None:
    from sklearn.linear_model import orthogonal_mp

    x, atoms = PLANTED.x[:40].double(), PLANTED.directions.double()
    for k in (1, 3, 5):
        wanted = orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=k).reshape(24, 40).T
        found = pursuit(x, atoms, k).codes.numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert (np.abs(found) > 1e-7).sum(1).max() <= k
        left = pursuit(x, atoms, k).left.numpy()
        np.testing.assert_allclose(left, x.numpy() - found @ atoms.numpy(), atol=1e-9)
    assert explained(x, torch.zeros(16), torch.eye(16), 16) == pytest.approx(1.0, abs=1e-8)


def test_planted_codes_are_read_back_and_repeated_atoms_do_no_harm() -> None:
    codes = PLANTED.codes[:50, :16].double()
    turned = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    found = pursuit(codes @ turned, turned, 16)
    np.testing.assert_allclose(found.codes.numpy(), codes.numpy(), atol=1e-9)
    twice = pursuit(codes @ turned, torch.cat([turned, turned]), 16)
    assert bool(twice.codes.isfinite().all()) and float(twice.left.abs().max()) < 1e-9


def test_equal_activations_have_no_dictionary() -> None:
    with pytest.raises(InputError, match="all the same"):
        learn_dictionary(Held(torch.ones(10, 3)), 2, penalty=0.1, rounds=1, batch_size=4, seed=0)
