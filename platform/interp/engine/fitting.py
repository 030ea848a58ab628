"""Training inside a step: a few tensors fitted to examples by AdamW in minibatches, such as a probe on activations.

    fitted = fit("probe", {"weight": w, "bias": b}, loss, examples=len(x), schedule=Schedule(steps=500), seed=job.seed,
                 folder=job.folder, progress=job.progress)

    def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        scores = x[batch.examples] @ parameters["weight"] + parameters["bias"]
        return cross_entropy(scores, y[batch.examples])

Promises
- The same arguments give the same bits on one kind of machine, whatever the number of threads it is started with: what
  is random follows from the seed and the number of the step alone.
- Interrupted and called again with the same folder it goes on from its last checkpoint, with the result of one go.
- A checkpoint (parameters and moments as safetensors, the rest as JSON) is whole or ignored: the JSON is written last
  and names the digest of the tensors. One of another fit is refused; a damaged one costs the time to begin again.

It fits in the dtype and on the device of the tensors it is given, float64 too. It trains no language models: that is
`mplat train`. A step that uses it is `seeded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, ToleranceError, UsageError
from ...core.json_files import read_object
from ...core.whole_files import publish_json
from ...runtime.plan import digest_of
from ...runtime.table_job import Progress
from .tensor_parts import SUFFIX, check_tensors, publish_tensors

_RECORD = "fit.json"


class Minibatch(NamedTuple):
    """What a loss is taken of: numbers of examples (batch,), and for what else is random a generator on the CPU that
    depends on seed and step alone."""

    step: int
    examples: Tensor
    generator: torch.Generator


Loss = Callable[[Mapping[str, Tensor], Minibatch], Tensor]
#: changes parameters in place behind an update, such as to a unit norm; what it counts must be a parameter itself
After = Callable[[Mapping[str, Tensor], Minibatch], None]


class Fitted(NamedTuple):
    """parameters: detached, as they were after the last step. losses: of every step, before its update."""

    parameters: dict[str, Tensor]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Schedule:
    """How to fit. Every example is seen before one is seen again; the last batch of such a round may be smaller."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    checkpoint_every: int = 100  # steps; more often costs time, less often what an interruption costs
    warm_up: int = 0  # first steps, over which the learning rate rises linearly to its value
    decay: int = 0  # last steps, over which it falls linearly; the step behind the last would have 0

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rising = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        falling = min(1.0, (self.steps - step) / self.decay) if self.decay else 1.0
        return self.learning_rate * rising * falling


def fit(
    name: str,
    parameters: Mapping[str, Tensor],
    loss: Loss,
    *,
    examples: int,
    schedule: Schedule,
    seed: int,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    after: After | None = None,
) -> Fitted:
    """Minimise the mean of `loss` over `examples` examples, starting from `parameters`, which are not changed.

    name: of this fit among those of its step, plain letters. folder: where its checkpoints are (`Job.folder`); None:
    it cannot be resumed. progress: called at every checkpoint (`Job.progress`). after: called behind every update,
    without gradients; a parameter that the loss takes no gradient of is moved by it alone.

    Raises UsageError for a schedule that cannot be followed, ToleranceError where a loss is not finite, InputError
    where the folder holds a checkpoint of another fit of this name.
    """
    if (
        min(examples, schedule.steps, schedule.batch_size, schedule.checkpoint_every) < 1
        or min(schedule.warm_up, schedule.decay) < 0
    ):
        raise UsageError(
            f"fit {name!r}: examples ({examples}) and numbers of the schedule ({schedule}) must be positive"
        )
    report = progress or (lambda progress: None)
    own = {key: value.detach().clone().requires_grad_() for key, value in sorted(parameters.items())}
    # one parameter after the other: bits do not depend on how many there are
    optimizer = torch.optim.AdamW(
        own.values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, foreach=False
    )
    started_with = {"seed": seed, "examples": examples, "parameters": _digest(own)} | asdict(schedule)
    del started_with["checkpoint_every"]  # changes no result
    losses: list[float] = []
    with one_thread(), torch.enable_grad():
        if folder is not None:
            losses += _resume(folder / name, own, optimizer, digest_of(started_with))
            if not losses and (folder / name / _RECORD).exists():
                report(Progress(name, 0, schedule.steps, 0, schedule.steps, 0, f"the checkpoint in {folder / name} is "
                              "damaged; the fit begins again"))  # fmt: skip
        resumed = len(losses)
        for step in range(resumed, schedule.steps):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            batch = minibatch(step, examples, schedule.batch_size, seed)
            value = loss(own, batch)
            if not bool(torch.isfinite(value)):
                raise ToleranceError(f"fit {name!r}: the loss of step {step} is not finite ({value.item()}); "
                                     "lower its learning rate, or leave out examples that are not finite")  # fmt: skip
            value.backward()
            optimizer.step()
            if after is not None:
                with torch.no_grad():
                    after(own, batch)
            losses.append(value.item())
            done = step + 1
            if done % schedule.checkpoint_every == 0 or done == schedule.steps:
                if folder is not None:
                    _save(folder / name, own, optimizer, losses, digest_of(started_with))
                report(Progress(name, done, schedule.steps, done, schedule.steps, resumed))
    return Fitted({key: value.detach() for key, value in own.items()}, tuple(losses))


