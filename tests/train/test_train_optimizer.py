"""Schedules follow their formulas; weight decay touches what it should."""

import math

import pytest
import torch
from mplat.train.optimizer import build_optimizer, learning_rate, set_learning_rate
from train_runs import config, small_model

PEAK, FLOOR, WARMUP, TOTAL = 0.01, 0.001, 10, 50


def rates(**schedule):
    run = config(
        steps=TOTAL, optimizer={"learning_rate": PEAK}, schedule={"warmup_steps": WARMUP, "floor": FLOOR, **schedule}
    )
    return [learning_rate(run, step) for step in range(TOTAL)]


@pytest.mark.parametrize("shape", ["cosine", "wsd", "linear"])
def test_warm_up_is_linear_and_the_last_step_is_at_the_floor(shape):
    got = rates(shape=shape)
    assert got[:WARMUP] == [pytest.approx(PEAK * k / WARMUP) for k in range(1, WARMUP + 1)]
    assert got[-1] == pytest.approx(FLOOR, abs=1e-15)
    assert max(got) == got[WARMUP - 1] == pytest.approx(PEAK)
    assert all(a >= b for a, b in zip(got[WARMUP - 1 :], got[WARMUP:], strict=False))


def test_cosine_is_half_a_cosine():
    got = rates(shape="cosine")
    for k in range(1, TOTAL - WARMUP + 1):  # k steps after the peak
        expected = FLOOR + (PEAK - FLOOR) * math.cos(math.pi / 2 * k / (TOTAL - WARMUP)) ** 2
        assert got[WARMUP - 1 + k] == pytest.approx(expected, abs=1e-15)


def test_linear_falls_by_equal_amounts():
    got = rates(shape="linear")[WARMUP - 1 :]
    drops = [a - b for a, b in zip(got, got[1:], strict=False)]
    assert drops == [pytest.approx((PEAK - FLOOR) / (TOTAL - WARMUP))] * (TOTAL - WARMUP)


def test_wsd_is_flat_and_then_falls_over_its_last_fraction():
    got = rates(shape="wsd", decay_fraction=0.2)
    assert got[WARMUP - 1 : 40] == [PEAK] * 31
    assert got[40:] == [pytest.approx(PEAK - (PEAK - FLOOR) * k / 10) for k in range(1, 11)]
    assert rates(shape="wsd", decay_fraction=0.0)[-1] == PEAK


@pytest.mark.parametrize("warmup", [0, 1, TOTAL])
def test_edges_of_the_warm_up(warmup):
    got = rates(shape="wsd", decay_fraction=1.0, warmup_steps=warmup)
    assert all(0 < rate <= PEAK for rate in got)
    assert got[-1] == pytest.approx(PEAK if warmup == TOTAL else FLOOR)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_decay_shrinks_matrices_and_nothing_else(arch):
    """With a zero gradient AdamW multiplies decayed weights by 1 - lr * decay and leaves the others alone."""
    model = small_model(arch)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, config(model={"arch": arch}, optimizer={"weight_decay": 0.5}))
    set_learning_rate(optimizer, 0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    spared = {"A_log", "D", "dt_bias", "bias"}
    for name, p in model.named_parameters():
        free = name.rpartition(".")[2] in spared or "norm" in name
        torch.testing.assert_close(p.detach(), before[name] * (1.0 if free else 1 - 0.1 * 0.5), rtol=1e-12, atol=0)


def test_a_group_can_scale_its_rate():
    model = small_model()
    optimizer = build_optimizer(model, config())
    optimizer.param_groups[0]["lr_scale"] = 0.25
    set_learning_rate(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]
