"""Absorption and splitting of a class of tokens, as SAEBench defines them (Karvonen et al. 2025, arXiv 2503.09532; the
measure is Chanin et al.'s, arXiv 2409.14507), for classes of `token_classes` instead of first letters.

A linear probe on the activations is taken as the truth: its unit direction p, and the class's tokens that it finds.
- Splitting: k-sparse probes on the latents; as long as one more latent raises F1 by more than 0.03 it is another of the
  class's *main* latents. Their number is the splitting: 1, no split.
- Full absorption: share of these tokens at which no main latent is active, while the latent that writes most along p
  has a cosine of at least 0.025 with it and writes at least 0.4 of the activation's own projection.
- Absorption fraction: with m what the main latents write along p, a the activation's projection and s what the three
  largest other latents with a cosine of at least 0.1 write: 0 where m >= a or s < 0.4 a, 1 where m <= 0, else
  t / (t + m) with t = min(s, a - m); mean over these tokens.

Where it differs from the benchmark: classes are word classes, activations are those of running text and not of spelling
prompts, projections are of the activation less its mean over tokens, and k-sparse probes choose latents by the
difference of class means.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ....core.errors import InputError
from ..sparse_probing import Bools, Floats, Integers, Probe, f1, fit_probe, separation
from ..typed_tensors import tensor_of
from .dictionary import SparseDictionary

F1_GAIN = 0.03
COSINE_FULL, COSINE_PART = 0.025, 0.1
PROPORTION = 0.4
ABSORBING = 3  # latents that may take a token over together
LEAST = 20  # tokens of a class on the side it is judged on
MOST_MAIN = 8


class Absorbed(NamedTuple):
    """tokens: of the class that the probe finds, on the side judged. probe_f1: of the probe, there. main: the class's
    latents, the best first; sparse_f1: of the probe on them. full, fraction: means over these tokens. absorbing: the
    latent that most often writes most along p where the main ones are silent; None where there is no such token."""

    tokens: int
    probe_f1: float
    main: tuple[int, ...]
    sparse_f1: float
    full: float
    fraction: float
    absorbing: int | None

    @property
    def split(self) -> int:
        """Into how many latents the class is split."""
        return len(self.main)


def class_probe(x: Tensor, y: Bools, learn: Bools) -> Probe | None:
    """The probe on activations x (n, C) that is taken as the truth; None where a class has no member in `learn`."""
    values: Floats = x[tensor_of(learn)].double().numpy()
    try:
        return fit_probe(values, y[learn], np.arange(values.shape[1], dtype=np.int64))
    except InputError:
        return None


def absorption(dictionary: SparseDictionary, x: Tensor, y: Bools, learn: Bools, probe: Probe | None) -> Absorbed | None:
    """Of one class. x (n, C): activations; y (n,): members; learn (n,): tokens on which probes are fitted, the others
    are judged; probe: `class_probe`. None where it finds fewer than `LEAST` members there."""
    f = dictionary.latents(x).double().numpy()
    values: Floats = x.double().numpy()
    judged = ~learn
    if probe is None:
        return None
    found = judged & y & (probe.scores(values) > 0)
    if int(found.sum()) < LEAST:
        return None
    probe_f1 = f1(probe.scores(values[judged]) > 0, y[judged])
    main, sparse_f1 = main_latents(f[learn], y[learn], f[judged], y[judged])
    direction = probe.direction / np.linalg.norm(probe.direction)
    decoder: Floats = dictionary.W_dec.double().numpy()
    written = decoder @ direction  # what a latent of size 1 writes along p
    cosines = written / np.maximum(np.linalg.norm(decoder, axis=1), 1e-12)
    projected = (values[found] - values.mean(0)) @ direction
    full, strongest = fully_absorbed(f[found], written, cosines, main, projected)
    fraction = absorbed_fraction(f[found], written, cosines, main, projected)
    takers = strongest[full]
    absorbing = int(np.bincount(takers).argmax()) if len(takers) else None
    return Absorbed(
        int(found.sum()), probe_f1, tuple(int(i) for i in main), sparse_f1, float(full.mean()), float(fraction.mean()),
        absorbing,
    )  # fmt: skip


def main_latents(f: Floats, y: Bools, test: Floats, truth: Bools) -> tuple[Integers, float]:
    """The class's latents, by k-sparse probes fitted on f (n, F), y and judged on test and truth; and F1 with them."""
    order = np.argsort(-separation(f, y), kind="stable").astype(np.int64)
    chosen, best = order[:1], -1.0
    for k in range(1, min(MOST_MAIN, len(order)) + 1):
        reached = f1(fit_probe(f, y, order[:k]).scores(test) > 0, truth)
        if k > 1 and reached <= best + F1_GAIN:
            break
        chosen, best = order[:k], reached
    return chosen, best


def fully_absorbed(
    f: Floats, written: Floats, cosines: Floats, main: Integers, projected: Floats
) -> tuple[Bools, Integers]:
    """At which tokens (n,) one latent stands for the silent main ones, and which latent writes most along p (n,)."""
    along = f * written
    strongest = along.argmax(1).astype(np.int64)
    most = along[np.arange(len(f)), strongest]
    silent = (f[:, main] == 0).all(1)
    full = silent & (projected > 0) & (cosines[strongest] >= COSINE_FULL) & (most >= PROPORTION * projected)
    return full & (most > 0), strongest


def absorbed_fraction(f: Floats, written: Floats, cosines: Floats, main: Integers, projected: Floats) -> Floats:
    """The share (n,) of what the dictionary writes along p that is not written by the main latents."""
    along = f * written
    of_main = along[:, main].sum(1)
    others = np.where(cosines >= COSINE_PART, np.maximum(along, 0.0), 0.0)
    others[:, main] = 0.0
    largest = -np.sort(-others, axis=1)[:, :ABSORBING].sum(1)
    taken = np.minimum(largest, projected - of_main)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(of_main <= 0, 1.0, np.clip(taken / (taken + of_main), 0.0, 1.0))
    none = (of_main >= projected) | (projected <= 0) | (largest < PROPORTION * projected)
    return np.where(none, 0.0, part)
