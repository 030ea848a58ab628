"""The recurrent mixers of hybrids: our Mamba and Mamba-2, with transformers' parameters in them.

What differs from ours is a method: Jamba norms dt, B and C; Falcon-H1 scales parts of the projection and gates in two
other orders. Delta is clamped to `time_step_limit` in every call; transformers clamps it where it reads several tokens
and not in a decode step, so that its steps differ from its own prefill where the limit is felt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..families.mamba.mamba import MambaMixer
from ..families.mamba2.mamba2 import Mamba2Mixer
from ..mixer import Mixer
from ..model_config import ModelConfig
from ..parts.norms import RMSNorm
from .base import norm


@dataclass(frozen=True)
class RecurrentShape:
    """What a recurrent mixer asks of a `ModelConfig`; names and meanings as there, head_dim and so on of Mamba-2."""

    d_model: int
    inner_size: int
    state_size: int
    conv_kernel: int
    dt_rank: int = 0
    head_dim: int = 0
    n_heads: int = 0
    n_groups: int = 1
    dt_limit: tuple[float, float] = (0.0, math.inf)


class AdaptedMamba(MambaMixer):
    """Jamba's S6 mixer (Lieber et al., arXiv 2403.19887): RMSNorms with weights on dt, B and C."""

    def __init__(self, theirs: Any) -> None:
        shape = RecurrentShape(
            theirs.hidden_size, theirs.intermediate_size, theirs.ssm_state_size, theirs.conv_kernel_size,
            dt_rank=theirs.time_step_rank,
        )  # fmt: skip
        Mixer.__init__(self, cast(ModelConfig, shape))
        self.in_proj, self.conv1d, self.x_proj = theirs.in_proj, theirs.conv1d, theirs.x_proj
        self.dt_proj, self.out_proj, self.A_log, self.D = theirs.dt_proj, theirs.out_proj, theirs.A_log, theirs.D
        self.dt_layernorm = norm(theirs.dt_layernorm)
        self.b_layernorm, self.c_layernorm = norm(theirs.b_layernorm), norm(theirs.c_layernorm)

    def time_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt, B, C = super().time_inputs(x)
        return self.dt_layernorm(dt), self.b_layernorm(B), self.c_layernorm(C)


class AdaptedMamba2(Mamba2Mixer):
    """The SSD mixer of Bamba, Zamba2 and Nemotron-H: Mamba-2's, with heads of their own number and a clamped Delta."""

    def __init__(self, theirs: Any) -> None:
        low, high = theirs.time_step_limit or (0.0, math.inf)
        shape = RecurrentShape(
            theirs.hidden_size, theirs.intermediate_size, theirs.ssm_state_size, theirs.conv_kernel_size,
            head_dim=theirs.head_dim, n_heads=theirs.num_heads, n_groups=theirs.n_groups,
            dt_limit=(float(low), float(high)),
        )  # fmt: skip
        Mixer.__init__(self, cast(ModelConfig, shape))
        self.conv_width = shape.inner_size + 2 * shape.n_groups * shape.state_size
        self.in_proj, self.conv1d, self.out_proj = theirs.in_proj, theirs.conv1d, theirs.out_proj
        self.dt_bias, self.A_log, self.D = theirs.dt_bias, theirs.A_log, theirs.D
        if isinstance(theirs.norm, nn.Identity):
            return
        self.norm = RMSNorm(shape.inner_size, theirs.norm.variance_epsilon, shape.n_groups)
        self.norm.weight = theirs.norm.weight
