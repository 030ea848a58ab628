"""Steps measured in tokens, rows that fit into memory, what the model writes, and what a step takes."""

import json

import pytest
import torch
from model_zoo import nano
from mplat.commands import main
from mplat.models import ModelConfig, build
from mplat.train import micro_batch, speed, train
from mplat.train.log import read_log
from mplat.train.micro_batch import rows_that_fit
from mplat.train.train_config import TrainConfig
from pydantic import ValidationError
from train_runs import config, small_model


def test_batch_tokens_are_whole_rows_and_another_spelling_of_batch_size():
    run = TrainConfig(batch_tokens="512k", sequence_length=1000)
    assert (run.batch_size, run.tokens_per_step) == (512, 512_000)
    assert TrainConfig(batch_tokens=1999, sequence_length=1000).batch_size == 1
    assert run.resolved() == TrainConfig(batch_size=512, sequence_length=1000).resolved()
    with pytest.raises(ValidationError, match="less than one row"):
        TrainConfig(batch_tokens=999, sequence_length=1000)
    with pytest.raises(ValidationError, match="not both"):
        TrainConfig(batch_tokens=999, batch_size=2)
    with pytest.raises(ValidationError, match="not a multiple of micro_batch_size"):
        TrainConfig(batch_tokens="512k", sequence_length=1000, micro_batch_size=7)


def test_the_command_takes_tokens_per_step(tmp_path, capsys):
    words = ["--batch-tokens", "1k", "--no-reset", "--set", "sequence_length=100", "--set", "micro_batch_size=auto"]
    assert main(["train", *words, "--size", "nano", "--out", str(tmp_path), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["config"]
    assert (found["batch_size"], found["data"]["reset"]) == (10, False)


def test_rows_that_fit_divide_the_batch(monkeypatch):
    model = small_model(dtype=torch.float32)
    _, kept = micro_batch.training_row(model, 32)

    def rows(fitting, batch):
        held = 16 * model.n_parameters
        monkeypatch.setattr(micro_batch, "physical_bytes", lambda: 2 * (held + fitting * kept))
        return rows_that_fit(model, batch, 32)

    assert [rows(fitting, 12) for fitting in (12, 11, 4, 3, 0)] == [12, 6, 4, 3, 1]
    deep = nano("mamba", n_layers=8, dtype=torch.float32)
    monkeypatch.setattr(micro_batch, "physical_bytes", lambda: 10**7)
    few = rows_that_fit(deep, 512, 64)
    deep.recompute_blocks = True
    assert rows_that_fit(deep, 512, 64) > 2 * few and deep.recompute_blocks


def test_samples_are_written_at_every_evaluation_and_change_no_weight(tmp_path):
    plain = train(config(steps=2), tmp_path / "plain")
    asked = config(steps=2, evaluation={"samples": ["Q: Who?\nA:", ""], "sample_tokens": 4, "every": 1})
    assert train(asked, tmp_path / "asked").model_digest == plain.model_digest
    found = [line for line in read_log(tmp_path / "asked" / "log.jsonl") if line["kind"] == "sample"]
    assert [(line["step"], line["prompt"]) for line in found] == [(s, p) for s in (1, 2) for p in ("Q: Who?\nA:", "")]
    assert all(line.keys() == {"kind", "step", "prompt", "greedy", "drawn"} for line in found)
    from mplat.models import load

    model = load(str(tmp_path / "asked" / "model"))
    from mplat.models.decoding.generation import generate

    (greedy,) = generate(model, ["Q: Who?\nA:"], max_new_tokens=4, stop=())
    (drawn,) = generate(model, ["Q: Who?\nA:"], max_new_tokens=4, stop=(), temperature=0.8, seed=3)
    assert (found[2]["greedy"], found[2]["drawn"]) == (greedy.text, drawn.text)


def test_operations_of_a_token_by_hand():
    model = small_model("mamba")  # d 16, E 32, N 4, V 40, tied
    assert speed.flops_per_token(model) == 6 * model.n_parameters + 27 * 32 * 4
    untied = build(ModelConfig("mamba", vocab_size=40, d_model=16, n_layers=1, state_size=4, tie_embeddings=False))
    assert speed.flops_per_token(untied) == 6 * (untied.n_parameters - 40 * 16) + 27 * 32 * 4


def test_a_gpu_is_judged_by_its_peak_and_an_unknown_one_not(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    assert speed.peak_flops(gpu, autocast=True) == 312e12 and speed.peak_flops(gpu, autocast=False) == 19.5e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Nothing")
    assert speed.peak_flops(gpu, autocast=True) is None and speed.peak_flops(torch.device("cpu"), True) is None


def test_what_a_step_took(monkeypatch):
    clock = iter([100.0, 103.0, 106.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    meter = speed.Meter(small_model(), autocast=False)
    first, second = (meter.measured(tokens=50, seconds=2.0, steps_left=left) for left in (5, 4))
    assert (first.tokens_per_second, first.seconds_left, second.seconds_left) == (25.0, 15.0, 12.0)
    assert first.mfu is None and first.gpu_peak_memory is None and first.peak_memory > 10**7
