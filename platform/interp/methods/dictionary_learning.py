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
    atoms = torch.from_numpy(np.asarray(learner.components_, np.float64))
    norms = (atoms**2).sum(1, keepdim=True).sqrt()
    return Learned((atoms / norms.clamp(min=1e-12)).float(), mean, int(learner.n_steps_))


def pursuit(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Codes (n, F) of x (n, C) by orthogonal matching pursuit with k atoms (F, C) each (Pati et al. 1993), float64:
    the atom most like what is left, then all chosen ones fitted together."""
    x, atoms = x.double(), atoms.double()
    n, k = len(x), min(k, *atoms.shape)
    gram, products = atoms @ atoms.T, x @ atoms.T
    chosen = torch.zeros(n, 0, dtype=torch.long)
    codes = torch.zeros(n, len(atoms), dtype=torch.float64)
    left = products
    for _ in range(k):
        likeness = left.abs().scatter(1, chosen, -1.0)
        chosen = torch.cat([chosen, likeness.argmax(1, keepdim=True)], 1)
        size = chosen.shape[1]
        among = gram[chosen[:, :, None], chosen[:, None, :]] + 1e-10 * torch.eye(size, dtype=torch.float64)
        fitted = torch.linalg.solve(among, products.gather(1, chosen)[..., None])[..., 0]
        codes = torch.zeros_like(codes).scatter(1, chosen, fitted)
        left = products - codes @ gram
    return codes


def explained(x: Tensor, mean: Tensor, atoms: Tensor, k: int, chunk: int = 1024) -> float:
    """Explained variance of x (n, C) with k atoms a token, as `sae.measures` defines it."""
    x = x.double()
    error = 0.0
    for part in x.split(chunk):
        centred = part - mean.double()
        error += float(((centred - pursuit(centred, atoms, k) @ atoms.double()) ** 2).sum())
    return 1 - error / float(((x - x.mean(0)) ** 2).sum())
