"""The one observer of commands: what any run tells is shown the same way, in a pipe as plain lines."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from mplat.commands.frame.console import Console
from mplat.commands.frame.output import Output
from mplat.core.observer import Observer
from mplat.core.plain_text import clean
from mplat.runtime.table_job import Progress


def job(done: int, rows: int, *, name: str = "answer", resumed: int = 0, note: str = "", detail: str = "") -> Progress:
    return Progress(name, done, rows, done, rows, resumed, note, detail)


def shown(capfd: pytest.CaptureFixture[str], jobs: Iterable[Progress], **about: int) -> list[str]:
    """What is said of these jobs, without the time they took."""
    with Console(Output(), "rows", **about) as console:
        for each in jobs:
            console.progress(each)
    out, err = capfd.readouterr()
    assert out == "" and clean(err) == err
    return [line.split(" (100%)")[0].split(", ")[0] for line in err.splitlines()]


def test_every_job_is_a_count_of_its_own(capfd):
    jobs = [job(done, 3) for done in range(4)] + [job(done, 2, name="judge") for done in range(3)]
    assert shown(capfd, jobs) == ["answer: 3/3 rows", "judge: 2/2 rows"]


def test_a_job_that_counts_from_zero_again_is_another_one(capfd):
    assert shown(capfd, [job(1, 2), job(2, 2), job(0, 5), job(5, 5)]) == ["answer: 2/2 rows", "answer: 5/5 rows"]


def test_what_an_earlier_run_did_is_not_counted_but_said(capfd):
    assert shown(capfd, [job(3, 5, resumed=3), job(5, 5, resumed=3)]) == [
        "answer (3 are there from an earlier run): 2/2 rows"
    ]
    assert shown(capfd, [job(5, 5, resumed=5)]) == ["answer: all 5 rows are there from an earlier run"]
    assert shown(capfd, [job(0, 0)]) == []


def test_what_is_out_of_the_ordinary_is_a_warning_and_a_detail_stands_behind_the_count(capfd):
    with Console(Output(), "steps") as console:
        console.progress(job(0, 2))
        console.progress(job(1, 2, note="a worker died"))
        console.progress(job(2, 2, detail="loss 2.5"))
    first, last = capfd.readouterr().err.splitlines()
    assert first == "warning: a worker died" and last.startswith("answer: 2/2 steps") and last.endswith("; loss 2.5")


def test_parts_are_numbered_and_tell_what_came_out_once(capfd):
    with Console(Output(), "rows", parts=2) as console:
        for part, seconds in (("prompts", 0.25), ("eval", 75.0)):
            console.begin(part)
            console.progress(job(0, 4, name=part))
            console.progress(job(4, 4, name=part))  # a short job in a part is worth no line of its own
            console.end(part, "4 rows", seconds)
    assert capfd.readouterr().err == "1/2 prompts: 4 rows (0.2 s)\n2/2 eval: 4 rows (1 min 15 s)\n"


def test_a_part_with_a_detail_says_it_when_it_begins(capfd):
    with Console(Output(), "rows") as console:
        console.begin("attribution", "not in the cache")
        console.end("attribution", "12 rows", 12)
    assert capfd.readouterr().err == "attribution: not in the cache\nattribution: 12 rows (12 s)\n"


def test_progress_that_is_broken_off_is_closed(capfd):
    with pytest.raises(ValueError, match="broken"), Console(Output(), "rows") as console:
        console.progress(job(0, 4))
        console.progress(job(1, 4))
        raise ValueError("broken")
    assert capfd.readouterr().err.startswith("answer: 1/4 rows (25%)")


def test_quiet_keeps_the_warnings(capfd):
    with Console(Output(quiet=True), "rows") as console:
        console.say("hello")
        console.begin("part", "detail")
        console.progress(job(0, 4, note="careful"))
        console.progress(job(4, 4))
        console.end("part", "4 rows", 1)
        console.warn("again")
    assert capfd.readouterr().err == "warning: careful\nwarning: again\n"


def test_it_hears_everything_that_a_run_tells():
    silent = {"report"}  # numbers for other watchers
    told = {name for name, method in vars(Observer).items() if callable(method) and not name.startswith("_")}
    assert told - silent <= vars(Console).keys()
