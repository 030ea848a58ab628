"""Distributed alignment search: the subspace of a site whose interchange sets a variable, learned by gradient descent.

    minimise  mean over pairs of  -ln p(counterfactual answer | base with b -> b + (s - b) R^T R)

over R (k, D) with orthonormal rows (Geiger, Wu, Potts, Icard and Goodman, arXiv 2303.02536). R is the Q of a QR
decomposition of a free matrix, made of Householder reflections, so that descent is not constrained. Only rotations are
offered: maps that are not linear can align nearly anything with nearly any variable, on random models too (Sutter,
Minder, Hofmann and Pimentel, arXiv 2507.08802), so that success there would say nothing about this one.

A learned subspace can work by an accident: a direction that varies with the variable but is not read, joined with one
that is read but never varies, exchanges what the model itself does not use (Makelov, Lange and Nanda, arXiv
2311.17030). `inside` and `outside` split a subspace along the span of what the site naturally holds, or of what is read
of it, so that each part can be exchanged by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.table_job import Progress
from ..engine.fitting import Minibatch, Schedule, fit
from .interchange import Exchange, Region, frozen, interchanged
from .typed_tensors import first_reaching, floats, how_many_above, principal_axes, row_basis, singular_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...models import LanguageModel

_NOTHING = 1e-6  # of a unit row: what is shorter after a projection is rounding


class Alignment(NamedTuple):
    """subspace (k, D): orthonormal rows. losses: of each step of learning."""

    subspace: Tensor
    losses: tuple[float, ...]


def align(
    name: str,
    model: LanguageModel,
    exchange: Exchange,
    region: Region,
    k: int,
    *,
    schedule: Schedule,
    seed: int,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Alignment:
    """The subspace of k dimensions of the region after whose interchange the model says the counterfactual answers.

    name, folder, progress: of the fit, see `fitting.fit`, whose errors it raises. seed: of the start and of the order
    of the pairs.
    """
    differences = exchange.differences(region)
    start = _normal(k, region.size, seed).to(differences)
    targets = exchange.answers[:, 0]

    def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        rows, chosen = rotation(parameters["free"]), batch.examples.to(differences.device)
        change = (differences[chosen] @ rows.T) @ rows
        return F.cross_entropy(interchanged(model, exchange, region, change, chosen), targets[chosen])

    with frozen(model):
        found = fit(
            name, {"free": start}, loss, examples=len(exchange), schedule=schedule, seed=seed, folder=folder,
            progress=progress,
        )  # fmt: skip
    return Alignment(rotation(found.parameters["free"]), found.losses)


def rotation(free: Tensor) -> Tensor:
    """Orthonormal rows (k, D) that span the rows of `free` (k, D)."""
    return row_basis(free)


def random_subspace(k: int, size: int, seed: int) -> Tensor:
    """Orthonormal rows (k, D) of a subspace drawn evenly from all, in float64."""
    return rotation(_normal(k, size, seed))


def random_rotation(size: int, seed: int) -> Tensor:
    """An orthogonal matrix (D, D) drawn evenly from all, in float64."""
    return random_subspace(size, size, seed)


def _normal(k: int, size: int, seed: int) -> Tensor:
    # entries of size one, whatever D: a step of descent then turns the rows by the same angle at every site
    return torch.randn(k, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def principal_subspace(values: Tensor, k: int) -> Tensor:
    """The k directions (k, D) in which `values` (n, D) vary most."""
    return principal_axes((values - values.mean(0)).double())[1][:k]


def single_channels(scores: Tensor, k: int) -> Tensor:
    """The k coordinates of the highest of `scores` (D,), as rows (k, D)."""
    chosen = scores.argsort(descending=True, stable=True)[:k]
    return F.one_hot(chosen, len(scores)).double()


def gradients(model: LanguageModel, exchange: Exchange, region: Region) -> Tensor:
    """What the region's value does to the answer, to first order: the derivative (n, D) of logit(target) less
    logit(base's answer) in the base run."""
    change = torch.zeros_like(exchange.differences(region), requires_grad=True)
    with frozen(model), torch.enable_grad():
        logits = interchanged(model, exchange, region, change)
        wanted = logits.gather(1, exchange.answers[:, :2])
        (found,) = torch.autograd.grad((wanted[:, 0] - wanted[:, 1]).sum(), change)
    return found


def span(values: Tensor, share: float, *, centred: bool) -> Tensor:
    """The fewest principal directions (m, D) that hold `share` of the squares of `values` (n, D), about their mean
    where `centred`; none where there are no squares."""
    sizes, directions = principal_axes((values - values.mean(0) if centred else values).double())
    return directions[: first_reaching(sizes**2, share)]


def share_inside(subspace: Tensor, directions: Tensor) -> float:
    """How much of a subspace (k, D) lies in the span of orthonormal `directions` (m, D): 1 all, 0 nothing of it."""
    return float((subspace.double() @ directions.to(subspace).double().T).square().sum() / len(subspace))


def inside(subspace: Tensor, directions: Tensor) -> Tensor:
    """Orthonormal rows of the projection of a subspace (k, D) on the span of `directions`; perhaps fewer than k."""
    rows, onto = subspace.double(), directions.to(subspace).double()
    return _orthonormal((rows @ onto.T) @ onto)


def outside(subspace: Tensor, directions: Tensor) -> Tensor:
    """The same of the projection on what is orthogonal to `directions`."""
    rows, onto = subspace.double(), directions.to(subspace).double()
    return _orthonormal(rows - (rows @ onto.T) @ onto)


def _orthonormal(rows: Tensor) -> Tensor:
    sizes, directions = principal_axes(rows)
    return directions[: how_many_above(sizes, _NOTHING)]


def principal_cosines(a: Tensor, b: Tensor) -> list[float]:
    """Cosines of the principal angles between subspaces (k, D) and (m, D) of orthonormal rows, the largest first."""
    return floats(singular_values(a.double() @ b.double().T).clamp(max=1.0))
