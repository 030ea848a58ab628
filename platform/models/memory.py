"""Whether what a configuration asks for can lie in this machine's memory, said before anything is allocated.

Compared is all the memory there is, not what is free now: a refusal means that it can never fit here. What is counted
is less than what a run needs, so that fitting here is no promise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..core.errors import UsageError
from .model_config import ModelConfig

#: what published models reach; the key that is furthest beyond is named
_USUAL = {"vocab_size": 262_144, "d_model": 8192, "n_layers": 128, "state_size": 256, "expand": 16}
_USUAL_ROWS = {"batch_size": 4096, "micro_batch_size": 4096, "sequence_length": 131_072}


def physical_bytes() -> int:
    """All memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(n_bytes: float, sizes: Mapping[str, float], what: str) -> None:
    """Raise UsageError where `n_bytes` of `what` are more than this machine has, naming the size among `sizes` that is
    furthest beyond what is usual."""
    there_are = physical_bytes()
    if n_bytes > there_are:
        usual = _USUAL | _USUAL_ROWS
        key = max(sizes, key=lambda name: sizes[name] / usual[name])
        raise UsageError(
            f"{what} would take {n_bytes / 1e9:,.1f} GB, and this machine has {there_are / 1e9:,.1f} GB of memory; "
            f"make {key} ({sizes[key]:,}) smaller"
        )


def require_weights(config: ModelConfig, n_parameters: int | None = None, bytes_each: int = 4) -> None:
    """Raise UsageError where the weights do not fit. n_parameters: None for what an architecture has at least, its
    table of embeddings and two square matrices a layer, without making a model of it."""
    least = config.vocab_size * config.d_model + 2 * config.n_layers * config.d_model**2
    count = least if n_parameters is None else n_parameters
    sizes = {name: getattr(config, name) for name in _USUAL}
    require_memory(bytes_each * count, sizes, f"model config: {count:,} parameters with {bytes_each} bytes for each")
