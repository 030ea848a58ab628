"""However many workers there are, in whatever order they answer and die: one table, byte for byte.

The workers are turns in this process: in each, every one of them may end what it holds, in an order that is drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mplat.core.whole_files import table_bytes
from mplat.runtime import Limits, Progress, WorkerFactory, open_session, read_ledger, run_table
from mplat.runtime.pool import Finished, Lost
from shard_workers import SCHEMA, executions, items

ITEMS = items(40)


class Place:
    """`size` workers, each dying in place of answering with the chance `deaths`; stands for a session and a pool."""

    depth, trouble = 2, ""

    def __init__(self, size: int, seed: int = 0, *, deaths: float = 0.0) -> None:
        self.size, self.deaths, self.chance = size, deaths, random.Random(seed)
        self.turns = self.died = 0

    @contextmanager
    def pool(self, factory: WorkerFactory, *, at_most: int | None = None) -> Iterator[Place]:
        self.worker, self.numbers, self.tickets = factory.build(), itertools.count(), itertools.count()
        self.queues: dict[int, list[tuple[int, dict[str, Any]]]] = {next(self.numbers): [] for _ in range(self.size)}
        yield self

    def actors(self) -> list[int]:
        return list(self.queues)

    def submit(self, actor: int, payload: dict[str, Any]) -> int:
        ticket = next(self.tickets)
        self.queues[actor].append((ticket, payload))
        return ticket

    def wait(self, timeout_s: float) -> list[Finished | Lost]:
        self.turns += 1
        outcomes: list[Finished | Lost] = []
        busy = [actor for actor, queue in self.queues.items() if queue and self.chance.random() < 0.7]
        for actor in self.chance.sample(busy, len(busy)):
            if self.chance.random() < self.deaths:
                self.died += 1
                outcomes += [Lost(ticket, actor, "killed") for ticket, _ in self.queues.pop(actor)]
            else:
                ticket, payload = self.queues[actor].pop(0)
                outcomes.append(Finished(ticket, self.worker.run(payload)))
        return outcomes

    def replace(self, actor: int) -> None:
        assert actor not in self.queues
        self.queues[next(self.numbers)] = []


def make_table(folder: Path, place: Any, *, batch_size: int = 3, log: Path | None = None, **more: Any) -> pa.Table:
    factory = WorkerFactory("shard_workers:make", {"log": str(log)} if log else {})
    return run_table(
        "test", ITEMS, factory, out_dir=folder, session=place, batch_size=batch_size, sort_by=["id"], schema=SCHEMA,
        semantic_key={}, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the table that the pool of this process makes."""
    with open_session("none") as here:
        return table_bytes(make_table(tmp_path_factory.mktemp("right"), here))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_f22_f23_any_number_of_workers_in_any_order_gives_the_same_bytes(tmp_path, right, size) -> None:
    orders = set()
    for seed in range(3):
        log = tmp_path / f"log {seed}"
        table = make_table(tmp_path / str(seed), Place(size, seed), log=log)
        assert table_bytes(table) == right
        assert table["id"].to_pylist() == sorted(item["id"] for item in ITEMS)
        orders.add(tuple(executions(log)))
    assert len(orders) == (1 if size == 1 else 3), "the orders differed, where they can"


def test_f24_a_run_is_continued_by_another_number_of_workers(tmp_path, right) -> None:
    def after_four(progress: Progress) -> None:
        if progress.shards_done == 4:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make_table(tmp_path / "out", Place(1), progress=after_four)
    table = make_table(tmp_path / "out", Place(3), progress=lambda p: told.append(p.resumed_shards))
    assert table_bytes(table) == right and set(told) == {4}


def test_f10_a_shard_that_comes_twice_is_one_line_of_the_ledger(tmp_path, right) -> None:
    log = tmp_path / "log"
    impatient = Limits(straggler_factor=0.0, straggler_floor_s=0.0, straggler_samples=1)
    for seed in range(4):  # copies of what is not there yet at the end
        assert table_bytes(make_table(tmp_path / str(seed), Place(3, seed), log=log, limits=impatient)) == right
        lines = (tmp_path / str(seed) / "ledger.jsonl").read_text().splitlines()
        assert len(lines) == 1 + 14 and len(list((tmp_path / str(seed)).glob("part-*"))) == 14
    assert len(executions(log)) > 4 * 14, "some were computed twice"


def test_f35_a_tenth_of_the_workers_dying_costs_less_than_three_times_the_time_and_no_byte(tmp_path) -> None:
    turns, died = {0.0: 0, 0.1: 0}, 0
    tables = set()
    for deaths in turns:
        for seed in range(3):
            place = Place(2, seed, deaths=deaths)
            folder = tmp_path / f"{deaths} {seed}"
            tables.add(table_bytes(make_table(folder, place, batch_size=2)))
            turns[deaths] += place.turns
            died += place.died
            assert not any(entry.split for entry in read_ledger(folder / "ledger.jsonl").entries.values())
    assert len(tables) == 1 and died >= 4
    assert turns[0.0] < turns[0.1] < 3 * turns[0.0]
