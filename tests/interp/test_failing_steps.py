"""One step that fails stops those that need it and no others; what concerns all of them stops the run at once."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import traceback
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from interp_jobs import asked, reader
from mplat.core.errors import ClusterError, InputError, StoppedEarly
from mplat.interp import Cache, Job, Observer, Plan, all_steps, config_model, plan_steps, run_plan, run_steps
from mplat.interp.engine.run import carry_out
from mplat.interp.engine.run_record import run_into
from mplat.interp.engine.step import Step, StepSettings, Tables
from mplat.models import LanguageModel
from mplat.report import load as load_report
from mplat.report import render
from mplat.runtime import open_session
from mplat.runtime.record import read_run

RAN: list[str] = []
RAISED: dict[str, BaseException] = {}


def named(name: str) -> Any:
    def function(job: Job) -> Tables:
        """Raises what it was told to, else one row."""
        RAN.append(name)
        if name in RAISED:
            raise RAISED[name]
        return {"": pa.table({"step": [name]})}

    return function


def known(**needs: tuple[str, ...]) -> dict[str, Step]:
    return {name: Step(name, 1, upstream, StepSettings, False, named(name)) for name, upstream in needs.items()}


STEPS = known(alone=(), base=(), middle=("base",), other=("alone",), top=("middle", "alone"))


@pytest.fixture(autouse=True)
def _forget() -> None:
    RAN.clear()
    RAISED.clear()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


def plan(model: LanguageModel, *steps: str) -> Plan:
    config = config_model().model_validate({"steps": steps or None, "batch_size": 4})
    return plan_steps(model, asked()[:3], config, known=STEPS)


def test_others_are_run_and_those_that_need_it_are_skipped_by_name(model, tmp_path) -> None:
    RAISED["base"] = InputError("the base is missing")
    said: list[str] = []

    class Hears(Observer):
        def warn(self, text: str) -> None:
            said.append(text)

    done = carry_out(plan(model), cache=Cache(tmp_path), observer=Hears())
    assert list(done.results) == ["alone", "other"] and RAN == ["alone", "base", "other"]
    assert [(f.step, f.status, f.needed) for f in done.failures.values()] == [
        ("base", "failed", None), ("middle", "skipped", "base"), ("top", "skipped", "base"),
    ]  # fmt: skip
    assert said == [
        "base failed: the base is missing",
        "middle is skipped, since base, which it needs, failed",
        "top is skipped, since base, which it needs, failed",
    ]


def test_the_next_run_computes_only_what_failed_and_what_needs_it(model, tmp_path) -> None:
    RAISED["base"] = ValueError("a bug")
    carry_out(plan(model), cache=Cache(tmp_path))
    RAISED.clear()
    RAN.clear()
    done = carry_out(plan(model), cache=Cache(tmp_path))
    assert RAN == ["base", "middle", "top"] and not done.failures and len(done.results) == len(STEPS)


def test_a_result_that_is_there_needs_nothing_that_fails(model, tmp_path) -> None:
    carry_out(plan(model, "middle"), cache=Cache(tmp_path))
    Cache(tmp_path).remove("base", plan(model).steps["base"].key.digest)
    RAISED["base"] = InputError("gone")
    done = carry_out(plan(model, "middle", "base"), cache=Cache(tmp_path))
    assert list(done.results) == ["middle"] and list(done.failures) == ["base"]


def test_who_asks_for_results_alone_gets_the_first_error_after_all_was_run(model, tmp_path) -> None:
    RAISED.update(base=InputError("the base is missing"), other=ValueError("a bug"))
    with pytest.raises(InputError, match="the base is missing") as caught:
        run_plan(plan(model), cache=Cache(tmp_path))
    assert RAN == ["alone", "base", "other"]
    assert "other failed: ValueError: a bug" in caught.value.__notes__


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        ClusterError("no worker"),
        StoppedEarly("asked to"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_what_concerns_every_step_stops_at_once(model, tmp_path, error: BaseException) -> None:
    RAISED["alone"] = error
    with pytest.raises(type(error)):
        carry_out(plan(model), cache=Cache(tmp_path))
    assert RAN == ["alone"]


def test_what_a_failed_step_held_is_let_go_and_its_lines_are_kept(model, tmp_path) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def holds(job: Job) -> Tables:
        """Fails with a tensor at hand."""
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        raise RuntimeError("out of something")

    steps = {"holds": Step("holds", 1, (), StepSettings, False, holds)}
    chosen = plan_steps(model, asked()[:2], config_model().model_validate({"steps": ("holds",)}), known=steps)
    done = carry_out(chosen, cache=Cache(tmp_path))
    gc.collect()
    assert held[0]() is None
    assert "in holds" in "".join(traceback.format_exception(done.failures["holds"].error))


def test_an_error_of_one_file_stops_one_step(model, tmp_path) -> None:
    RAISED["alone"] = OSError(errno.ENOENT, "No such file", "a.txt")
    done = carry_out(plan(model), cache=Cache(tmp_path))
    assert list(done.results) == ["base", "middle"] and done.failures["other"].needed == "alone"


def test_the_folder_and_the_report_say_what_failed_and_how_to_run_it_again(model, tmp_path) -> None:
    RAISED["base"] = InputError("the base is <missing>")
    out = tmp_path / "run"

    def run() -> Any:
        with open_session("none") as session:
            return run_into(
                out, plan(model, "alone", "top"), cache=Cache(tmp_path / "cache"), session=session,
                again=lambda step: f"mplat interp --steps {step}",
            )  # fmt: skip

    assert run().failures.keys() == {"base", "middle", "top"}
    record = read_run(out)
    assert record.status == "unfinished" and set(record.files) == {"alone.parquet", "prompts.parquet"}
    failures = {failure["step"]: failure for failure in record.details["failures"]}
    assert failures["base"]["error"] == {"type": "InputError", "message": "the base is <missing>"}
    assert (failures["top"]["status"], failures["top"]["needed"]) == ("skipped", "base")
    assert failures["top"]["again"] == "mplat interp --steps top"
    (shown,) = load_report([out]).interpretations
    assert shown.missing[0] == "base failed: the base is <missing>; run it again with `mplat interp --steps base`"
    assert "top was skipped, since base, which it needs, failed" in shown.missing[2]
    page = render(load_report([out]))
    assert "the base is &lt;missing&gt;" in page and "mplat interp --steps top" in page
    RAISED.clear()
    assert not run().failures  # into the same folder
    record = read_run(out)
    assert record.status == "done" and "failures" not in record.details and "top.parquet" in record.files


SCRIPT = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import numba, torch._dynamo
from test_failing_steps import Tells, all_steps, reader, reading
from mplat.interp import Cache

class Dies(Tells):
    def __init__(self, step, at):
        super().__init__()
        self.dies = step, int(at)

    def progress(self, progress):
        super().progress(progress)
        dies, at = self.dies
        if [step for step, _ in self.told].count(dies) == at:
            print(dies, *(step for step, resumed in self.told if resumed), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

reader(), all_steps()
for death in sys.argv[2:]:  # each in a process of its own, which has imported what this one has
    child = os.fork()
    if not child:
        reading(Cache(Path(sys.argv[1])), Dies(*death.split(":")))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, death
"""
LATER = ("collect", "spd", "parameter_clusters")


