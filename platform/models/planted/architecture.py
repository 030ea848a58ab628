"""What an architecture says of how a plan becomes weights: one file in `architectures/` with the decorator `@plants`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...core.errors import UsageError
from ...core.registry import Registry
from ..model_config import ModelConfig
from .construction import Construction
from .plan import Block, Memory, Plan, Read, Shift

#: |A| of a state that keeps what it holds: 35 tokens of half-life where Delta is 1
SLOW = 0.02


class Architecture:
    """Base. `prepared` may add blocks that the architecture needs; then `begin`, and `memory` or `shift` for each entry
    of the plan's block, set the weights of a block and say which parts of the circuit they are."""

    def prepared(self, plan: Plan) -> Plan:
        """The plan as this architecture carries it out. Raises UsageError, saying why, for one that it cannot."""
        return plan

    def config(self, plan: Plan) -> ModelConfig:
        """The shape of the model."""
        raise UsageError(f"{type(self).__name__} says no shape")

    def begin(self, work: Construction, layer: int) -> None:
        """Set every weight of a block: busy channels that nothing reads, and no output."""
        raise UsageError(f"{type(self).__name__} sets no weights")

    def memory(self, work: Construction, layer: int, memory: Memory) -> None:
        """Set the weights of a memory."""
        raise UsageError(f"{type(self).__name__} has no memory")

    def shift(self, work: Construction, layer: int, shift: Shift) -> None:
        """Set the weights of a shift."""
        raise UsageError(f"{type(self).__name__} has no shift")

    def block(self, work: Construction, layer: int, block: Block) -> None:
        """Set the weights of block `layer`."""
        self.begin(work, layer)
        for entry in block:
            if isinstance(entry, Memory):
                self.memory(work, layer, entry)
            else:
                self.shift(work, layer, entry)


ARCHITECTURES: Registry[Architecture] = Registry("architecture of planted models", "plants", __name__, ".architectures")
plants = ARCHITECTURES.instance


def common(plan: Plan) -> dict[str, Any]:
    """Fields of `ModelConfig` that do not depend on the architecture."""
    return {
        "vocab_size": len(plan.words), "d_model": plan.d_model, "n_layers": len(plan.blocks),
        "state_size": plan.state_size, "tie_embeddings": False, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None,
    }  # fmt: skip


def current_token(conv: nn.Conv1d) -> None:
    """The short convolution passes the current token on and adds nothing."""
    conv.weight.zero_()
    conv.weight[:, 0, -1] = 1.0
    if conv.bias is not None:
        conv.bias.zero_()


def delayed(work: Construction, conv: nn.Conv1d, channels: list[int], reads: tuple[Read, ...]) -> None:
    """Channels of the short convolution, one for each dimension that is read, pass on the token that each read means."""
    for channel, back in zip(channels, _of_each(work, reads, "delay"), strict=True):
        conv.weight[channel] = 0.0
        conv.weight[channel, 0, -1 - int(back)] = 1.0


def factors(work: Construction, reads: tuple[Read, ...]) -> list[float]:
    """The factor of each dimension that is read."""
    return _of_each(work, reads, "factor")


def _of_each(work: Construction, reads: tuple[Read, ...], field: str) -> list[float]:
    return [getattr(read, field) for read in reads for _ in work.dims(read.space)]
