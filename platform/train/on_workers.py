"""A training run whose steps are done by workers under Ray: this process holds the folder and shows what they tell.

The folder has to be one that every node sees: the first worker writes checkpoints there and all of them read these when
they start again. Data are opened here first, so that what has to be made of them is made once.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import ClusterError, UsageError
from ..core.observer import Observer
from ..runtime.pool import WorkerFactory
from ..runtime.session import Session
from ..runtime.stop import StopRequest
from ..runtime.table_job import Progress
from ..runtime.worker_group import GroupSize, places, run_together
from . import checkpoint
from .data import open_source
from .loop import TrainResult
from .run_folder import RunFolder, planned
from .start import holds_a_run
from .starting_model import with_tokenizer_of_start
from .train_config import TrainConfig

_WORKER = f"{__name__.rpartition('.')[0]}.worker:run"


def train_on_workers(
    config: TrainConfig,
    out: Path,
    session: Session,
    *,
    resume: str = "auto",
    fresh: bool = False,
    observer: Observer | None = None,
) -> TrainResult:
    """As `loop.train`, in `config.workers.count` workers of the session's Ray.

    A worker has a GPU where the cluster has enough of them and the configuration does not say cpu, else `threads` CPUs
    (auto: one). Raises UsageError where the workers do not fit, ClusterError where more are lost than
    `config.workers.max_failures`, and what `loop.train` raises.
    """
    size = group_size(config, session)
    session = replace(session, actors=size.most, threads_per_actor=size.threads, gpus_per_actor=size.gpus)
    folder = RunFolder(out.absolute())
    begun = planned(config).begin(folder.path, observer=observer, fresh=fresh, session=session)
    with begun as record, StopRequest() as stop:
        open_source(with_tokenizer_of_start(config), folder.path, dry_run=False)
        if resume == "never" and checkpoint.steps(folder.checkpoints):
            raise UsageError(holds_a_run(folder))
        assert record.session is not None
        record.session.make_ready(WorkerFactory(_WORKER, needs=_inputs(config)), shared=True)
        seen, scratch = (folder.path / f".{name}-{uuid.uuid4().hex}" for name in ("seen", "ray"))
        seen.touch()
        hearer = _Hearer(record.observer, record.update, size)
        try:
            run_together(
                session,
                _WORKER,
                {
                    "config": config.model_dump(mode="json"),
                    "out": str(folder.path),
                    # never: checked above, and after a failure the run goes on where it was
                    "resume": "auto" if resume in ("auto", "never") else str(Path(resume).absolute()),
                    "device": "cuda" if size.gpus else "cpu",
                    "seen": seen.name,
                    "address": session.address if session.kind == "cluster" else None,
                },
                size,
                scratch=str(scratch),
                hear=hearer,
                stop=stop,
            )
        finally:
            seen.unlink(missing_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)
        if hearer.result is None:
            raise ClusterError("the workers ended without a result; run the same command again to continue")
        return hearer.result


def group_size(config: TrainConfig, session: Session) -> GroupSize:
    """How many workers there are to be, and what each has. Raises UsageError for a GPU that is named by its number."""
    assert session.connection is not None
    workers = config.workers
    kind, _, number = config.device.partition(":")
    if number:
        raise UsageError(f"device {config.device!r}: Ray gives each worker its GPU; use device=cuda, cpu or auto")
    threads = 1 if config.threads == "auto" else int(config.threads)
    there_are = places(session.connection, threads, 1)
    gpus = kind == "cuda" or (kind == "auto" and there_are >= workers.fewest)
    return GroupSize(workers.fewest, workers.most, threads, int(gpus), workers.max_failures)


def _inputs(config: TrainConfig) -> list[str]:
    """What is read by every worker and lies in the file system."""
    names = [*getattr(getattr(config.data, config.data.source, None), "paths", ()), config.start.model]
    paths = [Path(name).expanduser().absolute() for name in names if name is not None]
    return [str(path) for path in paths if path.exists()]


class _Hearer:
    """Does with what the first worker tells what its loop would have done here."""

    def __init__(self, observer: Observer, record: Any, size: GroupSize) -> None:
        self._observer, self._record, self._size = observer, record, size
        self._starts = 0
        self.result: TrainResult | None = None

    def __call__(self, message: Mapping[str, Any]) -> None:
        if "tell" in message:
            arguments = message["arguments"]
            if message["tell"] == "progress":
                arguments = [Progress(**arguments[0])]
            getattr(self._observer, message["tell"])(*arguments)
        elif "record" in message:
            self._record(**message["record"])
        elif "started" in message:
            self._started(message["started"])
        else:
            values = dict(message["result"])
            folder = values.pop("model_folder")
            self.result = TrainResult(
                **values | {"out": Path(values["out"]), "model_folder": None if folder is None else Path(folder)}
            )

    def _started(self, workers: int) -> None:
        self._starts += 1
        if self._starts > 1:
            self._observer.warn(
                f"workers were lost or their number has changed; {workers} of them go on from the last checkpoint "
                f"(start {self._starts}, at most {self._size.max_failures} losses are made good)"
            )
