"""Training in one of the workers of a group: the loop, with what it tells sent to the process that started them.

Messages are {"tell": method of the observer, "arguments": [...]}, {"record": sections of the run's record}, {"started":
number of workers} and, at the end, {"result": fields of TrainResult}.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.observer import Observer
from ..runtime.stop import StopRequest
from .loop import train_in
from .precision import choose_device
from .processes import TorchProcesses
from .run_folder import RunFolder
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..runtime.table_job import Progress
    from ..runtime.worker_group import Place


class _Teller(Observer):
    """Sends on what the first worker's loop says."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def say(self, text: str) -> None:
        self._tell("say", text)

    def warn(self, text: str) -> None:
        self._tell("warn", text)

    def report(self, part: str, values: Mapping[str, float | None]) -> None:
        self._tell("report", part, dict(values))

    def progress(self, progress: Progress) -> None:
        self._tell("progress", asdict(progress))

    def _tell(self, method: str, *arguments: Any) -> None:
        self._place.tell({"tell": method, "arguments": arguments})


class _AskedFromAfar(StopRequest):
    """The wish to stop, which reaches the process that started the group."""

    def __init__(self, place: Place) -> None:
        self._place = place
        super().__init__()

    @property
    def signal(self) -> signal.Signals | None:
        number = self._place.asked_to_stop()
        return signal.Signals(number) if number else self._agreed

    @signal.setter
    def signal(self, value: signal.Signals | None) -> None:
        self._agreed = value


def run(config: dict[str, Any], out: str, resume: str, device: str, seen: str, place: Place) -> None:
    """Train with the other workers; `seen` is a file that whoever started them has put into the folder `out`.

    Raises InputError where this node has another folder of that name, and what `train` raises.
    """
    folder, settings = RunFolder(Path(out)), TrainConfig.model_validate(config)
    if not (folder.path / seen).is_file():
        raise InputError(
            f"the run folder {out} is not there; checkpoints are written by one worker and read by all, so --out has "
            "to be a folder that every node shares"
        )
    processes = TorchProcesses(choose_device(device))
    if processes.first:
        place.tell({"started": processes.world_size})
    result = train_in(
        folder,
        settings,
        _Teller(place),
        lambda **sections: place.tell({"record": sections}),
        _AskedFromAfar(place),
        resume=resume,
        processes=processes,
        device=device,
    )
    if result is not None:
        paths = {
            "out": str(result.out),
            "model_folder": None if result.model_folder is None else str(result.model_folder),
        }
        place.tell({"result": asdict(result) | paths})
