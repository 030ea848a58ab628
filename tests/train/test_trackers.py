"""Trackers show what the log holds, each step once, and never stop a training."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.train import tracker
from mplat.train.log import read_log
from mplat.train.loop import train
from mplat.train.tracked_log import TrackedLog
from mplat.train.trackers.tensorboard import drop_later_events
from train_runs import Recorder, config

WANDB = """
import json, pathlib
FAIL_AT = {fail_at}
class Run:
    def __init__(self, dir, id):
        self.path = pathlib.Path(dir) / "stub.jsonl"
        told = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        self.step, self.id = max([t["step"] for t in told], default=-1) + 1, id or "chosen"
    def log(self, values, step):
        if step == FAIL_AT:
            raise ConnectionError("no network")
        assert step >= self.step
        self.step = step
        with self.path.open("a") as file:
            file.write(json.dumps(dict(values, step=step, id=self.id)) + "\\n")
    def finish(self):
        pass
def init(project, name, dir, id, resume, config):
    assert (id is None) == (resume is None) and config["seed"] == 3
    return Run(dir, id)
"""
MLFLOW = {
    "mlflow/__init__.py": "",
    "mlflow/entities.py": """
from collections import namedtuple
Metric = namedtuple("Metric", "key value timestamp step")
""",
    "mlflow/tracking.py": """
from types import SimpleNamespace as S
METRICS, RUNS = [], []
class MlflowClient:
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): return "7"
    def create_run(self, experiment, run_name):
        RUNS.append((experiment, run_name))
        return S(info=S(run_id="r1"))
    def update_run(self, run_id, status):
        assert run_id == "r1"
    def log_batch(self, run_id, metrics):
        METRICS.extend(metrics)
    def set_terminated(self, run_id): pass
""",
}


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Every number in the event files of `folder`, read without TensorBoard's or our code."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value if not v.tensor.ByteSize()]
            at += 12 + length + 4
    return found


def written(folder: Path, trackers: tuple[str, ...], resumed: int, steps: range, loss: float) -> Recorder:
    """Lines of `steps` through a log of these trackers, as a run that goes on after `resumed`."""
    watcher = Recorder()
    log = TrackedLog(config(log={"trackers": trackers}), folder, resumed, watcher)
    for step in steps:
        log.write("train", step, {"loss": loss + step, "lr": None, "skipped": False})
        if step % 2 == 0:
            log.write("eval", step, {"bits_per_byte/Pile (CC)": loss})
            log.write("sample", step, {"prompt": "a", "greedy": "b"})
    log.close()
    return watcher


def test_a_run_writes_events_that_hold_what_its_log_holds(tmp_path):
    train(config(evaluation={"every": 3}), tmp_path)
    shown = scalars(tmp_path / "tensorboard")
    logged = [
        (f"{line['kind']}/{name}", line["step"], pytest.approx(float(value), rel=1e-6))
        for line in read_log(tmp_path / "log.jsonl")
        for name, value in line.items()
        if name not in ("kind", "step") and value is not None
    ]
    assert sorted(shown) == sorted(logged) and {step for _, step, _ in shown} == {1, 2, 3, 4, 5, 6}
    assert any(tag == "train/loss" for tag, _, _ in shown) and any(tag.startswith("eval/") for tag, _, _ in shown)


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    written(tmp_path, ("tensorboard",), 0, range(1, 8), 10.0)
    last = sorted((tmp_path / "tensorboard").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-5])  # as a kill leaves it
    written(tmp_path, ("tensorboard",), 4, range(5, 8), 20.0)
    losses = {step: value for tag, step, value in scalars(tmp_path / "tensorboard") if tag == "train/loss"}
    assert losses == {s: (10.0 if s <= 4 else 20.0) + s for s in range(1, 8)}
    seen = [(tag, step) for tag, step, _ in scalars(tmp_path / "tensorboard")]
    assert len(seen) == len(set(seen)) == 7 * 2 + 3


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(1, 20), max_size=12).map(sorted), last=st.integers(0, 20), torn=st.integers(0, 60))
def test_what_is_cut_is_all_later_events_and_nothing_else(tmp_path_factory, steps, last, torn):
    from tensorboardX import SummaryWriter

    folder = tmp_path_factory.mktemp("events")
    writer = SummaryWriter(str(folder))
    for number, step in enumerate(steps):
        writer.add_scalar("x", number, step)
    writer.close()
    (path,) = folder.iterdir()
    whole = scalars(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - torn])
    drop_later_events(path, last)
    left = scalars(folder)  # fails on a torn record
    kept = [entry for entry in whole if entry[1] <= last]
    assert left == kept[: len(left)] and (torn or left == kept)


def test_wandb_is_told_every_step_once_under_one_name(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(WANDB.format(fail_at=-1), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    out = tmp_path / "out"
    out.mkdir()
    assert written(out, ("wandb",), 0, range(1, 6), 1.0).warnings == []
    assert written(out, ("wandb",), 3, range(4, 5), 1.0).warnings == []  # stopped again before it comes as far
    assert written(out, ("wandb",), 3, range(4, 8), 1.0).warnings == []
    told = [json.loads(line) for line in (out / "stub.jsonl").read_text().splitlines()]
    assert [t["step"] for t in told if "train/loss" in t] == [1, 2, 3, 4, 5, 6, 7] and {t["id"] for t in told} == {
        "chosen"
    }
    assert [t["sample/greedy"] for t in told if "sample/greedy" in t] == ["b"] * 3


def test_mlflow_is_told_every_step_once_in_one_run(tmp_path, monkeypatch):
    import sys

    for name, code in MLFLOW.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    out = tmp_path / "out"
    out.mkdir()
    assert written(out, ("mlflow",), 0, range(1, 6), 1.0).warnings == []
    assert written(out, ("mlflow",), 3, range(4, 5), 1.0).warnings == []  # stopped again before it comes as far
    assert written(out, ("mlflow",), 3, range(4, 8), 1.0).warnings == []
    told = sys.modules["mlflow.tracking"]
    assert told.RUNS == [("7", "out")]
    assert [m.step for m in told.METRICS if m.key == "train/loss"] == [1, 2, 3, 4, 5, 6, 7]
    assert [m.step for m in told.METRICS if m.key == "eval/bits_per_byte/Pile _CC_"] == [2, 4, 6]


def test_a_tracker_that_fails_warns_once_and_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(WANDB.format(fail_at=3), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    watcher = Recorder()
    failing = train(config(log={"trackers": ("wandb", "tensorboard")}), tmp_path / "failing", observer=watcher)
    plain = train(config(log={"trackers": ()}), tmp_path / "plain")
    assert failing.model_digest == plain.model_digest and failing.steps == 6
    (warning,) = watcher.warnings
    assert warning.startswith("wandb fails and shows nothing more") and warning.endswith("no network")
    assert len((tmp_path / "failing" / "stub.jsonl").read_text().splitlines()) == 2
    assert {step for _, step, _ in scalars(tmp_path / "failing" / "tensorboard")} == set(range(1, 7))
    assert not (tmp_path / "plain" / "tensorboard").exists()


def test_a_tracker_that_is_not_there_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="log.trackers has wandb, .*pip install wandb"):
        train(config(log={"trackers": ("wandb",)}), tmp_path / "run")
    with pytest.raises(UsageError, match="there is no tracker 'tensorbord'.*tensorboard"):
        train(config(log={"trackers": ("tensorbord",)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
