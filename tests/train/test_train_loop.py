"""A run continues exactly, skips what is not finite, and leaves everything that a reader needs."""

import signal

import pytest
import torch
from mplat.core.errors import InputError, StoppedEarly, UsageError
from mplat.models import load
from mplat.runtime.record import read_run
from mplat.train import checkpoint, loop, train
from mplat.train.data import batches
from mplat.train.log import MetricsLog, read_log
from mplat.train.loss import StepLoss
from mplat.train.run_folder import RunFolder, planned
from mplat.train.setup import prepare
from mplat.train.speed import Speed
from safetensors.torch import load_file
from train_runs import Recorder, config, files


def stop_after(step, monkeypatch):
    """Make the loop see a SIGTERM after `step`."""
    real = loop.Run.train_step

    def train_step(self, batch):
        report = real(self, batch)
        if report.step == step:
            self.stop.signal = signal.SIGTERM
        return report

    monkeypatch.setattr(loop.Run, "train_step", train_step)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_f27_stopping_and_continuing_changes_no_bit(tmp_path, monkeypatch, arch):
    run = config(model={"arch": arch}, evaluation={"every": 2})
    train(run, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(StoppedEarly) as stopped:
        stop_after(3, patch)
        train(run, tmp_path / "halves")
    assert "after step 3 of 6" in str(stopped.value)
    assert stopped.value.resume_command == (f"mplat train {tmp_path}/halves/config.yaml --out {tmp_path}/halves")
    recorder = Recorder()
    train(run, tmp_path / "halves", observer=recorder)
    assert [r.step for r in recorder.reports] == [4, 5, 6]
    straight, halves = files(tmp_path / "straight"), files(tmp_path / "halves")
    assert straight.keys() == {name for name in halves if "step-00000003" not in name}
    for name in straight:
        if name.startswith("checkpoints/step-00000006/") or name in ("config.yaml", "run.json") or "model" in name:
            assert straight[name].replace(b"straight", b"halves") == halves[name], name
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("straight", "halves")]
    for line in logs[0] + logs[1]:
        for name in Speed._fields:
            line.pop(name, None)
    assert logs[0] == logs[1]


def test_f27_a_crash_between_two_checkpoints_changes_no_bit(tmp_path, monkeypatch):
    class Crash(BaseException):
        pass

    real = loop.Run.train_step

    def train_step(self, batch):
        if self.progress.step == 3:
            raise Crash
        return real(self, batch)

    run = config(steps=4, checkpoint={"every": 2})
    train(run, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(loop.Run, "train_step", train_step)
        train(run, tmp_path / "crashed")
    recorder = Recorder()
    train(run, tmp_path / "crashed", observer=recorder)
    assert [r.step for r in recorder.reports] == [3, 4]
    straight, crashed = files(tmp_path / "straight"), files(tmp_path / "crashed")
    last = [name for name in straight if name.startswith(("checkpoints/step-00000004/", "model/"))]
    assert len(last) > 6 and [name for name in last if straight[name] != crashed[name]] == []
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("straight", "crashed")]
    for line in logs[0] + logs[1]:
        for name in Speed._fields:
            line.pop(name, None)
    assert logs[0] == logs[1]


def test_micro_batches_and_log_settings_do_not_make_another_run(tmp_path):
    """What no number depends on may change between a run and its continuation; what matters may not."""
    first = train(config(steps=2), tmp_path)
    again = train(config(steps=2, log_every=2, checkpoint={"keep_latest_k": 1}), tmp_path)
    assert again == first
    with pytest.raises(UsageError, match=r"another configuration \(differs in batch_size, optimizer.learning_rate\)"):
        train(config(steps=2, batch_size=2, optimizer={"learning_rate": 0.1}), tmp_path)


def test_steps_and_tokens_are_two_spellings_of_one_run(tmp_path):
    train(config(steps=2), tmp_path)
    recorder = Recorder()
    train(config(steps=None, tokens=2 * 4 * 48), tmp_path, observer=recorder)
    assert recorder.reports == []


def test_resume_never_and_fresh(tmp_path):
    run = config(steps=1)
    first = train(run, tmp_path)
    with pytest.raises(UsageError, match="--resume never"):
        train(run, tmp_path, resume="never")
    recorder = Recorder()
    other = train(config(steps=2), tmp_path, fresh=True, observer=recorder)
    assert [r.step for r in recorder.reports] == [1, 2]
    assert other.model_digest != first.model_digest


