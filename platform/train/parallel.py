"""A model over the processes of a run: copies whose gradients are summed, or one model of which each has a share.

Copies are torch's DistributedDataParallel, which sums while the backward pass still runs; shares are FSDP2
(`fully_shard`), where each process keeps a part of every weight, gradient and moment, and gathers a block's weights for
the time it needs them. Both add gradients up and divide by nothing: a pass's loss is divided by the weight of the whole
step already (`loss`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .processes import ALONE, Processes

if TYPE_CHECKING:
    from ..models import LanguageModel

T = TypeVar("T")


class Parallel:
    """A model and the processes that train it. With `sharded` its parameters are exchanged for shares of them, so an
    optimizer is to be built afterwards; `sharded` means nothing to one process."""

    def __init__(self, model: LanguageModel, processes: Processes = ALONE, *, sharded: bool = False) -> None:
        self.model, self.processes = model, processes
        self.sharded = sharded and processes.world_size > 1
        self._copies: nn.parallel.DistributedDataParallel | None = None
        if self.sharded:
            _shard(model)
        elif processes.world_size > 1:
            self._copies = nn.parallel.DistributedDataParallel(_Anything(model))
            self._copies.register_comm_hook(None, _sum)

    def forward(self, compute: Callable[..., T], *arguments: Any, last: bool) -> T:
        """`compute(model, *arguments)`, a forward pass to go back through. last: of this process in this step; after
        its backward pass the gradients are those of all processes."""
        if self._copies is None:
            return compute(self.model, *arguments)
        with nullcontext() if last else self._copies.no_sync():
            return self._copies(compute, *arguments)

    @torch.no_grad()
    def to_look_at(self, build: Callable[[], LanguageModel]) -> LanguageModel:
        """The model, to evaluate and not to train; where this process has a share of it, a whole copy in what `build`
        returns, for which every process has to ask. A share would be gathered again for every token that is written,
        and would keep what it gathered, whatever becomes of the weights."""
        if not self.sharded:
            return self.model
        copy, ours = build(), dict(chain(self.model.named_parameters(), self.model.named_buffers()))
        for name, place in chain(copy.named_parameters(), copy.named_buffers()):
            place.copy_(whole(ours[name]))
        return copy


class _Anything(nn.Module):
    """The model as a module that computes whatever is asked for: what is spread sees where that begins."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        return compute(self.model, *arguments)


def _sum(state, bucket):  # without types: torch compares them with its own and does not read those that are text
    """For DistributedDataParallel, which would take the mean."""
    work: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _shard(model: LanguageModel) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    owners = Counter(id(p) for block in model.blocks for p in block.parameters())
    if max(owners.values(), default=0) == 1:  # else blocks have weights in common, and the model is one piece
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may have a share; then every process has to ask for it."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def as_share(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as it lies in `like`, on its device: this process's share of it, or all of it."""
    placements = getattr(like, "placements", None)
    if placements is None or tensor.shape != like.shape:
        return tensor.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, placements)
