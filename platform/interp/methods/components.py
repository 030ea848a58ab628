"""What a recurrence does at each token of a text, unit by unit: its step, decay, write and read, as sizes.

    h_t = exp(Delta_t A) h_{t-1} + w(Delta_t) B_t x_t,     y_t = C_t . h_t

Norms are Euclidean, over the channels of a unit and the coordinates of its state. float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .recurrences import LayerRecurrence
from .typed_tensors import lengths

Floats = NDArray[np.float64]
#: name -> what it is, for each token and unit
COMPONENTS = {
    "delta": "step size Delta",
    "decay": "|exp(Delta A)|, mean over the coordinates of the unit's state",
    "B": "length of B, as the unit's group has it",
    "C": "length of C, as the unit's group has it",
    "input": "length of the unit's input x",
    "write": "length of what the token writes into the unit's state, w(Delta) |B| |x|",
}


def components(place: LayerRecurrence, values: Mapping[str, Tensor]) -> dict[str, Floats]:
    """`COMPONENTS` (T, U) of one text, from values (T, ...) of the sites `place.inputs`; without those that are
    constant in this kind of recurrence, such as the Delta of a modal filter."""
    x = values[place.inputs[0]].double().cpu()
    units = len(place.A)
    given = torch.unflatten(x, -1, (units, -1))
    size = lengths(given)
    found: dict[str, Tensor] = {}
    written = size
    if place.of.delta is not None:
        delta = values[place.name("delta")].double().cpu()
        found |= {"delta": delta, "decay": mean_decay(place, delta)}
        written = written * place.of.written(delta)
    for name in ("B", "C"):
        site = getattr(place.of, name)
        if isinstance(site, str):
            groups = lengths(torch.unflatten(values[place.name(name)].double().cpu(), -1, (place.of.groups, -1)))
            found[name] = groups[:, torch.arange(units) // (units // place.of.groups)]
    if "B" in found:
        written = written * found["B"]
    return {name: value.numpy() for name, value in (found | {"input": size, "write": written}).items()}


def mean_decay(place: LayerRecurrence, delta: Tensor) -> Tensor:
    """Mean over a unit's coordinates of |exp(Delta A)|, (T, U), of delta (T, U)."""
    total = torch.zeros_like(delta)
    for rate in place.rate.T:  # a coordinate at a time: all at once are as large as the states
        total += torch.exp(-delta * rate)
    return total / place.rate.shape[1]
