"""The retry policy, on a pool that is a script and a clock that only the pool moves.

Every item's row is a function of the item, so whatever happens on the way, the committed rows have one right value.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from fake_pool import FakePool, Step, row
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import ClusterError, InputError, StoppedEarly
from mplat.runtime import Job, Limits, Made, Shard, WorkerError, plan_shards, run_shards


class Outcomes:
    """Collects commits, and is the job of the scheduler under test."""

    def __init__(self) -> None:
        self.commits: list[tuple[Shard, list[dict[str, int]], Made]] = []
        self.notes: list[str] = []

    def job(self) -> Job:
        def check(shard: Shard, items: tuple[int, ...], table: pa.Table) -> None:
            assert table.column("item").to_pylist() == list(items)

        return Job(
            payload=lambda shard, items: {"items": items},
            check=check,
            commit=lambda shard, table, made: self.commits.append((shard, table.to_pylist(), made)),
            lost_row=lambda item, reason: pa.table({"item": [item], "value": [-1]}),
            note=self.notes.append,
        )

    def values(self) -> dict[int, int]:
        return {r["item"]: r["value"] for _, table, _ in self.commits for r in table}


def run(pool: FakePool, shards: tuple[Shard, ...], **limits: Any) -> Outcomes:
    outcomes = Outcomes()
    run_shards(shards, pool, outcomes.job(), limits=Limits(**limits), clock=pool.clock)
    return outcomes


def right(count: int) -> dict[int, int]:
    return dict(row(i) for i in range(count))


def test_every_shard_is_committed_once_and_whole() -> None:
    pool = FakePool(lambda actor, items, before: Step(seconds=1 + sum(items) % 3))
    outcomes = run(pool, plan_shards(23, 4))
    assert outcomes.values() == right(23)
    assert Counter(s.index for s, _, _ in outcomes.commits) == Counter(range(6))
    assert {m.attempts for _, _, m in outcomes.commits} == {1} and not any(m.split for _, _, m in outcomes.commits)
    assert pool.most_in_flight == 2, "two in flight hide the round trip, and never more"
    assert outcomes.notes == []


def test_nothing_to_do_is_done() -> None:
    assert run(FakePool(lambda *_: Step()), ()).commits == []


def test_the_first_round_goes_to_all_actors() -> None:
    pool = FakePool(lambda *_: Step(), size=3)
    run(pool, plan_shards(3, 1))
    assert pool.now == 1.0, "three shards on three actors take the time of one"


def test_a_shard_whose_worker_died_is_run_again_elsewhere() -> None:
    pool = FakePool(lambda actor, items, before: Step(end="dies" if items == (4, 5, 6, 7) and not before else "ok"))
    outcomes = run(pool, plan_shards(23, 4))
    assert outcomes.values() == right(23)
    assert {s.index: m.attempts for s, _, m in outcomes.commits} == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert "lost its worker (dies); attempt 2 follows" in outcomes.notes[0]


def test_what_only_waited_on_a_dead_actor_is_not_blamed() -> None:
    """One actor, two in flight: the first dies again and again and is cut; the one behind it was never begun."""
    pool = FakePool(lambda actor, items, before: Step(end="dies" if items == (0, 1) else "ok"), size=1)
    outcomes = run(pool, plan_shards(4, 2))
    assert outcomes.values() == right(4)
    assert {s.index: (m.attempts, m.split) for s, _, m in outcomes.commits}[1] == (1, False)


@pytest.mark.parametrize("poisons", [{5}, {5, 13}, {2, 9, 13}, {1, 6, 8, 15}])
@pytest.mark.parametrize("size", [1, 2])
def test_a_shard_whose_answers_deaths_take_with_them_is_not_cut(poisons: set[int], size: int) -> None:
    def script(actor: int, items: tuple[int, ...], before: int) -> Step:
        return Step(end="dies" if poisons & set(items) else "unsent")

    out = run(FakePool(script, size=size), plan_shards(20, 2), losses_in_a_row=99)
    assert [shard.items for shard, _, made in out.commits if made.split and not poisons & set(shard.items)] == []
    assert out.values() == right(20) | dict.fromkeys(poisons, -1)


@pytest.mark.parametrize("poison", range(16))
def test_f8_one_item_that_kills_every_worker_costs_itself_alone(poison: int) -> None:
    pool = FakePool(lambda actor, items, before: Step(end="dies" if poison in items else "ok"))
    outcomes = run(pool, plan_shards(24, 16))
    assert outcomes.values() == {**right(24), poison: -1}
    shard, table, made = next(c for c in outcomes.commits if poison in c[0].items)
    assert [r["item"] for r in table] == list(shard.items), "pieces come together in the shard's order"
    assert made.split and made.attempts == 1 + 4 + 3 * 1 + 2, "four deaths for 16 items, one for 8, 4 and 2, two for 1"


def test_a_shard_that_random_deaths_hit_three_times_is_not_cut() -> None:
    pool = FakePool(lambda actor, items, before: Step(end="dies" if 0 in items and before < 3 else "ok"))
    outcomes = run(pool, plan_shards(8, 4))
    assert outcomes.values() == right(8)
    assert {s.index: (m.attempts, m.split) for s, _, m in outcomes.commits} == {0: (4, False), 1: (1, False)}


def test_before_a_shard_is_cut_it_runs_whole_and_with_nothing_beside_it() -> None:
    """Two that are too large together kill their workers; each alone has memory enough."""
    large = {(0, 1), (2, 3), (4, 5)}

    def script(actor: int, items: tuple[int, ...], before: int) -> Step:
        beside = [queue[0][1] for other, queue in pool.queues.items() if other != actor and queue]
        return Step(end="dies" if items in large and large & set(beside) else "ok")

    pool = FakePool(script, size=3)
    outcomes = run(pool, plan_shards(12, 2))
    assert outcomes.values() == right(12)
    assert not any(made.split for _, _, made in outcomes.commits)
    assert max(made.attempts for _, _, made in outcomes.commits) > 1


def test_what_says_that_memory_is_short_is_computed_in_halves() -> None:
    def script(actor: int, items: tuple[int, ...], before: int) -> Step:
        kind = "OutOfMemoryError" if len(items) > 2 else ""
        return Step(end="Tried to allocate 2 GiB" if kind else "ok", kind=kind)

    outcomes = run(FakePool(script), plan_shards(8, 8))
    assert outcomes.values() == right(8)
    ((_, _, made),) = outcomes.commits
    assert made.split and made.attempts == 4
    assert outcomes.notes[0].endswith("is cut: its 8 items need more memory than there is")


def test_where_memory_is_short_for_one_item_the_run_ends() -> None:
    pool = FakePool(lambda actor, items, before: Step(end="CUDA out of memory", kind="RuntimeError"))
    with pytest.raises(ClusterError, match="too little memory even for one item.*0 of the 1 shards.*smaller model"):
        run(pool, plan_shards(4, 4))


def test_two_poisonous_items_in_one_shard_are_both_found() -> None:
    pool = FakePool(lambda actor, items, before: Step(end="dies" if {3, 4} & set(items) else "ok"))
    assert run(pool, plan_shards(8, 8)).values() == {**right(8), 3: -1, 4: -1}


def test_when_every_worker_dies_the_run_ends_instead_of_marking_everything_lost() -> None:
    pool = FakePool(lambda *_: Step(end="dies"))
    with pytest.raises(ClusterError, match="12 workers died.*fewer --actors") as caught:
        run(pool, plan_shards(400, 4))
    assert caught.value.exit_code == 4
    assert len(pool.begun) == 12


def test_a_machine_that_goes_away_says_nothing_about_its_shard() -> None:
    pool = FakePool(lambda actor, items, before: Step(end="node dies" if 0 in items and before < 3 else "ok"))
    outcomes = run(pool, plan_shards(6, 3))
    assert outcomes.values() == right(6)
    assert {s.index: (m.attempts, m.split) for s, _, m in outcomes.commits} == {0: (4, False), 1: (1, False)}


def test_f3_with_no_actor_left_the_run_waits_for_the_start_timeout() -> None:
    pool = FakePool(lambda *_: Step(end="node dies"), size=1, starting_s=1e9)
    with pytest.raises(ClusterError, match="no worker came up within 60 s; 0 of the 2 shards"):
        run(pool, plan_shards(6, 3), start_timeout_s=60.0)
    assert 60 <= pool.now < 63


def test_f9_a_straggler_is_overtaken_and_the_first_result_counts() -> None:
    pool = FakePool(lambda actor, items, before: Step(seconds=1000.0 if items == (1,) and not before else 1.0))
    outcomes = run(pool, plan_shards(12, 1))
    assert outcomes.values() == right(12)
    assert Counter(s.index for s, _, _ in outcomes.commits) == Counter(range(12))
    assert pool.now < 20, "nobody waited for it"
    assert pool.begun.count((1,)) == 2
    assert {m.attempts for _, _, m in outcomes.commits} == {1}, "a copy is no failed attempt"


def test_what_waits_behind_a_straggler_is_overtaken_too() -> None:
    pool = FakePool(lambda actor, items, before: Step(seconds=1000.0 if actor == 0 else 1.0))
    outcomes = run(pool, plan_shards(12, 1))
    assert outcomes.values() == right(12)
    assert pool.now < 30


def test_what_a_dead_actor_has_is_not_overtaken_while_its_verdict_is_awaited() -> None:
    """Else the copy's rows would be committed as if nothing had happened."""
    dies = Step(end="dies")
    pool = FakePool(lambda actor, items, before: dies if items == (11,) and not before else Step(), verdict_s=5.0)
    outcomes = run(pool, plan_shards(12, 1))
    assert outcomes.values() == right(12) and pool.begun.count((11,)) == 2
    assert [made.attempts for shard, _, made in outcomes.commits if shard.index == 11] == [2]
    assert not any("a copy is started" in note for note in outcomes.notes)


