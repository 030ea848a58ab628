"""Scores of channels on the exact map between tokens are those of the maps, products and gradients taken one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.methods.hidden_attention import hidden_attention, rollout
from mplat.interp.methods.neuron_attention import diversity
from mplat.models import LanguageModel, Scale

ITEMS = token_items(3)
FEW = {"resamples": 100, "draws": 100}


@pytest.fixture(params=["mamba", "mamba2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


def column(table: Any, name: str, layer: int, mode: str) -> np.ndarray:
    return np.array([row[name] for row in table.to_pylist() if (row["layer"], row["mode"]) == (layer, mode)], float)


@torch.no_grad()
def activation(model: LanguageModel, layer: int, text: torch.Tensor) -> torch.Tensor:
    """silu(z) y (T, E)."""
    sites = [f"blocks.{layer}.mixer.{name}" for name in ("gate", "y", "x_in")]
    with model.capture(*sites) as acts:
        model(text[None])
    gate, y, _ = (acts[name][0] for name in sites)
    return F.silu(gate) * y


@torch.no_grad()
def entering(model: LanguageModel, layer: int, text: torch.Tensor) -> torch.Tensor:
    with model.capture(f"blocks.{layer}.mixer.x_in") as acts:
        model(text[None])
    return acts[f"blocks.{layer}.mixer.x_in"][0]


@pytest.mark.parametrize("reader", ["last", "each"])
def test_what_is_read_and_what_reaches_the_end_follow_from_the_exact_maps(model: LanguageModel, reader: str) -> None:
    found = run_step("attention_neurons", model, ITEMS, **FEW, reader=reader)["neurons"]
    for layer in range(model.n_layers):
        weighted, flowing, size = [], [], []
        for item in ITEMS:
            text = torch.tensor(item.prompt)
            weights = hidden_attention(model, text, layer, form="mixer").weights  # (E, T, T)
            read = (weights * entering(model, layer, text).T[:, None, :]).abs().sum(2)  # (E, T) by reader
            weighted.append(read[:, -1] if reader == "last" else read.mean(1))
            above = range(layer + 1, model.n_layers)
            reaching = rollout(model, text, list(above))[-1] if above else torch.eye(len(text), dtype=torch.float64)[-1]
            own = activation(model, layer, text).abs()
            flowing.append((own * reaching[:, None]).sum(0))
            size.append(own.mean(0))
        for mode, expected in (("attention_weighted", weighted), ("rollout", flowing)):
            mean = torch.stack(expected).mean(0).numpy()
            np.testing.assert_allclose(column(found, "score", layer, mode), mean, rtol=1e-8, atol=1e-12)
            assert column(found, "rank", layer, mode).argsort().tolist() == np.argsort(-mean, kind="stable").tolist()
            assert (column(found, "score_low", layer, mode) <= mean).all()
        np.testing.assert_allclose(column(found, "mean_activation", layer, "rollout"), torch.stack(size).mean(0))


def test_the_gradient_guided_score_is_the_slope_when_what_is_read_is_scaled(model: LanguageModel) -> None:
    """Scaling the scan's output of a channel scales its activation; the bias is no part of what is read."""
    item, layer, eps = ITEMS[0], 0, 1e-5
    found = run_step("attention_neurons", model, [item], **FEW)["neurons"]
    text = torch.tensor(item.prompt)
    with torch.no_grad():
        bias = hidden_attention(model, text, layer, form="mixer").bias
        assert bias is not None
        own = activation(model, layer, text)
        for channel in (0, 7, 31):
            factor = eps * (1 - bias[channel] / own[:, channel])  # token by token: the share that is not bias
            ends = []
            for sign in (1, -1):
                edit = Scale(f"blocks.{layer}.mixer.y", (1 + sign * factor)[:, None], channels=[channel])
                with model.edit(edit):
                    ends.append(float(torch.log_softmax(model(text[None])[0, -1], 0)[item.answer[0]]))
            slope = (ends[0] - ends[1]) / (2 * eps)
            score = column(found, "score", layer, "gradient_guided")[channel]
            assert score == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_the_map_reproduces_the_activations_and_modes_are_compared(model: LanguageModel) -> None:
    from scipy.stats import spearmanr

    tables = run_step("attention_neurons", model, ITEMS, **FEW)
    rows = tables["agreement"].to_pylist()
    assert len(rows) == 3 * model.n_layers and all(0 <= row["error"] < 1e-12 for row in rows)
    one, other = (np.abs(column(tables["neurons"], "score", 0, mode)) for mode in ("attention_weighted", "rollout"))
    (row,) = [r for r in rows if (r["layer"], r["mode"], r["other"]) == (0, "attention_weighted", "rollout")]
    assert row["correlation"] == pytest.approx(spearmanr(one, other)[0]) and 0 < row["p"] <= row["p_holm"]


def test_diversity_counts_tokens_and_not_places() -> None:
    tokens = torch.tensor([5, 9, 5, 2])
    size = torch.tensor([[1.0, 2.0, 1.0, 2.0], [3.0, 0.0, 4.0, 0.0], [1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    assert diversity(size, tokens).tolist() == pytest.approx([1.0, 0.0, math.log(2) / math.log(3)])
    assert diversity(size[:, :1], tokens[:1]).isnan().all() and diversity(0 * size, tokens).isnan().all()


def test_blocks_of_experts_let_a_rollout_through_and_attention_does_not() -> None:
    model = nano("moe_mamba", n_layers=4)
    found = run_step("attention_neurons", model, ITEMS, **FEW)["neurons"].to_pylist()
    assert [row["status"] for row in found if row["layer"] in (1, 3)] == ["not_applicable"] * 2
    lowest = [row for row in found if (row["layer"], row["mode"]) == (0, "rollout")]
    assert lowest[0]["status"] == "ok"
    text = torch.tensor(ITEMS[0].prompt)
    (only,) = [run_step("attention_neurons", model, ITEMS[:1], **FEW)["neurons"]]
    expected = (activation(model, 0, text).abs() * rollout(model, text, [2])[-1][:, None]).sum(0)
    np.testing.assert_allclose(column(only, "score", 0, "rollout"), expected, rtol=1e-8)