class Tells(Observer):
    """Of every word on how far the work is: its step, and how much of it an earlier run had made."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self._step = ""

    def begin(self, part: str, detail: str = "") -> None:
        self._step = part

    def progress(self, progress: Any) -> None:
        self.told.append((self._step, progress.resumed_shards))


def reading(cache: Cache, observer: Observer) -> None:
    small = {step: dict(all_steps()[step].settings.small) for step in LATER}
    config = config_model().model_validate({"steps": LATER, "batch_size": 1, **small})
    run_steps(reader(), asked()[:4], config, cache=cache, observer=observer)


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(paths=[str(Path(__file__).parent), *(path for path in sys.path if path)]))

    # telling how far it is: among its batches; among those behind its training; among those of its second function
    deaths = ("collect:3", "spd:3", "parameter_clusters:8")
    words = [sys.executable, str(script), str(tmp_path / "killed"), *deaths]
    done = subprocess.run(words, env=os.environ, check=True, stdout=subprocess.PIPE, text=True)
    resumed = {step: set(others) for step, *others in map(str.split, done.stdout.splitlines())}
    assert resumed == {"collect": set(), "spd": {"collect"}, "parameter_clusters": {"spd"}}
    whole, last = Tells(), Tells()
    reading(Cache(tmp_path / "whole"), whole)
    reading(Cache(tmp_path / "killed"), last)
    assert not any(resumed for _, resumed in whole.told) and {step for step, _ in whole.told} == {*LATER}
    # what was finished is not begun again; all four batches of the first function and two of the second were there
    assert last.told == [("parameter_clusters", resumed) for resumed in (4, 2, 2, 2)]
    of_whole, of_killed = (
        {
            path.relative_to(tmp_path / cache): path.read_bytes()
            for path in (tmp_path / cache).rglob("*")
            if path.suffix in {".parquet", ".safetensors"}
        }
        for cache in ("whole", "killed")
    )
    assert of_whole == of_killed and len(of_whole) > 10
    assert not list(Path(tmp_path / "killed" / ".work").iterdir())
