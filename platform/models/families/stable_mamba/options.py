"""What only Stable-Mamba models have to choose: gates, compression, decays, sparse attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....core.errors import UsageError
from ...mixer import Options

TIMESCALES = ("fast", "medium", "slow")


@dataclass(frozen=True)
class StableMambaOptions(Options):
    """n_gates: gates of the ensemble. c_min: lowest compression factor. compression_hidden: width of its predictor,
    None for d_model / 4. mean_decay: of the running mean that the predictor sees.
    tau: decays of the fast, medium and slow heads at the start. rho_max: bound of the selective offset of their
    log-odds. attn_every: layers 0, attn_every, ... have sparse attention; 0 for none. sparsity: share of the earlier
    tokens that it leaves out.
    """

    n_gates: int = 3
    c_min: float = 0.5
    compression_hidden: int | None = None
    mean_decay: float = 0.95
    tau: tuple[float, float, float] = (0.7, 0.9, 0.98)
    rho_max: float = 4.0
    attn_every: int = 5
    sparsity: float = 0.95

    def __post_init__(self) -> None:
        """Raises UsageError for a value outside its range."""
        hidden = 1 if self.compression_hidden is None else self.compression_hidden
        if self.n_gates < 1 or self.attn_every < 0 or hidden < 1:
            raise UsageError("stable_mamba: n_gates and compression_hidden must be at least 1, attn_every at least 0")
        if len(self.tau) != len(TIMESCALES) or not all(0 < t < 1 for t in self.tau):
            raise UsageError(f"stable_mamba: tau must be three decays between 0 and 1, not {self.tau}")
        if not 0 <= self.c_min < 1 or not 0 <= self.sparsity < 1:
            raise UsageError("stable_mamba: c_min and sparsity must be at least 0 and below 1")
        if not 0 < self.mean_decay < 1 or not (math.isfinite(self.rho_max) and self.rho_max >= 0):
            raise UsageError("stable_mamba: mean_decay must lie between 0 and 1, and rho_max must not be negative")
