"""Circuits that are the same units are found to be, others are not, and taking one away costs what needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from equal_models import rearranged, untied
from interp_jobs import token_items
from mplat.core.errors import UsageError
from mplat.interp import Cache, StepResult, config_model, plan_steps, run_plan
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.engine.encoded import Encoded
from mplat.interp.engine.inputs import Given
from mplat.interp.methods.circuit_overlap import overlap, rank_correlation, tail, top_units
from mplat.interp.methods.circuits_compared import Halved, between_halves, compared, paired_units, random_like
from mplat.interp.methods.effect_readings import EFFECTS, batch_effects, read_effects
from mplat.models import Interpolate, LanguageModel

QUICK = {"resamples": 200, "splits": 2, "draws": 2, "shuffled_models": 1}
KINDS = ("yes", "no", "also yes")
MARKS = {"yes": 1, "no": 2, "also yes": 1}  # the prompt's last token
ANSWERS = {"yes": 30, "no": 31, "also yes": 30}


def run(
    model: LanguageModel, items: Sequence[Item], folder: Path, *, others: Sequence[LanguageModel] = (),
    layers: tuple[int, ...] | None = None, **settings: Any,
) -> StepResult:  # fmt: skip
    values = {"steps": ("universality",), "layers": layers, "universality": QUICK | settings}
    config: Any = config_model().model_validate(values)
    given = Given(encoded={"questions": Encoded(tuple(items))})
    return run_plan(plan_steps(model, config=config, given=given, others=others), cache=Cache(folder))["universality"]


@pytest.fixture(scope="module")
def planted() -> tuple[LanguageModel, list[Item]]:
    """A model whose head reads four channels of the last block's output for one answer, four for the other, and nothing
    else; two kinds of question have the one answer, one has the other."""
    model = untied(seed=3)
    items = []
    for number, item in enumerate(token_items(90, seed=4)):
        kind = KINDS[number % 3]
        prompt = (*item.prompt, MARKS[kind])
        items.append(dataclasses.replace(item, prompt=prompt, answer=(ANSWERS[kind],), kind=kind))
    site = "blocks.1.mixer_out"
    last: dict[int, list[torch.Tensor]] = {30: [], 31: []}
    every: list[torch.Tensor] = []
    with torch.no_grad():
        for item in items:
            with model.capture(site) as acts:
                model(torch.tensor([item.prompt]))
            last[item.answer[0]].append(acts[site][0, -1])
            every.append(acts[site][0])
        mean = torch.cat(every).mean(0)
        assert model.lm_head is not None
        model.lm_head.weight.zero_()
        free = torch.ones(24, dtype=torch.bool)
        for answer, values in last.items():  # each answer by the channels that most tell its prompts from the mean
            away = torch.stack(values).mean(0) - mean
            chosen = torch.where(free, away.abs(), 0.0).topk(4).indices
            free[chosen] = False
            model.lm_head.weight[answer, chosen] = 0.3 * away[chosen].sign()
        model.backbone.norm_f.weight.fill_(1.0)
    return model, items


def test_planted_circuits_are_shared_or_not_and_cost_what_needs_them(planted, tmp_path) -> None:
    model, items = planted
    found = run(model, items, tmp_path, layers=(1,), share=4 / 24)
    rows = {(r["comparison"], r["kind"], r["other_kind"]): r for r in found.tables["overlaps"].to_pylist()
            if r["comparison"] in ("kinds", "halves")}  # fmt: skip
    shared, disjoint = rows["kinds", "yes", "also yes"], rows["kinds", "yes", "no"]
    assert (shared["shared"], shared["circuit"], shared["units"]) == (4, 4, 24)
    assert shared["p"] == pytest.approx(1 / 10626) and shared["p_holm"] < 0.01
    assert disjoint["shared"] == 0 and disjoint["p"] == 1.0
    assert all(rows["halves", kind, kind]["shared"] == 4 for kind in KINDS)  # the same circuit by other questions
    assert shared["halves_low"] == shared["halves_high"] == 4 and disjoint["halves_high"] == 0
    transfer = {(r["ablated"], r["kind"]): r for r in found.tables["transfer"].to_pylist()}
    for circuit in KINDS:
        for kind in KINDS:
            row = transfer[circuit, kind]
            same = ANSWERS[circuit] == ANSWERS[kind]
            assert (row["loss"] > 0.1 and row["p_holm"] < 0.05) is same, row
            # random units are some of the other twenty, which hold the other answer's four
            assert row["n_questions"] == 30 and row["random_low"] <= row["random"] <= row["random_high"]
            assert row["difference"] > 3 * abs(row["random"]) if same else row["difference"] < 0.05, row
    profile = [r for r in found.tables["profile"].to_pylist() if r["kind"] == "yes"]
    assert [(r["layer"], r["depth"], r["in_circuit"], r["effect_share"]) for r in profile] == [(1, 0.75, 4, 1.0)]


def test_a_model_that_computes_the_same_has_the_same_circuits_and_shuffled_weights_have_others(
    planted, tmp_path
) -> None:
    model, items = planted
    twin, _, _ = rearranged(model)
    settings: dict[str, Any] = {"sites": ["mixer.gated"], "by": "all", "share": 0.1}
    found = run(model, items, tmp_path, others=(twin, untied(seed=8)), **settings)
    rows = [r for r in found.tables["overlaps"].to_pylist() if r["comparison"] != "halves"]
    assert [(r["comparison"], r["other"]) for r in rows] == [
        ("models", twin.name), ("models", "mamba (3)"), ("shuffled weights", "mamba")
    ]  # fmt: skip
    same, other, control = rows
    assert same["shared"] == same["circuit"] == 10 and same["units"] == 96 and same["p_holm"] < 1e-6
    assert same["rank_correlation"] > 1 - 1e-6 and same["halves_low"] >= 5
    assert other["p"] > 0.05 and control["p"] > 0.05 and control["control"] and control["p_holm"] is None


def test_effects_are_the_slope_towards_the_mean_at_every_token() -> None:
    model, items = untied(seed=2), token_items(6, seed=2)
    sites = ["blocks.0.mixer.y", "blocks.1.mixer_out"]
    table = batch_effects(model, Batch(items, model.device), {"sites": sites, "shuffled": []})
    assert table.schema == EFFECTS
    read = read_effects(table, sites, [item.id for item in items])
    assert read is not None and read.effects.shape == (6, 48 + 24)
    step = 1e-4
    with torch.no_grad():
        for unit in (0, 17, 47, 48, 60, 71):
            site, channel = (sites[0], unit) if unit < 48 else (sites[1], unit - 48)
            for number, item in enumerate(items):
                tokens = torch.tensor([item.prompt + item.answer[:-1]])
                slopes = []
                for weight in (step, -step):
                    with model.edit(Interpolate(site, float(read.means[unit]), weight=weight, channels=[channel])):
                        scores = model(tokens)[0].log_softmax(-1)
                    at = range(len(item.prompt) - 1, tokens.shape[1])
                    slopes.append(float(sum(scores[t, a] for t, a in zip(at, item.answer, strict=True))))
                slope = (slopes[0] - slopes[1]) / (2 * step)
                assert read.effects[number, unit] == pytest.approx(slope, rel=2e-4, abs=2e-5)  # read in float32


def halves(of: np.ndarray, splits: int, rng: np.random.Generator) -> Halved:
    sides = [rng.permutation(len(of)) < len(of) // 2 for _ in range(splits)]
    return Halved(of, [(of & side, of & ~side) for side in sides])


def test_planted_circuits_among_noise_and_none_at_all() -> None:
    rng = np.random.default_rng(0)
    effects = 0.5 * rng.normal(size=(80, 400))
    first, second = np.arange(80) < 40, np.arange(80) >= 40
    one, other = halves(first, 3, rng), halves(second, 3, rng)
    nothing = compared(effects, effects, one, other, 0.05)
    assert nothing.found.p > 0.05 and abs(nothing.rank_correlation or 0) < 0.15
    effects[:40, :20] -= 1.0
    for units, same in ((slice(0, 20), True), (slice(20, 40), False)):
        planted = effects.copy()
        planted[40:, units] -= 1.0
        found = compared(planted, planted, one, other, 0.05)
        assert (found.found.p < 0.01) is same and (found.found.p > 0.05) is not same
        assert found.found.shared == (20 if same else 0) and len(found.halves) == 6
        assert between_halves(planted, one, 0.05).found.shared == 20


def test_p_values_of_blind_circuits_are_exact_and_uniform() -> None:
    from scipy.stats import hypergeom, kstest

    for n, a, b in ((24, 4, 4), (512, 26, 26), (40, 30, 25), (100, 1, 99)):
        for x in range(max(0, a + b - n), min(a, b) + 1):
            assert tail(n, a, b, x) == pytest.approx(float(hypergeom.sf(x - 1, n, a, b)), rel=1e-9)
    rng = np.random.default_rng(1)
    few, many = [], []
    for _ in range(1500):
        units = [top_units(rng.normal(size=60), 6).tolist() for _ in range(2)]
        few.append(overlap(*units, 60).p)
        units = [top_units(rng.normal(size=1500), 500).tolist() for _ in range(2)]
        shared = overlap(*units, 1500)
        # between the p-value and that of one more unit a uniform draw is exact whatever the steps
        many.append(rng.uniform(tail(1500, 500, 500, shared.shared + 1), shared.p))
    assert kstest(many, "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.2, 0.5):  # with few units p is at most as often small as it says
        assert np.mean(np.array(few) <= level) <= level + 3 * np.sqrt(level / 1500)


def test_units_are_paired_by_what_they_hold_and_random_ones_lie_where_a_circuits_do() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 10))
    order = np.concatenate([rng.permutation(6), 6 + rng.permutation(4)])
    ours, theirs = paired_units(x, -2 * x[:, order], [(slice(0, 6), slice(0, 6)), (slice(6, 10), slice(6, 10))])
    assert order[theirs].tolist() == ours.tolist() == list(range(10))
    chosen = [0, 1, 7]
    drawn = random_like(chosen, [slice(0, 6), slice(6, 10)], rng)
    assert [sum(u < 6 for u in units) for units in (chosen, drawn)] == [2, 2] and not set(chosen) & set(drawn)
    assert rank_correlation([1.0, 2.0, 3.0, 9.0], [0.1, 0.2, 5.0, 70.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    with pytest.raises(UsageError, match="0 to 9"):
        overlap([10], [1], 10)


def test_kinds_with_few_questions_and_models_without_the_site_are_said(planted, tmp_path) -> None:
    from model_zoo import nano

    model, items = planted
    one = dataclasses.replace(items[0], kind="rare")
    found = run(model, [one, *items[1:31]], tmp_path, others=(nano("hyena"),), sites=["mixer.y"], shuffled_models=0)
    assert found.bad == {}
    for part in ("profile", "overlaps", "transfer"):
        rows = [r for r in found.tables[part].to_pylist() if r["status"] == "not_applicable"]
        assert {r["reason"] for r in rows} == {
            "fewer than 8 questions of this kind", "none of its blocks has one of the sites"
        }  # fmt: skip
        assert not any(isinstance(value, float) for row in rows for value in row.values())
    with pytest.raises(UsageError, match="no site 'mixer.z'"):
        run(model, items, tmp_path, sites=["mixer.z"])