def test_f10_a_late_duplicate_goes_to_commit_which_compares_it() -> None:
    """The slow copy ends while other work is still running: the scheduler hands over both."""

    def script(actor: int, items: tuple[int, ...], before: int) -> Step:
        if items == (1,):
            return Step(seconds=1.0 if before else 30.0)
        return Step(seconds=40.0 if items == (11,) else 1.0)

    outcomes = run(FakePool(script, size=3), plan_shards(12, 1))
    assert Counter(s.index for s, _, _ in outcomes.commits)[1] == 2
    assert outcomes.values() == right(12)


def test_an_error_seen_by_two_actors_ends_the_run_with_it() -> None:
    pool = FakePool(lambda *_: Step(end="'strength'"))
    with pytest.raises(WorkerError, match="KeyError: 'strength'"):
        run(pool, plan_shards(40, 4))
    assert len(pool.begun) <= 4


def test_one_actors_own_trouble_is_survived() -> None:
    """Actor 0 cannot open a file that actor 1 can: each shard it fails goes to the other one."""
    pool = FakePool(lambda actor, items, before: Step(end=f"no /scratch for {items}" if actor == 0 else "ok"))
    outcomes = run(pool, plan_shards(12, 2))
    assert outcomes.values() == right(12)
    assert max(m.attempts for _, _, m in outcomes.commits) == 2


