"""Which parameters an optimizer decays, and which learn at another rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .mixer import FeedForward, Mixer

if TYPE_CHECKING:
    from .model import LanguageModel


def parameter_groups(model: LanguageModel, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: no decay on A_log, D, Delta's biases, other biases and norms; decay on everything else.

    Where a mixer asks for another learning rate, groups with `lr_scale` follow, a factor on the common rate.
    """
    exempt: set[str] = set()
    scales: dict[str, float] = {}
    for module in model.modules():
        if isinstance(module, (Mixer, FeedForward)):
            exempt |= module.no_decay
        if isinstance(module, Mixer):
            scales |= module.learning_rate_scale
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        scale = next((scales[p] for p in parts if p in scales), 1.0)
        decays = parameter.ndim >= 2 and exempt.isdisjoint(parts)
        groups.setdefault((scale, decays), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        | ({} if scale == 1.0 else {"lr_scale": scale})
        for (scale, decays), parameters in groups.items()
    ]