@pytest.mark.slow
def test_continuing_in_another_folder_with_other_settings(tmp_path):
    run = config(steps=2)
    train(run, tmp_path / "a")
    recorder = Recorder()
    longer = config(steps=4)
    result = train(longer, tmp_path / "b", resume=str(tmp_path / "a"), observer=recorder)
    assert [r.step for r in recorder.reports] == [3, 4]
    assert any("another configuration" in w and "steps" in w for w in recorder.warnings)
    assert result.best_step == 4
    again = Recorder()  # the same command once more continues the new run
    train(longer, tmp_path / "b", resume=str(tmp_path / "a"), observer=again)
    assert again.reports == [] and "has begun already" in again.notes[0]
    back = Recorder()  # but a checkpoint of the run itself may be chosen
    train(longer, tmp_path / "b", resume=str(tmp_path / "b" / "checkpoints" / "step-00000004"), observer=back)
    assert back.notes[0] == f"continuing after step 4 from {tmp_path}/b/checkpoints/step-00000004"
    with pytest.raises(InputError, match="no checkpoint there"):
        train(run, tmp_path / "c", resume=str(tmp_path / "nowhere"))


def test_a_damaged_last_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path):
    run = config(steps=4, checkpoint={"every": 2, "keep_latest_k": 3})
    straight = train(run, tmp_path)
    (tmp_path / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    recorder = Recorder()
    again = train(run, tmp_path, observer=recorder)
    assert [r.step for r in recorder.reports] == [3, 4]
    assert len(recorder.warnings) == 1 and "step-00000004 is ignored" in recorder.warnings[0]
    assert again.model_digest == straight.model_digest
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "train"] == [1, 2, 3, 4]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    real = loop.accumulate_gradients

    def broken_second_step(model, batch, *rest):
        loss = real(model, batch, *rest)
        if torch.equal(batch.tokens, source.batch(1).tokens):
            next(model.parameters()).grad[0, 0] = float("nan")
            return StepLoss(float("nan"), None)
        return loss

    run = config(steps=3)
    source = prepare(run, RunFolder(tmp_path), dry_run=True).source
    monkeypatch.setattr(loop, "accumulate_gradients", broken_second_step)
    recorder = Recorder()
    result = train(run, tmp_path, observer=recorder)
    assert [r.skipped for r in recorder.reports] == [False, True, False]
    assert result.fault is None and result.model_folder is not None
    assert result.skipped_steps == 1 and recorder.reports[1].loss is None
    weights = load_file(tmp_path / "checkpoints" / "step-00000003" / "model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())
    moments = load_file(tmp_path / "checkpoints" / "step-00000003" / "optimizer.safetensors")
    assert {int(v) for k, v in moments.items() if k.endswith("/step")} == {2}
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_twenty_steps_in_a_row_may_be_skipped_but_not_more(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "accumulate_gradients", lambda *_: StepLoss(float("inf"), None))
    recorder = Recorder()
    with pytest.raises(InputError, match=r"not finite in 21 steps in a row.*lower optimizer\.learning_rate"):
        train(config(steps=40), tmp_path, observer=recorder)
    assert len(recorder.reports) == 21


def test_a_diverged_run_exports_nothing_and_says_why(tmp_path):
    """Exact match of a model that says NaN is a finite 0: only the loss tells."""
    run = config(steps=4, optimizer={"learning_rate": 1e30}, schedule={"warmup_steps": 0})
    result = train(run, tmp_path)
    assert result.model_folder is None and result.model_digest is None and not (tmp_path / "model").exists()
    assert result.metrics["answer_loss"] is None and result.metrics["exact_match"] == 0.0
    assert result.best_step is None and result.skipped_steps == 3
    assert result.fault is not None
    assert "3 of 4 steps were skipped" in result.fault and "answer loss is not finite" in result.fault
    assert [checkpoint.step_of(p) for p in checkpoint.steps(tmp_path / "checkpoints")] == [4]
    record = read_run(tmp_path)
    assert (record.status, record.details["outcome"]) == ("done", "diverged")
    assert record.details["result"]["metrics"]["answer_loss"] is None
    assert train(run, tmp_path) == result  # continued after its last step, it ends the same way


def test_the_best_model_of_a_diverged_run_is_exported_where_that_was_asked_for(tmp_path, monkeypatch):
    real = loop.Run.train_step

    def break_the_last_step(self, batch):
        report = real(self, batch)
        if report.step == 3:
            with torch.no_grad():
                next(self.model.parameters())[0, 0] = float("inf")
        return report

    monkeypatch.setattr(loop.Run, "train_step", break_the_last_step)
    run = config(steps=3, evaluation={"every": 1}, export={"weights": "best"})
    result = train(run, tmp_path)
    assert result.best_step == 1 and result.skipped_steps == 0
    assert result.fault is not None
    assert "the weights are not finite in float32 (backbone.embeddings.weight)" in result.fault
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())
    assert train(config(steps=3, evaluation={"every": 1}), tmp_path).model_folder is None
    assert not (tmp_path / "model").exists()  # it would pass for the weights of the last step


