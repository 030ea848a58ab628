"""Does it matter in which directions activations are changed, or would any do?"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch

from ..operators import find_operator, operator_names
from ..part import Part
from ..recipe import Recipe
from . import Comparison, Drawn, control
from .matching import gains_of, power, scales

_ADDED = {"learned_state": "state"}  # operator -> the tensor that it adds, where that is called something else


@control("random_direction")
def random_direction(comparison: Comparison) -> Drawn:
    """Vectors and learned states: a random one of equal norm. Features of a dictionary: all of them turned together, so
    that each reads and writes with its norms and angles in random directions. Scaled channels: as many random
    directions of the site, scaled by one factor that changes activations as much; none where values must not be
    negative."""
    recipe = comparison.recipe
    made: list[Recipe] = []
    for draw in range(comparison.draws):
        parts: list[Part] = []
        for i, part in enumerate(recipe.parts):
            other = _other(comparison, part, i, draw)
            if isinstance(other, str):
                return Drawn((), other)
            parts.append(other)
        made.append(dataclasses.replace(recipe, parts=tuple(parts)))
    return Drawn(tuple(made))


def _other(comparison: Comparison, part: Part, i: int, draw: int) -> Part | str:
    """The part in a random direction, or why there is none."""
    site = part.full_sites()[0]
    text = f"random direction {comparison.seed} {i} {site} {draw}"
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
    added = "vector" if "vector" in part.tensors else _ADDED.get(part.operator)
    if added is not None:
        vector = part.tensors[added].double()
        other = torch.randn(vector.shape, generator=generator, dtype=torch.float64)
        equal = other * float((vector**2).sum() / (other**2).sum()) ** 0.5
        return dataclasses.replace(part, tensors={**part.tensors, added: equal})
    if {"encoder", "decoder"} <= part.tensors.keys():
        return _turned(part, generator)
    if not scales(part) or len(part.layers) > 1:
        return f"operator {part.operator} acts in no direction that another could stand in for"
    if part.of.low >= 0.0:  # of Delta a third became negative, and no score stayed finite
        return f"{part.site} must not be negative, and a change of its size along a random direction makes it so"
    if "scale_subspace" not in operator_names() or not find_operator("scale_subspace").takes(part.site):
        return f"operator {part.operator} at {part.site} has no counterpart in other directions"
    activity, k = comparison.activity_at(site), len(part.channels or ())
    if activity is None:
        return f"the activity of the channels of {site} on the development questions is not known"
    drawn = np.random.default_rng(generator.initial_seed()).standard_normal((len(activity.mean), k))
    basis = _orthonormal(torch.tensor(drawn)).T
    # E|P x|^2 of a random subspace, channels taken as uncorrelated around their means
    there = float(((basis @ activity.mean) ** 2).sum() + (basis**2 @ activity.variance).sum())
    gains = gains_of(part)
    own = float(((gains - 1.0) ** 2 * power(activity, part.channels or ())).sum())
    if there <= 0.0:
        return f"{site} carries nothing, so nothing equal can be done there"
    sign = 1.0 if float((gains - 1.0).sum()) >= 0 else -1.0
    factor = 1.0 + sign * (own / there) ** 0.5
    low, high = find_operator("scale_subspace").low, find_operator("scale_subspace").high
    return Part(
        "scale_subspace", part.site, part.layers, min(max(factor, low), high), "factor", None, {"basis": basis},
        positions=part.positions, phase=part.phase,
    )  # fmt: skip


def _turned(part: Part, generator: torch.Generator) -> Part:
    """The features with what they read and write turned by one random rotation of the site's channels. It is made on
    the directions that they span, so that a wide site costs no square matrix."""
    encoder, decoder = part.tensors["encoder"].double(), part.tensors["decoder"].double()
    rows = torch.cat([encoder.flatten(1), decoder.flatten(1)])
    basis = _orthonormal(rows.T)  # (C, r): of all of them
    other = _orthonormal(torch.randn(basis.shape, generator=generator, dtype=torch.float64))
    found = rows @ basis @ other.T
    k = len(encoder)
    turned = {"encoder": found[:k].reshape(encoder.shape), "decoder": found[k:].reshape(decoder.shape)}
    return dataclasses.replace(part, tensors={**part.tensors, **turned})


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns (C, k)."""
    return torch.tensor(np.linalg.qr(columns.numpy())[0])
