"""What a model costs on this machine, found by trying: seconds and memory of one pass, for estimates before a run.

An estimate is for a plan, not for a table: it depends on the machine and on what else runs there.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding.generation import generate
from .decoding.prefill import pad

if TYPE_CHECKING:
    from .model import LanguageModel

_STEPS = 4  # tokens written by the probe of answering
_READINGS = 3


class Cost(NamedTuple):
    """How long a whole run takes, what it needs and how fast it reads; in words how that was estimated. None: not
    estimated."""

    seconds: float
    memory_bytes: int
    how: str
    disk_bytes: int | None = None
    tokens_per_second: float | None = None


def answering_seconds(model: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> float:
    """Seconds of answering a batch of prompts that all write `max_new_tokens` tokens, from a few of these."""
    generate(model, prompts[:1], max_new_tokens=2)  # compiles what is compiled
    steps = min(_STEPS, max_new_tokens)
    first = _timed(lambda: generate(model, prompts, max_new_tokens=1))
    if steps == 1:
        return first
    more = _timed(lambda: generate(model, prompts, max_new_tokens=steps))
    return first + (max_new_tokens - 1) * max(0.0, more - first) / (steps - 1)


def reading_seconds(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> float:
    """Seconds of reading a batch of prompts once, forwards: the least of a few times."""
    tokens, mask = (tensor.to(model.device) for tensor in pad(prompts))
    with torch.no_grad():
        model(tokens, mask)  # compiles what is compiled
        return min(_timed(lambda: model(tokens, mask)) for _ in range(_READINGS))


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: of the device where it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def training_row(model: LanguageModel, length: int) -> tuple[float, int]:
    """Seconds of one row of `length` tokens forwards and backwards, and bytes of what is kept for the way back."""
    row = torch.randint(0, model.config.vocab_size, (1, length + 1), generator=torch.Generator().manual_seed(0))
    row = row.to(model.device)
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def one_pass() -> None:
        logits = model(row[:, :-1])
        F.cross_entropy(logits.flatten(0, 1).float(), row[0, 1:]).backward()

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        one_pass()  # compiles what is compiled
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seconds = _timed(one_pass)
    model.zero_grad(set_to_none=True)
    return seconds, sum(size for place, size in kept.items() if place not in weights)


def products_per_second(device: torch.device) -> float:
    """Multiplications and additions of a matrix product in float32, a second."""
    a = torch.ones(512, 512, device=device)
    _timed(lambda: a @ a)
    return 10 * 2 * 512**3 / _timed(lambda: [(a @ a) for _ in range(10)])


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
