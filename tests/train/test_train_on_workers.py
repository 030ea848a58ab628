"""`mplat train --workers` under Ray: the losses of one process, also after a worker was killed, and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from mplat.core.errors import InputError, UsageError
from mplat.runtime import open_session
from mplat.runtime.record import read_run
from mplat.train import on_workers, train
from mplat.train.log import read_log
from mplat.train.on_workers import train_on_workers
from train_runs import Recorder, config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

RUN = {"steps": 10, "device": "cpu", "threads": 1, "checkpoint": {"every": 2}}
EXPERTS = {"model": {"arch": "moe_mamba", "size": "nano"}, "micro_batch_size": 2}


@pytest.fixture(scope="module")
def session():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.delenv("RAY_AUTH_MODE", raising=False)
        with open_session("local", actors=2) as opened:
            yield opened


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(config(**RUN), folder)
    return folder


def on(count, **more):
    return config(**RUN | more, workers={"count": count, "max_failures": 1})


def same_losses(ours, theirs):
    ours, theirs = (
        [(line["step"], line["loss"]) for line in read_log(folder / "log.jsonl") if line["kind"] == "train"]
        for folder in (ours, theirs)
    )
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-6)


def workers():
    """Processes of workers that are up, and descend from this one."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and "RayTrainWorker" in " ".join(p.cmdline())]


def test_two_workers_train_as_one_process_does_and_balance_experts_alike(session, tmp_path):
    train(config(**RUN | EXPERTS), tmp_path / "alone")
    recorder = Recorder()
    result = train_on_workers(on(2, **EXPERTS), tmp_path / "two", session, observer=recorder)
    same_losses(tmp_path / "alone", tmp_path / "two")
    assert [r.step for r in recorder.reports] == list(range(1, 11)) and recorder.warnings == []
    assert any("workers: 2, each with a copy" in note for note in recorder.notes)
    record = read_run(tmp_path / "two")
    assert record.status == "done" and record.model is not None and record.model.digest == result.model_digest
    assert record.backend is not None and record.backend.session is not None and record.backend.session["actors"] == 2
    assert not [p.name for p in (tmp_path / "two").iterdir() if p.name.startswith(".")]


class Killer(Recorder):
    """Kills workers: at a step, when it was done first, the one of this number."""

    def __init__(self, at):
        super().__init__()
        self.at = dict(at)

    def report(self, part, values):
        super().report(part, values)
        if part == "step" and values["step"] in self.at:
            workers()[self.at.pop(values["step"])].send_signal(signal.SIGKILL)


def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(session, alone, tmp_path):
    killer = Killer({5: 0})
    slow = on(2, evaluation={"every": 1})  # so that the steps are not over before a worker is killed
    result = train_on_workers(slow, tmp_path, session, observer=killer)
    assert killer.at == {} and result.steps == 10
    assert sum("go on from the last checkpoint" in warning for warning in killer.warnings) == 1, killer.warnings
    same_losses(alone, tmp_path)


def test_f32_a_node_without_the_data_is_named_with_the_file(session, tmp_path, monkeypatch):
    text, real = tmp_path / "a.jsonl", on_workers.open_source

    def then_gone(*arguments, **more):
        source = real(*arguments, **more)
        text.unlink()  # as on a node that has no such file
        return source

    text.write_text("".join(f'{{"text": "{"word " * 30}{i}"}}\n' for i in range(40)))
    monkeypatch.setattr(on_workers, "open_source", then_gone)
    run = on(2, data={"source": "text", "text": {"paths": (str(text),)}})
    with pytest.raises(InputError, match=rf"^worker on node \S+: data file {text}: cannot be read"):
        train_on_workers(run, tmp_path / "run", session)
    assert read_run(tmp_path / "run").status == "unfinished"


def test_what_cannot_work_is_refused_in_a_sentence(session, tmp_path):
    with pytest.raises(UsageError, match=r"--workers: 3 with 99 CPU each do not fit"):
        train_on_workers(config(**RUN | {"threads": 99}, workers={"count": 3}), tmp_path, session)


def test_a_signal_stops_the_workers_with_the_state_saved_and_one_process_continues(alone, tmp_path):
    path = tmp_path / "run.yaml"
    settings = config(**RUN | {"evaluation": {"every": 1}}).model_dump(mode="json")
    path.write_text(yaml.safe_dump(settings))
    words = [sys.executable, "-m", "mplat", "train", str(path), "--out", str(tmp_path / "run"), "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.is_file() and '"step": 2' in log.read_text()) and time.monotonic() < deadline:
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 130 and "the state is saved" in said, said
    again = subprocess.run([*words[:-2], "--json"], capture_output=True, text=True, env=environment, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continuing after step" in again.stderr and json.loads(again.stdout)["steps"] == 10
    same_losses(alone, tmp_path / "run")
    assert Path(json.loads(again.stdout)["model"]).is_dir()
