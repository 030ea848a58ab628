"""Training: a plain loop with exact resume, data sources, checkpoints and a metrics log.

`train(config, out)` runs a `TrainConfig`; see `mplat.train.loop`. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .train_config import TrainConfig

if TYPE_CHECKING:
    from .loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name in ("TrainResult", "train"):
        from . import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
