"""Checkpoints are written while training goes on, and what goes wrong there is not lost."""

import threading

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.train import checkpoint, loop, train
from mplat.train.checkpoint import Snapshot
from mplat.train.checkpoint_writer import CheckpointWriter
from mplat.train.train_config import CheckpointSection
from pydantic import ValidationError
from train_runs import config

TRAINER = {"step": 1, "config": {}}


def a_model():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters())


@pytest.fixture
def gate(monkeypatch):
    """Files are written once it is open."""
    opened, real = threading.Event(), checkpoint.save_file

    def save_file(tensors, path):
        assert opened.wait(20)
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    return opened


def test_what_is_written_is_the_moment_it_was_asked_for(tmp_path, gate):
    model, optimizer = a_model()
    before = model.weight.detach().clone()
    with CheckpointWriter(tmp_path) as writer:
        writer.write(Snapshot.take(model, optimizer, TRAINER), 2, set())
        with torch.no_grad():
            model.weight.zero_()
        writer.check()  # nothing has gone wrong, and it does not wait
        assert checkpoint.steps(tmp_path) == []
        gate.set()
    (path,) = checkpoint.steps(tmp_path)
    checkpoint.restore(path, model, optimizer)
    assert torch.equal(model.weight, before)


def test_the_next_one_waits_for_the_one_before(tmp_path, gate):
    model, optimizer = a_model()
    with CheckpointWriter(tmp_path) as writer:
        writer.write(Snapshot.take(model, optimizer, TRAINER), 1, set())
        threading.Timer(0.2, gate.set).start()
        writer.write(Snapshot.take(model, optimizer, TRAINER | {"step": 2}), 1, set())
        assert gate.is_set() and checkpoint.damage(tmp_path / "step-00000001") is None
    assert [checkpoint.step_of(p) for p in checkpoint.steps(tmp_path)] == [2]  # and the oldest was dropped


def test_a_full_disk_is_an_error_of_the_step_after(tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError(28, "No space left on device", str(path))

    steps, real = [], loop.Run.train_step

    def train_step(self, batch):
        report = real(self, batch)
        steps.append(report.step)
        if report.step == 3:
            self.writer._executor.submit(lambda: None).result()  # the thread has come to the end of what it had to do
        return report

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(loop.Run, "train_step", train_step)
    with pytest.raises(OSError, match=r"No space left on device.*model\.safetensors"):
        train(config(steps=6, checkpoint={"every": 2}), tmp_path)
    assert steps[-1] <= 3
    assert checkpoint.latest(tmp_path / "checkpoints", pytest.fail) is None


@pytest.mark.parametrize(
    ("written", "per_decade"),
    [({}, 0), ({"schedule": "log"}, 4), ({"schedule": "log:8"}, 8), ({"schedule": "even"}, 0),
     ({"per_decade": 8}, 8), ({"per_decade": 0}, 0)],
)  # fmt: skip
def test_schedules_of_checkpoints(written, per_decade):
    section = CheckpointSection.model_validate(written)
    assert section.per_decade == per_decade


@pytest.mark.parametrize("wrong", ["logs", "log:0", "log:101", "log:x", ""])
def test_other_schedules_are_refused(wrong):
    with pytest.raises((ValidationError, UsageError), match="must be even, log, or log:N"):
        CheckpointSection.model_validate({"schedule": wrong})