def test_an_error_that_follows_its_shard_ends_the_run_after_the_second_time() -> None:
    pool = FakePool(lambda actor, items, before: Step(end=f"bad {before}" if 5 in items else "ok"), size=1)
    with pytest.raises(WorkerError, match="bad 1"):
        run(pool, plan_shards(12, 2))
    assert pool.begun.count((4, 5)) == 2


def test_an_error_of_mplats_own_ends_the_run_at_once_and_keeps_its_class() -> None:
    pool = FakePool(lambda *_: Step(end="model folder m: truncated", kind="InputError"))
    with pytest.raises(InputError, match="^model folder m: truncated$"):
        run(pool, plan_shards(12, 2))
    assert len(pool.begun) == 4, "one on each actor, and the next ones had begun"


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, StoppedEarly), (signal.SIGINT, KeyboardInterrupt)])
def test_f6_a_signal_lets_running_shards_finish_and_starts_no_more(number: int, error: type[BaseException]) -> None:
    def kill_at_three(pool: FakePool) -> None:
        if pool.now >= 3 and not pool.killed:  # type: ignore[attr-defined]
            pool.killed = True  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)

    pool = FakePool(lambda *_: Step(), on_wait=kill_at_three)
    pool.killed = False  # type: ignore[attr-defined]
    outcomes = Outcomes()
    before = signal.getsignal(number)
    with pytest.raises(error, match=r"10 of the 50 shards of this run are saved; run the same command again"):
        run_shards(plan_shards(50, 1), pool, outcomes.job(), clock=pool.clock)
    assert len(outcomes.commits) == 10, "six were done, two were in flight on each of two actors, the rest never began"
    assert len(pool.begun) == 10
    assert signal.getsignal(number) is before


def test_a_stop_names_the_stage_whose_shards_it_counts() -> None:
    asked: list[int] = []

    def term(pool: FakePool) -> None:
        if not asked:
            asked.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    pool, job = FakePool(lambda *_: Step(), on_wait=term), dataclasses.replace(Outcomes().job(), name="development")
    with pytest.raises(StoppedEarly, match=r"of the 9 shards that stage 'development' still needed are saved; run the"):
        run_shards(plan_shards(9, 1), pool, job, clock=pool.clock)


def test_f6_after_the_grace_time_running_shards_are_left() -> None:
    def term(pool: FakePool) -> None:
        if not pool.begun[2:]:
            os.kill(os.getpid(), signal.SIGTERM)
            pool.begun.append(())
            pool.begun.append(())

    pool = FakePool(lambda *_: Step(seconds=1000.0), on_wait=term)
    with pytest.raises(StoppedEarly, match="0 of the 9 shards"):
        run(pool, plan_shards(9, 1), grace_s=5.0)
    assert 5 <= pool.now < 6


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 5), batch=st.integers(1, 6))
def test_f35_whatever_goes_wrong_once_the_committed_rows_are_the_right_ones(seed: int, size: int, batch: int) -> None:
    """A tenth of the executions kill their worker, a tenth are slow, results come back in any order."""
    chance = random.Random(seed)

    def script(actor: int, items: tuple[int, ...], before: int) -> Step:
        if before == 0 and chance.random() < 0.1:
            return Step(seconds=chance.random(), end=chance.choice(["dies", "node dies"]))
        return Step(seconds=30.0 if before == 0 and chance.random() < 0.1 else 1.0 + chance.random())

    pool = FakePool(script, size=size, shuffle=random.Random(seed))
    outcomes = run(pool, plan_shards(40, batch))
    assert outcomes.values() == right(40)
    assert not any(made.split for _, _, made in outcomes.commits)
