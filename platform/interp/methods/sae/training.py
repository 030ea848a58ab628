"""Training a sparse autoencoder on activations, of any kind (`kinds`).

    z = (x - b_dec) W_enc + b_enc        f = codes(z)        x' = f W_dec + b_dec
    loss = |x - x'|^2 / C + penalty + AuxK / 32

- Inputs are centred and divided by one number, so that a channel has a mean square of 1; both are folded back into the
  result, which takes activations as they are. Rows of W_dec have unit norm before and after that.
- AuxK (Gao et al. 2024, arXiv 2406.04093, appendix A.2): latents that were silent for `silent_for` examples reconstruct
  what the others left, their C/2 largest at each token, by a loss relative to that error. So they find work again.
- Where a kind names prefixes of latents, the error is the mean over the prefixes.
- Counting who was silent is a parameter that no gradient reaches: it is checkpointed with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ....core.errors import InputError
from ....runtime.table_job import Progress
from ...engine.fitting import Minibatch, Schedule, fit
from ..typed_tensors import unit_rows
from .dictionary import SparseDictionary
from .examples import Examples, chunks, spread_rows
from .kinds import Options, Parameters, SaeKind

AUXILIARY = 1 / 32
_AT_THE_END = 2**24  # pre-activations from which thresholds are taken


class Trained(NamedTuple):
    """losses: of every step. scale: what centred activations were multiplied with."""

    dictionary: SparseDictionary
    losses: tuple[float, ...]
    scale: float


class Inputs(NamedTuple):
    """(x - mean) scale has the mean 0 and a mean square of 1 a channel. mean (C,)."""

    mean: Tensor
    scale: float


def inputs_of(examples: Examples) -> Inputs:
    """Of all examples. Raises InputError where there are fewer than two different ones."""
    mean = torch.zeros(examples.width, dtype=torch.float64)
    for _, x in chunks(examples):
        mean += x.double().sum(0)
    mean /= max(1, len(examples))
    square = sum(float(((x.double() - mean) ** 2).sum()) for _, x in chunks(examples))
    if not square > 0:
        raise InputError(f"{len(examples)} activations that are all the same; there is nothing to learn from them")
    return Inputs(mean.float(), (len(examples) * examples.width / square) ** 0.5)


class Training:
    """Loss and update of one autoencoder on normalised examples, as `fit` takes them."""

    def __init__(
        self, kind: SaeKind, options: Options, examples: Examples, inputs: Inputs, silent_for: int = 10_000
    ) -> None:
        self.kind, self.options, self.examples, self.inputs = kind, options, examples, inputs
        self.silent_for = silent_for
        self._fired: Tensor | None = None

    def start(self, seed: int) -> dict[str, Tensor]:
        """Random directions, read along what they write; nothing else."""
        generator = torch.Generator().manual_seed(seed)
        directions = unit_rows(torch.randn(self.options.n_latents, self.examples.width, generator=generator))
        return {
            "W_enc": directions.T.contiguous(), "b_enc": torch.zeros(len(directions)), "W_dec": directions,
            "b_dec": torch.zeros(self.examples.width), "silent": torch.zeros(len(directions)),
            **self.kind.start(self.options, directions),
        }  # fmt: skip

    def batch(self, rows: Tensor) -> Tensor:
        """Normalised examples (B, C)."""
        return (self.examples(rows) - self.inputs.mean) * self.inputs.scale

    def loss(self, parameters: Parameters, minibatch: Minibatch) -> Tensor:
        """See the module."""
        x = self.batch(minibatch.examples)
        z = pre_activations(x, parameters)
        f = self.kind.codes(z, parameters, self.options)
        self._fired = (f.detach() > 0).any(0)
        decoder, centre = parameters["W_dec"], parameters["b_dec"]
        prefixes = self.kind.prefixes(self.options)
        reconstructed = [f[:, :n] @ decoder[:n] + centre for n in prefixes]
        error = torch.stack([((x - one) ** 2).mean() for one in reconstructed]).mean()
        penalty = self.kind.penalty(z, f, parameters, self.options)
        return error + penalty + AUXILIARY * self._revival(z, (x - reconstructed[-1]).detach(), parameters)

    def after(self, parameters: Parameters, minibatch: Minibatch) -> None:
        """Unit norms, and for how many examples each latent has been silent."""
        decoder = parameters["W_dec"]
        decoder.copy_(unit_rows(decoder))
        assert self._fired is not None, "`fit` takes the loss before each update"
        silent = parameters["silent"]
        silent.copy_(torch.where(self._fired, 0.0, silent + len(minibatch.examples)))

    def _revival(self, z: Tensor, left: Tensor, parameters: Parameters) -> Tensor:
        """AuxK; z may be below 0 here: a latent that is far from firing has to have a slope."""
        dead = (parameters["silent"].detach() >= self.silent_for).nonzero()[:, 0]
        if not len(dead):
            return z.new_zeros(())
        of_dead = z[:, dead]
        top = of_dead.topk(min(len(dead), max(1, left.shape[1] // 2)), 1, sorted=False)
        codes = torch.zeros_like(of_dead).scatter(1, top.indices, top.values)
        tried = codes @ parameters["W_dec"][dead]
        return ((left - tried) ** 2).mean() / (left**2).mean().clamp(min=1e-12)


def pre_activations(x: Tensor, parameters: Parameters) -> Tensor:
    """z (B, F) of normalised x (B, C)."""
    return (x - parameters["b_dec"]) @ parameters["W_enc"] + parameters["b_enc"]


def train(
    kind: SaeKind,
    examples: Examples,
    options: Options,
    schedule: Schedule,
    *,
    seed: int,
    name: str = "sae",
    silent_for: int = 10_000,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """An autoencoder of `kind` trained on `examples`; the same arguments give the same bits.

    name, folder, progress: as in `fitting.fit`. Raises what it raises, and InputError for examples that are all equal.
    """
    training = Training(kind, options, examples, inputs_of(examples), silent_for)
    fitted = fit(
        name, training.start(seed), training.loss, examples=len(examples), schedule=schedule, seed=seed, folder=folder,
        progress=progress, after=training.after,
    )  # fmt: skip
    return Trained(finished(training, fitted.parameters), fitted.losses, training.inputs.scale)


@torch.no_grad()
def finished(training: Training, parameters: Mapping[str, Tensor]) -> SparseDictionary:
    """The dictionary for activations as they are: with s the scale and m the mean of the inputs, latents are 1/s of the
    normalised ones, b_dec is m + b_dec / s, and b_enc and thresholds are divided by s; every kind is homogeneous."""
    some = spread_rows(len(training.examples), max(1, _AT_THE_END // training.options.n_latents))
    z = pre_activations(training.batch(some), parameters)
    threshold, k = training.kind.frozen(z, parameters, training.options)
    mean, scale = training.inputs
    return SparseDictionary(
        parameters["W_enc"].clone(), parameters["b_enc"] / scale, parameters["W_dec"].clone(),
        mean + parameters["b_dec"] / scale, None if threshold is None else threshold / scale, k,
    )  # fmt: skip
