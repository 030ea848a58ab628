"""Decays that were set by hand are found exactly; memory over distance is what restoring and answering show."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.interp.engine.batches import Item
from mplat.interp.methods.decays import half_life, horizon, survival, time_constant
from mplat.interp.methods.recurrences import recurrences_of
from mplat.interp.steps.layer_specialisation import group_of
from mplat.interp.tracing import causal_trace, prompt_seed
from mplat.models import LanguageModel
from mplat.models.parts.recall import inverse_softplus

STEP = 0.05
ITEMS = [dataclasses.replace(item, fact=(1, 3)) for item in token_items(6)]


def rows(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[key] == value for key, value in where.items())]


def steady(arch: str, rate: float = 0.7, step: float = STEP) -> LanguageModel:
    """A nano model whose Delta is `step` at every token, and whose |A| is `rate` times 1, 2, ... over its A_log."""
    model = nano(arch)
    with torch.no_grad():
        for layer in range(model.n_layers):
            mixer: Any = model.blocks[layer].mixer
            numbers = torch.arange(1, mixer.A_log.numel() + 1, dtype=torch.float64).view(mixer.A_log.shape)
            mixer.A_log.copy_((rate * numbers).log())
            if arch == "mamba":
                mixer.dt_proj.weight.zero_()
                mixer.dt_proj.bias.fill_(inverse_softplus(step))
            else:
                mixer.in_proj.weight[-mixer.dt_bias.numel() :] = 0.0
                mixer.dt_bias.fill_(inverse_softplus(step))
    return model


# -- the formulas ---------------------------------------------------------------------------------------------------


def test_half_of_a_state_is_left_after_its_half_life_and_one_over_e_after_its_time_constant() -> None:
    rate = torch.tensor([[0.5, 2.0]])
    lives = half_life(rate, torch.tensor([0.1]))
    assert torch.exp(-0.1 * rate * lives)[0].tolist() == pytest.approx([0.5, 0.5])
    assert torch.exp(-0.1 * rate * time_constant(rate, 0.1)).tolist()[0] == pytest.approx([math.exp(-1)] * 2)
    assert time_constant(rate).tolist() == [[2.0, 0.5]]
    assert math.isinf(half_life(torch.zeros(1, 1)).item())


def test_survival_is_the_product_of_the_last_decays() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.rand(7, 3, generator=generator, dtype=torch.float64)
    rate = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    left = survival(rate, delta)
    for k in range(8):
        product = torch.ones(3, 4, dtype=torch.float64)
        for t in range(7 - k, 7):
            product *= torch.exp(-delta[t][:, None] * rate)
        torch.testing.assert_close(left[k], product)


def test_the_horizon_is_the_last_k_with_enough_left_and_ends_with_the_text() -> None:
    generator = torch.Generator().manual_seed(1)
    delta = torch.rand(9, 5, generator=generator, dtype=torch.float64)
    rate = 3 * torch.rand(5, 2, generator=generator, dtype=torch.float64)
    for theta in (0.1, 0.5, 0.9):
        enough = survival(rate, delta) >= theta
        expected = torch.stack([torch.where(enough[k], k, 0) for k in range(10)]).amax(0)
        assert horizon(rate, delta, theta).equal(expected)
    steady_delta = torch.full((20, 1), math.log(2.0) / 8, dtype=torch.float64)
    assert horizon(torch.ones(1, 1), steady_delta, 0.5).item() == 8  # a half-life of exactly eight tokens
    assert horizon(torch.full((1, 1), 1e-9), delta[:, :1], 0.5).item() == 9
    with pytest.raises(UsageError, match="between 0 and 1"):
        horizon(rate, delta, 1.0)


# -- eigenvalues ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_decays_set_by_hand_are_found_exactly(arch: str) -> None:
    model = steady(arch)
    spectrum = run_step("eigenvalues", model, ITEMS)["spectrum"]
    lives = run_step("memory_decay", model, ITEMS, upstream={"fact_tracing": NOTHING_TRACED})["half_lives"]
    for layer in range(2):
        here = rows(spectrum, layer=layer)
        numbers = np.arange(1, len(here) + 1)
        np.testing.assert_allclose([row["real"] for row in here], -0.7 * numbers, rtol=1e-12)
        assert {row["imag"] for row in here} == {0.0} and {row["state"] is None for row in here} == {arch == "mamba2"}
        np.testing.assert_allclose([row["time_constant"] for row in here], 1 / (0.7 * numbers), rtol=1e-12)
        np.testing.assert_allclose([r["time_constant_tokens"] for r in here], 1 / (STEP * 0.7 * numbers), rtol=1e-9)
        expected = np.log(2) / (STEP * 0.7 * numbers)
        np.testing.assert_allclose([row["half_life_tokens"] for row in here], expected, rtol=1e-9)
        found = rows(lives, layer=layer)
        np.testing.assert_allclose([row["half_life_tokens"] for row in found], expected, rtol=1e-9)
        reach = [np.mean([min(math.floor(life), len(item.prompt)) for item in ITEMS]) for life in expected]
        np.testing.assert_allclose([row["horizon_tokens"] for row in found], reach)
        longest = max(len(item.prompt) for item in ITEMS)
        assert [row["extrapolated"] for row in here] == [1 / (STEP * 0.7 * n) > longest for n in numbers]
    layers = run_step("eigenvalues", model, ITEMS)["layers"].to_pylist()
    assert layers[0]["extrapolated"] == np.mean([r["extrapolated"] for r in rows(spectrum, layer=0)])
    assert layers[0]["time_constant_q50"] == pytest.approx(
        np.median([r["time_constant"] for r in rows(spectrum, layer=0)])
    )


def test_the_eigenvalues_of_a_modal_filter_are_the_logarithms_of_its_poles() -> None:
    model = nano("striped_hyena")
    spectrum = run_step("eigenvalues", model, ITEMS)["spectrum"]
    poles = torch.view_as_complex(model.blocks[0].mixer.filter.poles.detach().contiguous()).flatten()  # type: ignore
    here = rows(spectrum, layer=0)
    found = np.exp([complex(row["real"], row["imag"]) for row in here])
    np.testing.assert_allclose(found, poles.numpy(), rtol=1e-10)
    assert {row["delta_mean"] for row in here} == {None} and {row["kind"] for row in here} == {"modal"}
    assert [row["status"] for row in rows(spectrum, layer=1)] == ["not_applicable"]  # attention


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_token_multiplies_every_state_by_the_decay_that_is_claimed(arch: str) -> None:
    """The state after a token, as it depends on the state before: exp(Delta A), whatever the architecture."""
    model = nano(arch)
    decays = [d for layer in range(model.n_layers) for d in recurrences_of(model, layer) if d.delta is not None]
    tokens = torch.tensor([[3, 11, 5]])
    with torch.no_grad():
        _, before = model(tokens[:, :2], return_state=True)
        moved = dataclasses.replace(before, layers=tuple({k: v.clone() for k, v in s.items()} for s in before.layers))
        for decay in decays:
            key = "stable_h" if decay.site == "mixer.stable" else "h"
            if decay.layer != decays[0].layer:
                continue  # a state changed below would change what the layers above write
            moved.layers[decay.layer][key] += 1.0
            with model.capture(decay.name("delta")) as seen:
                _, after = model(tokens[:, 2:], state=before, return_state=True)
                _, changed = model(tokens[:, 2:], state=moved, return_state=True)
            difference = (changed.layers[decay.layer][key] - after.layers[decay.layer][key])[0]
            delta = seen[decay.name("delta")][0, 0].double()
            expected = torch.exp(delta[:, None] * decay.A.real)
            if difference.ndim == 3:  # heads: (H, P, N), one decay for all of a head
                expected = expected[..., None]
            torch.testing.assert_close(difference, expected.expand_as(difference), rtol=1e-9, atol=1e-12)


# -- memory over distance -------------------------------------------------------------------------------------------

TRACED = pa.schema([
    ("question_id", pa.string()), ("site", pa.string()), ("layer", pa.int32()), ("position", pa.int32()),
    ("distance", pa.int32()), ("bin", pa.string()), ("effect", pa.float64()), ("metric_clean", pa.float64()),
    ("metric_corrupted", pa.float64()), ("correct", pa.bool_()), ("status", pa.string()), ("reason", pa.string()),
])  # fmt: skip
NOTHING_TRACED = {"": TRACED.empty_table()}


def traced(effects: dict[tuple[str, str, int, int], float], *, correct: bool = True) -> dict[str, pa.Table]:
    """(question, site, layer, distance) -> effect, as `fact_tracing` writes it; the total effect is 0.8."""
    made = [
        {"question_id": question, "site": site, "layer": layer, "distance": distance, "effect": effect,
         "bin": "further", "metric_clean": 0.9, "metric_corrupted": 0.1, "correct": correct, "status": "ok"}
        for (question, site, layer, distance), effect in effects.items()
    ]  # fmt: skip
    return {"": pa.Table.from_pylist(made, schema=TRACED)}


def test_restoration_over_distance_is_the_mean_over_prompts_of_what_was_traced() -> None:
    decay = {0: 0.8, 1: 0.4, 2: 0.2, 4: 0.05}
    sizes = {"a": 1.0, "b": 0.5, "c": 0.75, "d": 0.7, "e": 0.8, "f": 0.75}
    effects = {(q, "h_post", 0, d): size * e for q, size in sizes.items() for d, e in decay.items()}
    effects |= {("a", "conv_state", 0, 0): 0.1, ("a", "mixer_out", 0, 0): 9.0}
    tables = run_step("memory_decay", nano("mamba"), ITEMS, upstream={"fact_tracing": traced(effects)})
    curve = rows(tables["restoration"], site="h_post", layer=0)
    assert [row["distance"] for row in curve] == [0, 1, 2, 4]
    np.testing.assert_allclose([row["effect"] for row in curve], [0.75 * e for e in decay.values()])
    np.testing.assert_allclose([row["fraction"] for row in curve], [0.75 * e / 0.8 for e in decay.values()])
    assert all(row["low"] <= row["effect"] <= row["high"] and row["n_prompts"] == 6 for row in curve)
    assert rows(tables["restoration"], site="conv_state")[0]["low"] is None  # one prompt has no interval
    assert not rows(tables["restoration"], site="mixer_out")
    first, second = tables["layers"].to_pylist()
    assert (first["restored_half"], first["restored_half_low"], first["restored_half_high"]) == (1, 1, 1)
    assert not first["restored_half_censored"] and first["restored_prompts"] == 6
    assert first["restored_p"] == first["restored_p_holm"] == 2**-6  # one of all signs is as extreme: all as they are
    assert {value for name, value in second.items() if name.startswith("restored_")} == {None}


def test_distances_are_compared_over_the_same_prompts_and_farther_ones_marked() -> None:
    """Long prompts remember all, short ones little: the mean over whoever is long enough would rise with distance."""
    effects = {(f"long{i}", "h_post", 0, d): 0.8 - 0.04 * i for i in range(4) for d in (0, 4, 32, 128)}
    effects |= {(f"short{i}", "h_post", 0, d): 0.1 / (1 + d) + 0.01 * i for i in range(6) for d in (0, 4)}
    layers, restoration = (
        run_step("memory_decay", nano("mamba"), ITEMS, upstream={"fact_tracing": traced(effects)})[part]
        for part in ("layers", "restoration")
    )
    curve = rows(restoration, site="h_post", layer=0)
    assert [(r["distance"], r["same_prompts"], r["n_prompts"]) for r in curve] == [
        (0, True, 10), (4, True, 10), (32, False, 4), (128, False, 4),
    ]  # fmt: skip
    row = layers.to_pylist()[0]
    assert (row["restored_half"], row["restored_half_censored"], row["restored_half_high"]) == (4, True, None)
    assert row["restored_prompts"] == 10


@pytest.mark.parametrize("planted", [0.0, 0.5])
def test_no_half_distance_is_given_where_no_effect_is_shown(planted: float) -> None:
    """Prompts whose effects cancel exactly but for `planted`: every interval contains zero without it."""
    noise = {(f"{sign}{i}", d): sign * (0.1 + 0.01 * i + 0.02 * d) for i in range(6) for sign in (1, -1)
             for d in range(4)}  # fmt: skip
    effects = {(q, "h_post", 0, d): value + planted * 2.0**-d for (q, d), value in noise.items()}
    tables = run_step("memory_decay", nano("mamba"), ITEMS, upstream={"fact_tracing": traced(effects)})
    row, curve = tables["layers"].to_pylist()[0], rows(tables["restoration"], layer=0)
    if planted:
        assert row["restored_half"] == 1 and row["restored_p_holm"] < 0.01
        assert row["restored_half_low"] <= 1 <= row["restored_half_high"]
    else:
        assert all(r["low"] < 0 < r["high"] for r in curve)
        assert row["restored_half"] is None and row["restored_half_censored"] is None and row["restored_p"] > 0.05


def test_horizons_longer_than_the_prompt_are_counted_as_censored() -> None:
    model = steady("mamba", step=math.log(2.0) / 6)  # rates 0.7 and more: half-lives of 8.6 tokens and less
    tables = run_step("memory_decay", model, ITEMS, upstream={"fact_tracing": NOTHING_TRACED})
    lengths = np.array([len(item.prompt) for item in ITEMS])
    for row in rows(tables["half_lives"], layer=0):
        life = row["half_life_tokens"]
        assert row["horizon_censored"] == pytest.approx(np.mean(lengths <= math.floor(life * (1 + 1e-9))))
        assert row["extrapolated"] == (life > lengths.max())
        assert row["horizon_tokens"] == pytest.approx(np.minimum(math.floor(life * (1 + 1e-9)), lengths).mean())
    first = tables["layers"].to_pylist()[0]
    assert 0 < first["horizon_censored"] < 1
    slow = run_step("memory_decay", steady("mamba", rate=1e-6), ITEMS, upstream={"fact_tracing": NOTHING_TRACED})
    assert {(r["horizon_censored"], r["extrapolated"]) for r in slow["half_lives"].to_pylist()} == {(1.0, True)}


def test_only_prompts_that_are_answered_rightly_count_unless_all_are_asked_for() -> None:
    upstream = {"fact_tracing": traced({("a", "h_post", 0, 1): 0.3}, correct=False)}
    right = run_step("memory_decay", nano("mamba"), ITEMS, upstream=upstream)["restoration"].to_pylist()
    assert [(row["status"], row["effect"], row["n_prompts"]) for row in right] == [("not_applicable", None, 0)]
    every = run_step("memory_decay", nano("mamba"), ITEMS, upstream=upstream, traced="all")["restoration"]
    assert every["effect"].to_pylist() == [0.3]


def test_accuracy_is_counted_by_distance_with_what_the_decays_leave() -> None:
    model = steady("mamba2")
    near, far = [], []
    for i, item in enumerate(ITEMS):
        said, length = int(model(torch.tensor([item.prompt]))[0, -1].argmax()), len(item.prompt)
        near.append(Item(f"near{i}", item.prompt, (said,), (length - 2, length - 1)))
        far.append(Item(f"far{i}", item.prompt, ((said + 1) % 40,), (0, 1)))
    table = run_step("memory_decay", model, [*near, *far], upstream={"fact_tracing": NOTHING_TRACED})["behaviour"]
    found = table.to_pylist()
    assert (found[0]["distance_from"], found[0]["distance_to"]) == (1, 1)
    assert (found[0]["accuracy"], found[0]["n_prompts"]) == (1.0, len(near))
    assert all(row["accuracy"] == 0.0 for row in found[1:]) and sum(row["n_prompts"] for row in found[1:]) == len(far)
    rates = 0.7 * np.arange(1, 7)
    assert found[0]["surviving"] == pytest.approx(np.mean(np.exp(-STEP * rates) >= 0.5))
    for row in found[1:]:
        inside = [item.distance for item in far if row["distance_from"] <= item.distance <= row["distance_to"]]
        assert row["surviving"] == pytest.approx(np.mean([np.mean(np.exp(-STEP * rates * d) >= 0.5) for d in inside]))


def test_a_model_without_a_state_has_no_half_lives_and_still_answers() -> None:
    tables = run_step("memory_decay", nano("hyena"), ITEMS, upstream={"fact_tracing": NOTHING_TRACED})
    for part in ("half_lives", "layers"):
        assert [row["status"] for row in tables[part].to_pylist()] == ["not_applicable"] * 2
        known = {name for name, value in tables[part].to_pylist()[0].items() if value is not None}
        assert known == {"layer", "status"}
    assert {row["status"] for row in tables["behaviour"].to_pylist()} == {"ok"}
    assert {row["surviving"] for row in tables["behaviour"].to_pylist()} == {None}


@pytest.mark.parametrize("name", ["eigenvalues", "memory_decay"])
def test_values_that_are_not_finite_are_a_status_and_no_number(name: str) -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.blocks[1].mixer.A_log.fill_(float("nan"))  # type: ignore[operator]
    upstream = {"fact_tracing": NOTHING_TRACED} if name == "memory_decay" else {}
    tables = run_step(name, model, ITEMS, upstream=upstream)
    table = tables["spectrum" if name == "eigenvalues" else "half_lives"]
    assert {row["status"] for row in rows(table, layer=0)} == {"ok"}
    assert {row["status"] for row in rows(table, layer=1)} == {"model_nonfinite"}
    assert {row["half_life_tokens"] for row in rows(table, layer=1)} == {None}
    if name == "memory_decay":
        assert {row["status"] for row in tables["behaviour"].to_pylist()} == {"model_nonfinite"}
        assert {row["accuracy"] for row in tables["behaviour"].to_pylist()} == {None}


# -- traces of facts, and where along the depth they lie ------------------------------------------------------------


def test_a_fact_is_traced_at_its_tokens_at_distances_after_it_and_at_the_end() -> None:
    model, item = nano("mamba"), dataclasses.replace(ITEMS[0], fact=(1, 3))
    table = run_step("fact_tracing", model, [item], distances=(0, 2), samples=2, seed=4)[""]
    here = rows(table, site="h_post", layer=1)
    last = len(item.prompt) - 1
    assert [(r["position"], r["distance"], r["bin"]) for r in here] == [
        (1, -1, "subject_first"), (2, 0, "subject_last"), (4, 2, "further"), (last, last - 2, "last"),
    ]  # fmt: skip
    direct = causal_trace(
        model, torch.tensor(item.prompt), subject=(1, 3), sites=["h_post"], layers=[1], positions=[1, 2, 4, last],
        samples=2, seed=prompt_seed(4, item.id), answer=item.answer[0],
    )  # fmt: skip
    assert [r["effect"] for r in here] == pytest.approx(direct["effect"].to_pylist(), abs=1e-12)
    assert here[-1]["effect"] == 0.0  # nobody reads a state that follows the last token


def test_a_prompt_that_does_not_state_its_answer_has_a_row_that_says_so() -> None:
    unstated = dataclasses.replace(ITEMS[0], id="unstated", fact=None)
    table = run_step("fact_tracing", nano("mamba"), [ITEMS[1], unstated], samples=1)[""]
    (row,) = rows(table, question_id="unstated")
    assert row["status"] == "not_applicable" and row["effect"] is None and "does not state" in row["reason"]


def test_traced_prompts_are_spread_over_the_questions() -> None:
    few = {"samples": 1, "prompts": 3, "sites": ("mixer_out",), "distances": (0,)}
    table = run_step("fact_tracing", nano("mamba"), ITEMS, **few)[""]
    assert list(dict.fromkeys(table["question_id"].to_pylist())) == ["q0", "q2", "q4"]


def test_thirds_of_the_depth() -> None:
    assert [group_of(i, 1) for i in range(1)] == ["middle"]
    assert [group_of(i, 2) for i in range(2)] == ["early", "late"]
    assert [group_of(i, 4) for i in range(4)] == ["early", "middle", "middle", "late"]
    assert [[group_of(i, 48) for i in range(48)].count(g) for g in ("early", "middle", "late")] == [16] * 3


def test_an_early_effect_is_found_early_and_its_contrast_is_significant() -> None:
    generator = np.random.default_rng(0)
    effects = {
        (f"q{i}", "mixer_out", layer, 2): base + 0.01 * generator.standard_normal()
        for i in range(12) for layer, base in enumerate((0.6, 0.4, 0.1, 0.1, 0.1, 0.1))
    }  # fmt: skip
    model = nano("mamba", n_layers=6)
    tables = run_step("layer_specialisation", model, ITEMS, upstream={"fact_tracing": traced(effects)}, resamples=500)
    profile = {row["group"]: row for row in tables["profile"].to_pylist()}
    assert [profile[g]["layers"] for g in ("early", "middle", "late")] == [[0, 1], [2, 3], [4, 5]]
    for group, truth in (("early", 0.5), ("middle", 0.1), ("late", 0.1)):
        expected = np.mean(
            [effects[f"q{i}", "mixer_out", layer, 2] for i in range(12) for layer in profile[group]["layers"]]
        )
        assert profile[group]["effect"] == pytest.approx(expected)
        assert profile[group]["low"] <= expected <= profile[group]["high"]
        assert abs(expected - truth) < 0.02
    contrast = {(row["other"], row["group"]): row for row in tables["contrasts"].to_pylist()}
    assert contrast["early", "late"]["difference"] < -0.3 and contrast["early", "late"]["p_holm"] < 0.01
    assert contrast["middle", "late"]["p"] > 0.05


def test_a_third_without_traced_layers_has_a_status_and_no_number() -> None:
    effects = {(f"q{i}", "mixer_out", 0, 2): 0.5 for i in range(3)}
    tables = run_step("layer_specialisation", nano("mamba"), ITEMS, upstream={"fact_tracing": traced(effects)})
    found = {row["group"]: (row["status"], row["effect"]) for row in tables["profile"].to_pylist()}
    assert found == {"early": ("ok", 0.5), "middle": ("not_applicable", None), "late": ("not_applicable", None)}
    nothing = run_step("layer_specialisation", nano("mamba"), ITEMS, upstream={"fact_tracing": NOTHING_TRACED})
    assert nothing["profile"]["status"].to_pylist() == ["not_applicable"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distances": (2, 1)}, "ascending"),
        ({"distances": (-1,)}, "ascending"),
        ({"distances": ()}, "at least one"),
        ({"sites": ("h_pst",)}, "did you mean"),
        ({"samples": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_step("fact_tracing", nano("mamba"), ITEMS, **settings)
