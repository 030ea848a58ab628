"""The moving average of the weights is its formula, survives a stop, and is what is evaluated and exported."""

import shutil

import pytest
import torch
from mplat.train import checkpoint, train
from mplat.train.average import averaged, update_average
from mplat.train.optimizer import build_optimizer
from safetensors.torch import load_file
from train_runs import config, files, small_model


def test_the_average_is_the_weighted_sum_of_all_weights_so_far():
    model = small_model()
    optimizer = build_optimizer(model, config())
    generator, expected, decay = torch.Generator().manual_seed(0), {}, 0.5
    for t in range(1, 12):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()
        update_average(optimizer, decay)
        d = min(decay, (1 + t) / (10 + t))
        for name, p in model.named_parameters():
            expected[name] = p.detach().clone() if t == 1 else d * expected[name] + (1 - d) * p.detach()
    last = {name: p.detach().clone() for name, p in model.named_parameters()}
    with averaged(optimizer):
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name], rtol=1e-12, atol=1e-15)
            assert not torch.equal(p, last[name]), name
    assert all(torch.equal(p, last[name]) for name, p in model.named_parameters())
    with averaged(optimizer, wanted=False):
        assert all(torch.equal(p, last[name]) for name, p in model.named_parameters())


def test_weights_come_back_after_an_error():
    model = small_model()
    optimizer = build_optimizer(model, config())
    with averaged(optimizer):  # before any step there is no average
        pass
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    update_average(optimizer, 0.9)
    optimizer.step()
    last = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(KeyError), averaged(optimizer):
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), last, strict=True))


def test_a_run_with_an_average_continues_to_the_same_bits_and_exports_it(tmp_path):
    often = {"checkpoint": {"every": 3, "keep_latest_k": 2}}
    run = config(ema=0.9, evaluation={"every": 3}, **often)
    straight = train(run, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "step-00000006")
    assert train(run, tmp_path / "halves").model_digest == straight.model_digest
    last = [checkpoint.steps(tmp_path / name / "checkpoints")[-1] for name in ("straight", "halves")]
    assert files(last[0]) == files(last[1])
    held = load_file(last[0] / "optimizer.safetensors")
    exported = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    assert all(torch.equal(w, held[f"{name}/ema"]) for name, w in exported.items())
    raw = config(ema=0.9, evaluation={"every": 3, "averaged": False}, export={"averaged": False}, **often)
    weights = load_file(last[0] / "model.safetensors")
    assert train(raw, tmp_path / "straight").metrics != straight.metrics  # evaluated anew after the last step
    exported = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    assert all(torch.equal(w, weights[name]) for name, w in exported.items())
