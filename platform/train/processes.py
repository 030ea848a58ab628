"""The processes that train one model together, as the loop sees them: a number, how many there are, and five calls.

`ALONE` is a run in one process, where every call gives back what it was given. `TorchProcesses` is over the process
group of torch.distributed that whoever started the processes has set up (gloo on the CPU, nccl on GPUs). Every process
has to make the same calls in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """One process of `world_size`, by its number `rank`."""

    rank = 0
    world_size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def sum(self, *values: float) -> tuple[float, ...]:
        """The sum of each value over the processes, in float64; the same bits in all of them."""
        return values

    def largest(self, value: int) -> int:
        """The largest value of any process."""
        return value

    def broadcast(self, value: Any) -> Any:
        """What the first process gives, in all of them: a value of plain JSON, in which a float may be NaN."""
        return value

    def barrier(self) -> None:
        """Wait until every process has come here."""

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """The block in the first process, then in the others: what it makes on the disk is there for them."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


ALONE = Processes()


class TorchProcesses(Processes):
    """The default process group of torch.distributed. device: of this process's tensors, a GPU's for nccl."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def sum(self, *values: float) -> tuple[float, ...]:
        sums = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def largest(self, value: int) -> int:
        found = torch.tensor(value, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast(self, value: Any) -> Any:
        text = json.dumps(value).encode() if self.first else b""
        length = self.largest(len(text))
        bytes_ = torch.zeros(length, dtype=torch.uint8, device=self._device)
        if self.first:
            bytes_.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(bytes_, src=0)
        return json.loads(bytes(bytes_.tolist()))

    def barrier(self) -> None:
        self.largest(0)  # dist.barrier of nccl would have to be told the device
