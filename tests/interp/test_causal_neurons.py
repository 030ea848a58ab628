"""Effects of single channels and of blocks are those of the model run with them replaced; planted ones rank first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.engine.answers import score_answers
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.methods.question_halves import halves_by_group
from mplat.models import LanguageModel, Replace
from mplat.models.planted import find_planted

ITEMS = token_items(6)
FEW = {"resamples": 100, "top": 2, "random": 2, "rows_at_once": 7}


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    tables = run_step("causal_neurons", nano("mamba"), ITEMS, **FEW)
    return {name: table.to_pylist() for name, table in tables.items()}


@torch.no_grad()
def alone(model: LanguageModel, item: Item, *edits: Any) -> tuple[float, torch.Tensor, list[torch.Tensor]]:
    """log p(answer), log p of the next token behind the prompt, and mixers' outputs, of one question by itself."""
    answered = Batch([item], model.device).answered()
    names = [f"blocks.{j}.mixer_out" for j in range(model.n_layers)]
    with model.edit(*edits), model.capture(*names) as acts:
        logits = model(answered.tokens)
    log_p = torch.log_softmax(logits[0, len(item.prompt) - 1], -1)
    return float(score_answers(logits, answered).logprob), log_p, [acts[name][0] for name in names]


def means(model: LanguageModel, site: str) -> torch.Tensor:
    values = []
    for item in ITEMS:
        with torch.no_grad(), model.capture(site) as acts:
            model(torch.tensor([item.prompt]))
        values.append(acts[site][0])
    return torch.cat(values).mean(0)


def measured(items: list[Item] = ITEMS) -> list[Item]:
    _, other = halves_by_group(items, 0)
    return [item for item in items if item.id in other]


def test_exact_effects_are_those_of_one_replacement_at_a_time(found: dict[str, list[dict[str, Any]]]) -> None:
    model = nano("mamba")
    rows = [row for row in found["channels"] if row["chosen"] is not None]
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        site = f"blocks.{row['layer']}.{row['site']}"
        edit = Replace(site, float(means(model, site)[row["channel"]]), channels=[row["channel"]])
        effects, kls, moved = [], [], []
        for item in measured():
            (before, p, outs), (after, q, new) = alone(model, item), alone(model, item, edit)
            effects.append(after - before)
            kls.append(float((p.exp() * (p - q)).sum()))
            moved.append(float((new[1] - outs[1]).norm() / outs[1].norm()))
        assert row["effect"] == pytest.approx(np.mean(effects), abs=1e-10)
        assert row["kl"] == pytest.approx(np.mean(kls), abs=1e-10) and row["n_measured"] == 3
        onto = [r for r in found["neuron_layers"] if (r["layer"], r["site"], r["channel"], r["target"])
                == (row["layer"], row["site"], row["channel"], 1)]  # fmt: skip
        if row["chosen"] == "top" and (row["layer"], row["site"]) != (1, "mixer_out"):
            assert onto[0]["moved"] == pytest.approx(np.mean(moved))
            assert onto[0]["moved_low"] <= onto[0]["moved"] <= onto[0]["moved_high"]
        else:
            assert onto == []


@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
def test_estimates_are_slopes_towards_the_replacement(kind: str) -> None:
    """A step of a millionth of the way changes the answer by a millionth of the estimate."""
    model, items, step, channel = nano("mamba"), ITEMS[:2], 1e-6, 5
    site = "blocks.0.mixer_out"
    rows = run_step("causal_neurons", model, items, **FEW, ablation=kind, sites=("mixer_out",))["channels"].to_pylist()
    (row,) = [r for r in rows if (r["layer"], r["channel"]) == (0, channel)]
    with torch.no_grad():
        seen = [alone_values(model, item, site) for item in items]
    mean = torch.cat([x[: len(item.prompt)] for x, item in zip(seen, items, strict=True)]).mean(0)
    slopes = []
    for i, item in enumerate(items):
        x = seen[i]
        donor = seen[1 - i][torch.arange(len(x)) % len(seen[1 - i])]
        target = {"mean": mean.expand_as(x), "zero": torch.zeros_like(x), "resample": donor}[kind]
        ends = []
        for sign in (1, -1):
            value = x + sign * step * (target - x)
            ends.append(alone(model, item, Replace(site, value[:, [channel]], channels=[channel]))[0])
        slopes.append((ends[0] - ends[1]) / (2 * step))
    assert row["first_order"] == pytest.approx(np.mean(slopes), rel=1e-4, abs=1e-8)


def alone_values(model: LanguageModel, item: Item, site: str) -> torch.Tensor:
    answered = Batch([item], model.device).answered()
    with model.capture(site) as acts:
        model(answered.tokens)
    return acts[site][0]


def test_influence_is_how_far_the_output_above_moves(found: dict[str, list[dict[str, Any]]]) -> None:
    model = nano("mamba")
    edit = Replace("blocks.0.mixer_out", means(model, "blocks.0.mixer_out"))
    moved, effects = [], []
    for item in measured():
        (before, _, outs), (after, _, new) = alone(model, item), alone(model, item, edit)
        moved.append(float((new[1] - outs[1]).norm() / outs[1].norm()))
        effects.append(after - before)
    row, last = found["influence"]
    assert (row["layer"], row["target"], row["moved"]) == (0, 1, pytest.approx(np.mean(moved)))
    assert 0 < row["control"] != row["moved"] and row["control_low"] <= row["control"] <= row["control_high"]
    assert (last["layer"], last["status"], last["moved"]) == (1, "not_applicable", None)
    assert found["layers"][0]["effect"] == pytest.approx(np.mean(effects)) and found["layers"][1]["kl"] > 0


def test_planted_neurons_rank_first_and_stand_out_from_random_ones() -> None:
    planted = find_planted("planted-copy-mamba")
    model, number = planted.grow(torch.float64), planted.words.index
    items = [Item(f"q{i}", tuple(map(number, prompt.words)), (number(prompt.answer),))
             for i, prompt in enumerate(planted.prompts(16))]  # fmt: skip
    (output,) = planted.truth.of("output", layer=1)
    count = len(output.channels)
    tables = run_step("causal_neurons", model, items, batch_size=8, resamples=100, top=count, random=6,
                      sites=("mixer_out",))  # fmt: skip
    rows = [row for row in tables["channels"].to_pylist() if row["layer"] == 1]
    assert {row["channel"] for row in rows if row["rank"] <= count} == set(output.channels)
    assert {row["channel"] for row in rows if (row["effect_rank"] or 99) <= count} == set(output.channels)
    assert all(row["effect"] < 0 < row["kl_low"] for row in rows if row["channel"] in output.channels)
    (agreed,) = [row for row in tables["agreement"].to_pylist() if row["layer"] == 1]
    assert (
        agreed["pearson"] > 0.5
        and agreed["verdict"] == "stronger than random"
        and agreed["difference_high"] < 0
        and agreed["top_effect"] < agreed["random_effect"]
    )


def test_what_is_not_finite_or_cannot_be_resampled_says_so() -> None:
    model = nano("mamba")
    single = run_step("causal_neurons", model, ITEMS[:3], batch_size=1, **FEW, ablation="resample")
    assert {row["status"] for table in single.values() for row in table.to_pylist()} == {"not_applicable"}
    with torch.no_grad():
        model.backbone.embeddings.weight.fill_(float("nan"))
    broken = run_step("causal_neurons", model, ITEMS[:3], **FEW)
    assert {row["status"] for row in broken["channels"].to_pylist()} == {"model_nonfinite"}
