"""Muon: its update against the definition, and which weights it moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mplat.models import build
from mplat.models.mixer import names
from mplat.models.model_config import ModelConfig
from mplat.train.loop import train
from mplat.train.muon import MOMENTUM, Muon, orthogonal
from mplat.train.optimizer import build_optimizer
from mplat.train.train_config import TrainConfig


@pytest.mark.parametrize("shape", [(6, 6), (5, 12), (12, 5), (1, 7)])
def test_orthogonal_keeps_singular_vectors_and_levels_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    values = U.T @ orthogonal(matrix) @ Vh.T
    assert torch.allclose(values, torch.diag(values.diagonal()), atol=1e-9)
    # the polynomial on each singular value, as it is published
    wanted = S / S.norm()
    for _ in range(5):
        wanted = 3.4445 * wanted - 4.7750 * wanted**3 + 2.0315 * wanted**5
    assert torch.allclose(values.diagonal(), wanted, atol=1e-9)
    assert orthogonal(torch.zeros(shape)).eq(0).all()


def test_two_steps_are_the_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    start, grads = torch.randn(4, 6, generator=generator), [torch.randn(4, 6, generator=generator) for _ in range(2)]
    weight = torch.nn.Parameter(start.clone())
    optimizer = Muon([{"params": [weight], "muon": True}], lr=0.1, weight_decay=0.3)
    expected, momentum = start.clone(), torch.zeros(4, 6)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * grad
        update = orthogonal((1 - MOMENTUM) * grad + MOMENTUM * momentum)
        expected = (1 - 0.1 * 0.3) * expected - 0.2 * 0.1 * 6**0.5 * update
    assert torch.allclose(weight, expected, atol=1e-6)
    assert weight.grad is not None and torch.equal(weight.grad, grads[1])


@pytest.mark.parametrize("arch", names())
def test_only_matrices_of_blocks_are_moved_by_it(arch: str) -> None:
    model = build(ModelConfig(arch=arch, vocab_size=32, d_model=64, n_layers=2), seed=0)
    optimizer = build_optimizer(model, TrainConfig.model_validate({"optimizer": {"name": "muon"}}))
    moved = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(map(id, model.parameters()))
    for name, parameter in model.named_parameters():
        if id(parameter) in moved:
            assert parameter.ndim == 2 and "embed" not in name and "A_log" not in name and "norm" not in name
        else:
            assert "in_proj.weight" not in name and "out_proj.weight" not in name


def test_continues_bit_for_bit(tmp_path: Path) -> None:
    def run(steps: int, out: Path, **more: Any) -> Any:
        config = {
            "steps": 4, "batch_size": 2, "sequence_length": 32, "threads": 1, "model": {"size": "nano"},
            "evaluation": {"every": 0, "prompts_per_level": 1}, "checkpoint": {"every": 2, "keep_latest_k": 5},
            "optimizer": {"name": "muon"}, "schedule": {"warmup_steps": 0}, "ema": 0.5,
        }  # fmt: skip
        return train(TrainConfig.model_validate(config), out, **more)

    whole = run(4, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "step-00000002"
    assert run(4, tmp_path / "rest", resume=str(half)).model_digest == whole.model_digest


def test_refuses_shares_of_matrices() -> None:
    with pytest.raises(ValueError, match="needs whole matrices"):
        TrainConfig.model_validate({"optimizer": {"name": "muon"}, "workers": {"count": 2, "fsdp": True}})
