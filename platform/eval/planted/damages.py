"""What a factor on channels of a site is in the weights: so that a damaged model is a model like any other.

    mixer_out[c] * f      row c of out_proj times f
    mixer.x_in[e] * f     the taps (not the bias) of channel e of the short convolution times f
    mixer.B[n], .C[n]     row of x_proj times f (Mamba: B and C are linear in what x_proj reads)
    mixer.delta[e] * f    Mamba: A_e times f, D_e over f, column e of out_proj times f. Then h is 1/f of what it would
                          be and the read-out with it, and the layer says the same, as the read-out is used linearly

    mixer.gate[e] * f     Stable-Mamba: column e of in_proj and of offset_in times f
    mixer.expert_gain[e] * f     what expert e says, fc2[e], times f

The change stands before the site (mixer_out, B, C: its value becomes smaller) or behind it (x_in, Delta, gate, expert:
the value stays, what is made of it becomes smaller). A factor at the site undoes either.

A factor that is a power of two is undone bit for bit by its inverse at the site, but for Delta, whose A goes through a
logarithm. Where an architecture has something nonlinear behind the site (B, C and Delta of Mamba-2), the factor is no
change of weights; `in_weights` is then False and the edit has to be held (`Planted.applied`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...models import LanguageModel

#: (the layer's mixer, channels, factor): changes its weights in place
Change = Callable[[torch.nn.Module, list[int], float], None]
_MAMBA = ("mamba", "dense_mamba", "moe_mamba")


def in_weights(model: LanguageModel, site: str, layer: int, channels: Sequence[int], factor: float) -> bool:
    """Multiply `channels` of `site` in block `layer` by `factor`, in the weights of `model`, in place.

    False, and nothing changed, where no change of weights does that.
    """
    if site not in CHANGES or model.config.arch not in _ARCHITECTURES.get(site, (model.config.arch,)):
        return False
    mixer = model.blocks[layer].mixer
    parts = {name for name, _ in [*mixer.named_children(), *mixer.named_parameters(recurse=False)]}
    if not any(needed <= parts for needed in _NEEDS[site]):
        return False
    with torch.no_grad():
        CHANGES[site](mixer, list(channels), factor)
    return True


def _mixer_out(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    for name, weight in mixer.named_parameters():
        layer, _, what = name.rpartition(".")
        if layer in _LAST and what in ("weight", "bias"):
            weight[channels] *= factor


def _x_in(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    _weight(mixer, "conv1d.weight")[channels] *= factor


def _written(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    first = _weight(mixer, "dt_proj.weight").shape[1]
    _weight(mixer, "x_proj.weight")[[first + c for c in channels]] *= factor


def _read(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    first = _weight(mixer, "dt_proj.weight").shape[1] + _weight(mixer, "A_log").shape[1]
    _weight(mixer, "x_proj.weight")[[first + c for c in channels]] *= factor


def _delta(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    _weight(mixer, "A_log")[channels] += math.log(factor)
    _weight(mixer, "D")[channels] /= factor
    _weight(mixer, "out_proj.weight")[:, channels] *= factor


def _gate(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    _weight(mixer, "in_proj.weight")[:, channels] *= factor
    _weight(mixer, "offset_in.weight")[:, channels] *= factor


def _expert(mixer: torch.nn.Module, channels: list[int], factor: float) -> None:
    _weight(mixer, "fc2")[channels] *= factor


def _weight(mixer: torch.nn.Module, name: str) -> Tensor:
    return mixer.get_parameter(name)


CHANGES: dict[str, Change] = {
    "mixer_out": _mixer_out, "mixer.x_in": _x_in, "mixer.B": _written, "mixer.C": _read, "mixer.delta": _delta,
    "mixer.gate": _gate, "mixer.expert_gain": _expert,
}  # fmt: skip
#: where the change is that factor; others have a nonlinearity behind these sites
_ARCHITECTURES = {"mixer.B": _MAMBA, "mixer.C": _MAMBA, "mixer.delta": _MAMBA, "mixer.gate": ("stable_mamba",)}
_LAST = ("out_proj", "out_filter_dense")  # the last layer of a mixer, as architectures call it
_NEEDS: dict[str, tuple[set[str], ...]] = {
    "mixer_out": tuple({name} for name in _LAST),
    "mixer.x_in": ({"conv1d"},),
    "mixer.B": ({"x_proj", "dt_proj"},),
    "mixer.C": ({"x_proj", "dt_proj", "A_log"},),
    "mixer.delta": ({"A_log", "D", "out_proj"},),
    "mixer.gate": ({"in_proj", "offset_in"},),
    "mixer.expert_gain": ({"fc2"},),
}
