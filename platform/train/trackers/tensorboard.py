"""TensorBoard: event files in OUT/tensorboard, which `tensorboard --logdir OUT` shows."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from ..tracker import TrackedRun, tracker


@tracker("tensorboard")
class TensorBoard:
    """Written by tensorboardX, which does without TensorBoard's server."""

    package: ClassVar[str] = "tensorboardX"

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        folder = run.folder / "tensorboard"
        for path in sorted(folder.glob("events.out.tfevents.*")):
            drop_later_events(path, run.resumed_step)
        # a name tells seconds alone, and a run may go on within one
        self._writer = SummaryWriter(str(folder), flush_secs=30, filename_suffix=f".{run.resumed_step}")

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


def drop_later_events(path: Path, step: int) -> None:
    """Cut an event file before its first event of a later step than `step`, or before a torn one.

    A record is its length (uint64), a checksum (4 bytes), a serialised Event of that length and a checksum.
    """
    read = import_module("tensorboardX.proto.event_pb2").Event.FromString
    end = 0
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", head)
            body = file.read(length + 4)
            if len(body) < length + 4 or read(body[:length]).step > step:
                break
            end = file.tell()
    os.truncate(path, end)