def test_a_run_that_skipped_most_of_its_steps_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "accumulate_gradients", lambda *_: StepLoss(float("inf"), None))
    result = train(config(steps=2), tmp_path)
    assert result.fault is not None and result.fault.startswith("training diverged: 2 of 2 steps were skipped")
    assert result.model_folder is not None  # finite, as it was drawn


def test_the_best_checkpoint_is_kept_and_can_be_exported(tmp_path, monkeypatch):
    scores = iter([0.1, 0.9, 0.5, 0.2])
    from mplat.train.data import Evaluation
    from mplat.train.sources.facts import FactsSource

    monkeypatch.setattr(FactsSource, "evaluate", lambda self, model: Evaluation({"s": 1.0}, next(scores), True))
    run = config(steps=4, evaluation={"every": 1}, checkpoint={"keep_latest_k": 1}, export={"weights": "best"})
    result = train(run, tmp_path)
    assert (result.best_step, result.best_score) == (2, 0.9)
    kept = checkpoint.steps(tmp_path / "checkpoints")
    assert [checkpoint.step_of(p) for p in kept] == [2, 4]
    exported = load_file(tmp_path / "model" / "model.safetensors")
    best, last = (load_file(p / "model.safetensors")["backbone.norm_f.weight"] for p in kept)
    assert torch.equal(exported["backbone.norm_f.weight"], best) and not torch.equal(best, last)


def test_what_a_run_leaves(tmp_path):
    run = config(steps=2, export={"dtype": "float16"})
    result = train(run, tmp_path)
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {
        "checkpoints", "config.yaml", "log.jsonl", "loss_curve.png", "model", "run.json", "tensorboard"
    }  # fmt: skip
    record = read_run(tmp_path)
    assert (record.status, record.details["outcome"]) == ("done", "finished") and record.seeds == {"seed": 3}
    assert record.model is not None and record.model.digest == result.model_digest
    assert record.data is not None and len(record.data.digest) == len(record.details["tokenizer"]) == 64
    assert record.backend is not None and {"ssd", "conv"} <= record.backend.kernels.keys()
    assert record.files.keys() == {"model/model.safetensors"}
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert result.model_folder is not None
    model = load(str(result.model_folder))
    assert model.digest == result.model_digest and model.tokenizer is not None
    stored = load_file(result.model_folder / "model.safetensors")
    wide = {name.rpartition(".")[2] for name, w in stored.items() if w.dtype != torch.float16}
    assert wide <= {"A_log", "D", "dt_bias"} and {w.dtype for w in stored.values()} <= {torch.float16, torch.float32}
    assert len(model.generate(["Q: Who?\nA:"], max_new_tokens=2)) == 1


def test_two_runs_of_one_configuration_give_the_same_files(tmp_path):
    results = [train(config(steps=2), tmp_path / name) for name in "ab"]
    a, b = (files(tmp_path / name / "model") for name in "ab")
    assert a == b and results[0].model_digest == results[1].model_digest
    assert (tmp_path / "a" / "run.json").read_bytes() == (tmp_path / "b" / "run.json").read_bytes()


def test_training_leaves_the_callers_generator_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    train(config(steps=1), tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_a_folder_in_use_is_locked(tmp_path):
    with planned(config(steps=1)).begin(tmp_path), pytest.raises(UsageError, match=r"locked by pid \d+ on"):
        train(config(steps=1), tmp_path)


def test_batches_come_in_order_and_an_error_comes_at_its_step():
    class Source:
        def batch(self, step):
            if step == 3:
                raise InputError("row 3 is bad")
            return step

    seen = []
    with pytest.raises(InputError, match="row 3"):
        for batch in batches(Source(), 1, 9):  # type: ignore[arg-type]
            seen.append(batch)
    assert seen == [1, 2]


def test_a_damaged_line_of_the_log_is_put_aside_and_said_and_the_others_stay(tmp_path):
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3, 4):
        log.write("train", step, {"loss": 1.5})
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"train", b"tr\xe9in")
    path.write_bytes(b"".join(lines))
    assert [line["step"] for line in read_log(path)] == [1, 3, 4]
    told = []
    MetricsLog(path, 3, told.append).close()
    assert [line["step"] for line in read_log(path)] == [1, 3]
    assert (tmp_path / "log.jsonl.damaged").read_bytes() == lines[1]
    assert len(told) == 1 and "1 damaged lines are put aside" in told[0]


def test_log_drops_what_came_after_the_resumed_step_and_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float("nan") if step == 1 else 1.5})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "tr')
    log = MetricsLog(path, resume_step=2)
    log.write("eval", 2, {"exact_match": 1.0})
    log.close()
    assert read_log(path) == [
        {"kind": "train", "step": 1, "loss": None},
        {"kind": "train", "step": 2, "loss": 1.5},
        {"kind": "eval", "step": 2, "exact_match": 1.0},
    ]
