"""Each analysis equals its definition, computed another way, in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import STATE_SPACE, nano
from mplat.core.errors import InputError, UsageError
from mplat.interp.engine.answers import score_answers
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.steps.activations import vectors
from mplat.models import LanguageModel, Scale

ITEMS = token_items(7)
KEPT = (2, 9, 14, 20)  # channels of the planted bottleneck
PLANTED_LAYER = 1


@pytest.fixture(params=STATE_SPACE)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


@torch.no_grad()
def answer_logprob(model: LanguageModel, item: Item) -> float:
    """log p(answer | prompt), one token after the other, one question at a time."""
    total = 0.0
    for n, token in enumerate(item.answer):
        logits = model(torch.tensor([item.prompt + item.answer[:n]]))[0, -1]
        total += float(logits[token] - torch.logsumexp(logits, 0))
    return total


def column(table: pa.Table, name: str, layer: int, site: str, kind: str | None = None) -> np.ndarray:
    rows = [r for r in table.to_pylist() if (r["layer"], r["site"]) == (layer, site) and r.get("kind") in (None, kind)]
    return np.array([row[name] for row in rows], dtype=float)


# -- teacher forcing ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_teacher_forced_scores_equal_those_of_one_token_at_a_time(model: LanguageModel) -> None:
    answered = Batch(ITEMS, model.device).answered()
    scores = score_answers(model(answered.tokens, answered.mask), answered)
    np.testing.assert_allclose(scores.logprob, [answer_logprob(model, item) for item in ITEMS], rtol=0, atol=1e-10)
    assert bool(scores.finite.all())


def test_an_answer_counts_as_given_exactly_when_greedy_generation_says_it(model: LanguageModel) -> None:
    said = model.generate([item.prompt for item in ITEMS], max_new_tokens=3, stop=())
    right = [
        dataclasses.replace(item, answer=tuple(tokens)) for item, tokens in zip(ITEMS, said, strict=True) if tokens
    ]
    wrong = [dataclasses.replace(i, answer=(*i.answer[:-1], (i.answer[-1] + 1) % 40)) for i in right]
    for items, expected in ((right, True), (wrong, False)):
        answered = Batch(items, model.device).answered()
        assert score_answers(model(answered.tokens, answered.mask), answered).correct.tolist() == [expected] * len(
            items
        )


# -- delta sensitivity ----------------------------------------------------------------------------------------------


def test_sensitivity_is_the_variance_over_all_real_tokens(model: LanguageModel) -> None:
    table = run_step("delta_sensitivity", model, ITEMS)[""]
    for layer in range(model.n_layers):
        for site in ("mixer.delta", "mixer_out"):
            name = f"blocks.{layer}.{site}"
            seen = []
            for item in ITEMS:  # one prompt at a time, so without padding
                with torch.no_grad(), model.capture(name) as captured:
                    model(torch.tensor([item.prompt]))
                seen.append(captured[name][0].numpy())
            values = np.concatenate(seen)
            variance = values.var(0)
            np.testing.assert_allclose(column(table, "mean", layer, site), values.mean(0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(column(table, "variance", layer, site), variance, rtol=1e-9)
            np.testing.assert_allclose(
                column(table, "cv", layer, site), values.std(0) / np.abs(values.mean(0)), rtol=1e-7
            )
            assert column(table, "rank", layer, site).argsort().tolist() == np.argsort(-variance).tolist()
            assert set(column(table, "n", layer, site)) == {len(values)}


def test_prompts_that_are_not_finite_are_left_out_and_counted(model: LanguageModel) -> None:
    clean = run_step("delta_sensitivity", model, ITEMS, batch_size=1)[""]
    attributed = run_step("attribution", model, ITEMS, batch_size=1)[""]
    broken = Item("broken", (1, 7, 2), (3,))
    with torch.no_grad():
        model.backbone.embeddings.weight[7] = float("nan")
    # token 7 is a target too: with a tied head its score is NaN everywhere, so only the pass over prompts survives it
    found = run_step("delta_sensitivity", model, [*ITEMS, broken], batch_size=1)[""]
    assert found["variance"].to_pylist() == clean["variance"].to_pylist()
    assert set(found["n_nonfinite"].to_pylist()) == {1} and set(found["n_prompts"].to_pylist()) == {len(ITEMS)}
    assert set(attributed["status"].to_pylist()) == {"ok"}
    for name in ("delta_sensitivity", "attribution"):
        nothing = run_step(name, model, [broken])[""]
        assert set(nothing["status"].to_pylist()) == {"model_nonfinite"}
        measured = "variance" if name == "delta_sensitivity" else "attribution"
        assert nothing[measured].null_count == nothing.num_rows


# -- attribution ----------------------------------------------------------------------------------------------------


def test_attribution_is_the_slope_of_the_answers_logprob_when_a_channel_is_scaled(model: LanguageModel) -> None:
    items, eps = ITEMS[:4], 1e-5
    table = run_step("attribution", model, items)[""]
    for layer, site, channels in ((0, "mixer_out", (0, 5, 23)), (1, "mixer_out", (7,)), (0, "mixer.delta", (0, 3))):
        found = column(table, "attribution", layer, site)
        for channel in channels:
            ends = []
            for factor in (1 + eps, 1 - eps):
                with model.edit(Scale(f"blocks.{layer}.{site}", factor, channels=[channel])):
                    ends.append(np.mean([answer_logprob(model, item) for item in items]))
            slope = (ends[0] - ends[1]) / (2 * eps)
            assert found[channel] == pytest.approx(slope, rel=1e-5, abs=1e-9)
        assert np.abs(found).max() > 1e-4


def test_attribution_ranks_by_size_and_does_not_depend_on_batches(model: LanguageModel) -> None:
    small, large = (run_step("attribution", model, ITEMS, batch_size=size)[""] for size in (1, 7))
    a, b = (np.array(table["attribution"]) for table in (small, large))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    here = column(small, "attribution", 0, "mixer_out")
    assert column(small, "rank", 0, "mixer_out").argsort().tolist() == np.argsort(-np.abs(here)).tolist()
    errors = column(small, "standard_error", 0, "mixer_out")
    assert (errors > 0).all()
    assert run_step("attribution", model, ITEMS[:1])[""]["standard_error"].null_count == small.num_rows


# -- activations ----------------------------------------------------------------------------------------------------


def test_activations_are_those_of_a_prompt_by_itself(model: LanguageModel) -> None:
    sites = ("resid_post", "mixer.delta", "mixer.h")
    parts = run_step("activations", model, ITEMS, sites=sites, positions=(0, -1))
    assert set(parts) == set(sites)
    by_id = {item.id: item for item in ITEMS}
    for site, part in parts.items():
        values = vectors(part)
        assert values.dtype == np.dtype("<f4") and part.num_rows == len(ITEMS) * model.n_layers * 2
        keys = list(zip(*(part[name].to_pylist() for name in ("question_id", "layer", "position")), strict=True))
        assert keys == sorted(keys)
        for (question, layer, position), vector in zip(keys, values, strict=True):
            name = f"blocks.{layer}.{site}"
            with torch.no_grad(), model.capture(f"{name}@[{position}]") as captured:
                model(torch.tensor([by_id[question].prompt]))
            np.testing.assert_allclose(vector, captured[name][0, 0].numpy(), rtol=1e-6, atol=1e-7)


def test_a_prompt_too_short_for_a_position_has_a_status_and_no_vector(model: LanguageModel) -> None:
    items = [Item("long", (1, 2, 3, 4), (5,)), Item("short", (1, 2), (5,))]
    part = run_step("activations", model, items, sites=("mixer_out",), positions=(3,))["mixer_out"]
    rows = [(r["question_id"], r["status"], r["vector"] is None, r["position"]) for r in part.to_pylist()]
    assert rows[:2] == [("long", "ok", False, 3)] * 2
    assert rows[2:] == [("short", "bad_input", True, None)] * 2
    every = run_step("activations", model, items, sites=("mixer_out",), positions="all")["mixer_out"]
    assert every.num_rows == (4 + 2) * model.n_layers


def test_values_too_large_for_float16_are_an_error_and_not_an_infinity() -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.backbone.embeddings.weight.mul_(1e6)
    with pytest.raises(InputError, match="too large for float16"):
        run_step("activations", model, ITEMS[:1], dtype="float16")


# -- bottlenecks ----------------------------------------------------------------------------------------------------


def planted(arch: str) -> tuple[LanguageModel, list[Item]]:
    """A model whose layer 1 speaks loudly through four channels alone, and questions whose answers are what it says."""
    model = nano(arch)
    with torch.no_grad():
        weight = dict(model.named_parameters())[f"backbone.layers.{PLANTED_LAYER}.mixer.out_proj.weight"]
        cut = [c for c in range(weight.shape[0]) if c not in KEPT]
        weight[cut] = 0.0
        weight[list(KEPT)] *= 20.0
    items = token_items(12)
    said = model.generate([item.prompt for item in items], max_new_tokens=2, stop=())
    kept = [dataclasses.replace(i, answer=tuple(t)) for i, t in zip(items, said, strict=True) if t]
    return model, kept


FEW = {"detector_resamples": 20, "detector_draws": 19, "layer_draws": 19}


def find_bottlenecks(model: LanguageModel, items: list[Item], seed: int = 0) -> pa.Table:
    upstream = {name: run_step(name, model, items) for name in ("attribution", "delta_sensitivity")}
    return run_step(
        "bottlenecks", model, items, upstream=upstream, seed=seed, top_shares=(4 / 24,), resamples=200, **FEW
    )[""]


@pytest.mark.parametrize("arch", STATE_SPACE)
def test_a_planted_bottleneck_is_found(arch: str) -> None:
    model, items = planted(arch)
    rows = find_bottlenecks(model, items).to_pylist()
    groups = {(r["layer"], r["group"], r["draw"]): r for r in rows if r["kind"] == "group" and r["site"] == "mixer_out"}
    top, everything = groups[PLANTED_LAYER, "top", None], groups[PLANTED_LAYER, "all", None]
    assert top["channels"] == list(KEPT)
    assert top["clean_accuracy"] == 1.0 and top["accuracy_change"] < -0.5 and top["is_bottleneck"]
    assert top["effect_logprob"] < top["effect_high"] < 0
    assert top["rank"] == 1 and groups[0, "top", None]["rank"] == 2
    # the other channels are silent: taking all away costs what taking these four away does
    assert everything["effect_logprob"] == pytest.approx(top["effect_logprob"], abs=1e-9)
    # both halves of the prompts choose the same channels, so that the difference is that of the means
    random = [groups[PLANTED_LAYER, "random", draw]["effect_logprob"] for draw in range(8)]
    assert top["difference"] == pytest.approx(top["effect_logprob"] - np.mean(random), abs=1e-9)
    assert top["difference_low"] < top["difference_high"] < 0 and top["p_prompts"] < 0.001
    assert top["p_holm"] >= max(top["p_prompts"], top["p_draws"]) and top["verdict"] == "stronger than random"
    assert {groups[key]["verdict"] for key in groups if key[1] != "top"} == {None}
    for draw in range(8):
        control = groups[PLANTED_LAYER, "random", draw]
        assert control["control"] and control["n_channels"] == 4 and control["rank"] is None
        assert not set(control["channels"]) & set(KEPT)  # a control without what it is to be compared with
        assert control["effect_logprob"] == pytest.approx(0.0, abs=1e-12)
    silent = [r for r in rows if r["kind"] == "channel" and (r["layer"], r["site"]) == (PLANTED_LAYER, "mixer_out")]
    assert [r["channel"] for r in silent if r["attribution"] != 0] == list(KEPT)


def test_an_ablation_is_the_mean_of_paired_differences() -> None:
    model, items = planted("mamba")
    row = next(r for r in find_bottlenecks(model, items).to_pylist() if r["group"] == "top")
    name, channels = f"blocks.{row['layer']}.{row['site']}", row["channels"]
    seen = []
    for item in items:
        with torch.no_grad(), model.capture(name) as captured:
            model(torch.tensor([item.prompt]))
        seen.append(captured[name][0])
    mean = torch.cat(seen).mean(0)[channels]
    clean = [answer_logprob(model, item) for item in items]
    from mplat.models import Replace

    with model.edit(Replace(name, mean, channels=channels)):
        without = [answer_logprob(model, item) for item in items]
    assert row["effect_logprob"] == pytest.approx(np.mean(without) - np.mean(clean), abs=1e-9)
    assert row["clean_logprob"] == pytest.approx(np.mean(clean), abs=1e-9)
    assert row["n_prompts"] == len(items)


@pytest.mark.slow
def test_bottlenecks_are_deterministic_and_follow_their_seed() -> None:
    model, items = planted("mamba2")
    first, again, other = (find_bottlenecks(model, items, seed) for seed in (0, 0, 1))
    assert first.equals(again)
    random_sets = [[r["channels"] for r in t.to_pylist() if r["group"] == "random"] for t in (first, other)]
    assert random_sets[0] != random_sets[1]


def test_what_cannot_be_measured_has_a_status_and_no_number() -> None:
    model, items = planted("mamba")
    upstream = {name: run_step(name, model, items) for name in ("attribution", "delta_sensitivity")}
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = float("nan")
    table = run_step("bottlenecks", model, items, upstream=upstream, resamples=100, **FEW)[""]
    groups = [r for r in table.to_pylist() if r["kind"] == "group"]
    assert {r["status"] for r in groups} == {"model_nonfinite"}
    for name in ("effect_logprob", "accuracy_change", "is_bottleneck", "clean_accuracy", "rank", "verdict", "p_holm"):
        assert {r[name] for r in groups} == {None}
    assert {(r["n_prompts"], r["n_nonfinite"]) for r in groups} == {(0, len(items))}


def test_wrong_sites_are_usage_errors() -> None:
    model = nano("mamba")
    with pytest.raises(UsageError, match="did you mean 'mixer_out'"):
        run_step("attribution", model, ITEMS, sites=("mixer_ot",))
    with pytest.raises(UsageError, match="one axis of channels"):
        run_step("attribution", model, ITEMS, sites=("mixer.h",))
    with pytest.raises(UsageError, match="each of them once"):
        run_step("delta_sensitivity", model, ITEMS, sites=("delta", "mixer.delta"))