def minibatch(step: int, examples: int, batch_size: int, seed: int) -> Minibatch:
    """The examples of a step: consecutive ones of a random order, a new order for each round through all of them."""
    per_round = -(-examples // batch_size)
    round_, place = divmod(step, per_round)
    chosen = _order(examples, seed, round_)[place * batch_size : (place + 1) * batch_size]
    return Minibatch(step, chosen, _generator(seed, "step", step))


@lru_cache(maxsize=1)
def _order(examples: int, seed: int, round_: int) -> Tensor:
    return torch.randperm(examples, generator=_generator(seed, "round", round_))


def _generator(seed: int, of: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(digest_of([seed, of, number])[:15], 16))


def _digest(parameters: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for key, value in parameters.items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save(
    folder: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, losses: list[float], fit_: str
) -> None:
    tensors = {f"parameter/{key}": value for key, value in parameters.items()}
    for key, value in parameters.items():  # one that the loss does not use has no state
        tensors |= {f"{name}/{key}": state for name, state in optimizer.state.get(value, {}).items()}
    path = folder / f"checkpoint-{len(losses):08d}{SUFFIX}"
    published = publish_tensors(tensors, path, {"fit": fit_}, replace=True)
    publish_json({"fit": fit_, "file": path.name, "sha256": published.sha256, "losses": losses}, folder / _RECORD)
    for older in sorted(folder.glob(f"checkpoint-*{SUFFIX}")):
        if older != path:
            older.unlink(missing_ok=True)


def _resume(folder: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, fit_: str) -> list[float]:
    """Put the last checkpoint into parameters and optimizer; the losses up to it, none where there is no whole one."""
    try:
        record = read_object(folder / _RECORD)
        losses, other = [float(value) for value in record["losses"]], record["fit"] != fit_
        tensors = check_tensors(folder / Path(record["file"]).name, record["sha256"])
    except (ValueError, KeyError, TypeError):  # none, or not whole: InputError is a ValueError
        return []
    if other:
        raise InputError(
            f"{folder}: holds the checkpoint of a fit with other arguments; give each fit a name of its own"
        )
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(tensors[f"parameter/{key}"])
            state = {name.partition("/")[0]: t for name, t in tensors.items() if name.partition("/")[2] == key}
            del state["parameter"]
            if state:
                on_device = {name: t if name == "step" else t.to(value.device) for name, t in state.items()}
                optimizer.state[value] = on_device
    return losses


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums have one order, torch's and numpy's: the last bits do not depend on the number of threads."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
