"""Dictionary learning without an encoder: scikit-learn's MiniBatchDictionaryLearning, measured as an autoencoder is.

Codes are found for each activation by itself (orthogonal matching pursuit with a given number of atoms), so nothing
stands between what the atoms could explain and what is explained: an encoder can at best come near. Codes may have
either sign, and an atom is its direction and the opposite at once. scikit-learn; seeded, one thread.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .sae.examples import Examples
from .sae.training import inputs_of
from .typed_tensors import pieces, tensor_of, triangular_solved, unit_rows

_DEPENDENT = 1e-9  # an atom with less than this outside of the span of those chosen adds nothing
_BASES_AT_ONCE = 2**22


class Learned(NamedTuple):
    """atoms (F, C) of unit norm, for activations less `mean` (C,); iterations: of minibatches."""

    atoms: Tensor
    mean: Tensor
    iterations: int


def learn_dictionary(
    examples: Examples, n_atoms: int, *, penalty: float, rounds: int, batch_size: int, seed: int
) -> Learned:
    """Atoms for the sparse codes of `examples`; penalty: weight of |code| beside the squared error, where inputs have a
    mean square of 1 a channel, in units of sqrt(C). Raises InputError for examples that are all equal."""
    from sklearn.decomposition import MiniBatchDictionaryLearning  # here, because importing it takes a second
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    mean, scale = inputs_of(examples)
    x = ((examples(torch.arange(len(examples))) - mean) * scale).double().numpy()
    width = x.shape[1]
    learner = MiniBatchDictionaryLearning(
        n_atoms, alpha=penalty * width**0.5, max_iter=rounds, batch_size=min(batch_size, len(x)), fit_algorithm="cd",
        random_state=seed % 2**32, shuffle=True, tol=0.0, max_no_improvement=None,
    )  # fmt: skip
    with threadpool_limits(1), warnings.catch_warnings():  # threads would add up in another order: other last bits
        # codes of a minibatch that stop a little early: the next one corrects what the atoms owe to them
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(x)
    atoms = tensor_of(np.asarray(learner.components_, np.float64))
    return Learned(unit_rows(atoms).float(), mean, int(learner.n_steps_))


class Pursued(NamedTuple):
    """codes (n, F), at most k of a row not 0, and what they leave of x, (n, C); float64."""

    codes: Tensor
    left: Tensor


def pursuit(x: Tensor, atoms: Tensor, k: int) -> Pursued:
    """Orthogonal matching pursuit of x (n, C) with k atoms (F, C) each (Pati et al. 1993): the atom most like what is
    left, then all chosen ones fitted together, which is done by keeping an orthonormal basis of them."""
    x, atoms = x.double(), atoms.double()
    k = min(k, *atoms.shape)
    n, width = x.shape
    basis = torch.zeros(n, k, width, dtype=torch.float64)
    triangle = torch.eye(k, dtype=torch.float64).repeat(n, 1, 1)  # chosen atoms = triangle^T basis
    chosen = torch.zeros(n, k, dtype=torch.long)
    used = torch.zeros(n, len(atoms), dtype=torch.bool)
    left = x.clone()
    for step in range(k):
        chosen[:, step] = (left @ atoms.T).abs().masked_fill(used, -1.0).argmax(1)
        used.scatter_(1, chosen[:, step : step + 1], True)
        atom, before = atoms[chosen[:, step]], basis[:, :step]
        new, shares = atom, torch.zeros(n, step, dtype=torch.float64)
        for _ in range(2):  # twice, because once leaves rounding of the size of what is taken away
            share = (before @ new[:, :, None])[:, :, 0]
            new, shares = new - (share[:, None] @ before)[:, 0], shares + share
        length = (new**2).sum(1).sqrt()
        independent = length > _DEPENDENT
        unit = torch.where(independent[:, None], new / length.clamp(min=_DEPENDENT)[:, None], 0.0)
        basis[:, step], triangle[:, :step, step] = unit, shares
        triangle[:, step, step] = torch.where(independent, length, 1.0)
        left = left - unit * (unit * left).sum(1, keepdim=True)
    along = (basis @ x[:, :, None])[:, :, 0]
    found = triangular_solved(triangle, along)
    return Pursued(torch.zeros(n, len(atoms), dtype=torch.float64).scatter(1, chosen, found), left)


def explained(x: Tensor, mean: Tensor, atoms: Tensor, k: int) -> float:
    """Explained variance of x (n, C) with k atoms a token, as `sae.measures` defines it."""
    x = x.double()
    at_once = max(1, _BASES_AT_ONCE // (min(k, *atoms.shape) * x.shape[1]))
    error = sum(float((pursuit(part - mean.double(), atoms, k).left ** 2).sum()) for part in pieces(x, at_once))
    return 1 - error / float(((x - x.mean(0)) ** 2).sum())
