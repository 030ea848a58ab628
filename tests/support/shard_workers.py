"""Workers for tests of the runtime, importable by name in this process and in Ray actors.

The faults are real: `dies_on` kills its own process with SIGKILL, once or every time. Executions are counted by lines
in a file, which survive everything, rather than in memory.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from mplat.core.copies import placed

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
    ]
)


def items(count: int) -> list[dict[str, Any]]:
    """Items in an order that is not the sorted one."""
    return [{"id": f"q{(7 * i) % count:03d}", "x": float(i), "length": 1 + (5 * i) % 11} for i in range(count)]


class BatchWorker:
    """A value that depends on the whole batch, in the last bits, as a padded matrix product does."""

    def __init__(self, log: str | None, dies_on: str | None, every_time: bool, raises_on: str | None, sleep_s: float):
        self.log, self.dies_on, self.every_time = log, dies_on, every_time
        self.raises_on, self.sleep_s = raises_on, sleep_s

    def run(self, payload: dict[str, Any]) -> pa.Table:
        given = payload["items"]
        ids = [item["id"] for item in given]
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(payload["shard"] + "\n")
        time.sleep(self.sleep_s)
        if self.dies_on in ids and (self.every_time or first_time(f"{self.log}.died")):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises_on in ids:
            raise KeyError(f"no such thing for {self.raises_on}")
        total = 0.0
        for item in given:
            total += item["x"] / 3.0
        values = [item["x"] / 7.0 + total * 1e-3 for item in given]
        return pa.Table.from_pydict({"id": ids, "value": values, "status": ["ok"] * len(ids)}, schema=SCHEMA)


def make(
    log: str | None = None,
    dies_on: str | None = None,
    every_time: bool = False,
    raises_on: str | None = None,
    sleep_s: float = 0.0,
) -> BatchWorker:
    """The factory's function."""
    return BatchWorker(log, dies_on, every_time, raises_on, sleep_s)


def make_unmakable() -> BatchWorker:
    """A worker that cannot be built."""
    from mplat.core.errors import InputError

    raise InputError("model folder /nowhere: no config.json")


class ReadingWorker:
    """Says what is in a file, and where it was."""

    def __init__(self, path: str) -> None:
        self.found = Path(placed(path))

    def run(self, payload: dict[str, Any]) -> pa.Table:
        time.sleep(0.2)
        ids = [item["id"] for item in payload["items"]]
        digest = hashlib.sha256(self.found.read_bytes()).hexdigest()
        return pa.Table.from_pydict({"id": ids, "value": [0.0] * len(ids), "status": [digest] * len(ids)}, SCHEMA)


def make_reading(path: str) -> ReadingWorker:
    """The factory's function."""
    return ReadingWorker(path)


class SlowWorker(BatchWorker):
    """Takes long over one item, and says in a file which process it is that does."""

    def __init__(self, slow: str, seconds: float, log: str) -> None:
        super().__init__(None, None, False, None, 0.1)
        self.slow, self.seconds, self.pids = slow, seconds, log

    def run(self, payload: dict[str, Any]) -> pa.Table:
        if self.slow in [item["id"] for item in payload["items"]]:
            with open(self.pids, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(self.seconds)
        return super().run(payload)


def make_slow(slow: str, seconds: float, log: str) -> SlowWorker:
    """The factory's function."""
    return SlowWorker(slow, seconds, log)


class TorchWorker:
    """A float32 product over the batch, and the number of threads torch used for it."""

    def run(self, payload: dict[str, Any]) -> pa.Table:
        import torch

        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(64, 64, generator=generator)
        x = torch.tensor([item["x"] for item in payload["items"]])
        y = (torch.tanh(x[:, None] * torch.linspace(0, 1, 64)) @ weights).sum(dim=1)
        return pa.Table.from_pydict(
            {
                "id": [item["id"] for item in payload["items"]],
                "value": y.double().tolist(),
                "status": [f"{torch.get_num_threads()} threads"] * len(x),
            },
            schema=SCHEMA,
        )


def make_torch() -> TorchWorker:
    """The factory's function."""
    return TorchWorker()


def first_time(path: str) -> bool:
    """True for the first caller on this machine, whichever process it is."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def executions(log: Path) -> list[str]:
    """The shards that were begun, in order."""
    return log.read_text(encoding="utf-8").split() if log.exists() else []


class FaultyWorker(BatchWorker):
    """A right answer, spoilt by a function."""

    def __init__(self, spoil: Callable[[pa.Table], Any]) -> None:
        super().__init__(None, None, False, None, 0.0)
        self.spoil = spoil

    def run(self, payload: dict[str, Any]) -> Any:
        return self.spoil(super().run(payload))


def make_random(log: str) -> FaultyWorker:
    """Other numbers in every process, as from an unseeded generator."""
    return FaultyWorker(lambda t: t.set_column(1, "value", pa.array([time.time()] * t.num_rows, pa.float64())))


def make_other_columns() -> FaultyWorker:
    """float32 where the schema says float64."""
    return FaultyWorker(lambda t: t.set_column(1, "value", t.column("value").cast(pa.float32())))


def make_fewer_rows() -> FaultyWorker:
    """An item is left out."""
    return FaultyWorker(lambda t: t.slice(1))


def make_other_ids() -> FaultyWorker:
    """A row of an item that was not asked for."""

    def rename(table: pa.Table) -> pa.Table:
        return table.set_column(0, SCHEMA.field("id"), pa.array(["nobody", *table.column("id").to_pylist()[1:]]))

    return FaultyWorker(rename)


def make_no_table() -> FaultyWorker:
    """Rows as dictionaries."""
    return FaultyWorker(lambda t: t.to_pylist())


class SeeingWorker(BatchWorker):
    """Writes down which GPUs its process sees."""

    def __init__(self, seen: str | None) -> None:
        super().__init__(None, None, False, None, 0.0 if seen is None else 2.0)
        self.seen = seen

    def run(self, payload: dict[str, Any]) -> pa.Table:
        if self.seen is not None:
            with open(self.seen, "a", encoding="utf-8") as file:
                file.write((os.environ.get("CUDA_VISIBLE_DEVICES", "all") or "nothing") + "\n")
        return super().run(payload)


def make_seer(seen: str | None = None) -> SeeingWorker:
    """The factory's function."""
    return SeeingWorker(seen)
