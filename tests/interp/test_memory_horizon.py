"""Horizons of planted memories: decays set by hand, a reader of one token so far back, convolutions alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interp_jobs import run_step, token_items
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.interp.engine.batches import Item
from mplat.interp.methods.hidden_attention import hidden_attention, last_row
from mplat.interp.methods.horizon_tables import length_bins
from mplat.interp.methods.horizons import loss_horizon, profile_horizon, tried_distances
from mplat.interp.methods.recurrence_cut import conv_reach, cut_recurrences
from mplat.interp.methods.recurrences import scans_of
from mplat.interp.methods.replaced_context import divergences, drawn_tokens, token_counts
from mplat.models import LanguageModel, Scale
from mplat.models.parts.recall import inverse_softplus

ITEMS = [dataclasses.replace(item, category="near" if i % 2 else "far") for i, item in enumerate(token_items(6))]
QUICK = {"resamples": 100, "replaced": 6, "draws": 2, "dense": 20}


def rows(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[key] == value for key, value in where.items())]


def reader_of_one_token(back: int) -> LanguageModel:
    """A nano Mamba whose convolutions have one tap each, 3 tokens back or fewer, and whose recurrences write nothing:
    what a token was `back` tokens ago comes through all of them."""
    model = nano("mamba", n_layers=math.ceil(back / 3))
    with torch.no_grad():
        left = back
        for block in model.blocks:
            mixer: Any = block.mixer
            mixer.conv1d.weight.zero_()
            mixer.conv1d.weight[:, 0, 3 - min(3, left)] = 1.0
            mixer.x_proj.weight.zero_()  # B = C = 0: nothing is written or read, y = D x
            left -= min(3, left)
    return model


# -- the formulas ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_the_horizon_is_the_last_distance_with_enough_left(values: list[float], theta: float) -> None:
    found = profile_horizon(values, theta)
    enough = [k for k, value in enumerate(values) if max(values) > 0 and value >= theta * max(values)]
    assert found.tokens == found.at_least == max(enough, default=0)
    assert found.censored == (bool(enough) and enough[-1] == len(values) - 1)


def test_what_is_lost_without_older_tokens_has_its_horizon_between_two_that_were_tried() -> None:
    kept, floor = [0, 1, 4, 9], 1e-8
    assert loss_horizon(kept, [5.0, 4.0, 0.1, 0.0], 0.1, floor) == (4, 2, False)
    assert loss_horizon(kept, [5.0, 0.1, 2.0, 0.0], 0.1, floor) == (9, 5, True)  # the first tokens count
    assert loss_horizon(kept, [1e-9, 0.0, 0.0, 0.0], 0.1, floor) == (0, 0, False)
    for wrong in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, math.nan, 0.0, 0.0]):
        with pytest.raises(UsageError):
            loss_horizon(kept, wrong, 0.1, floor)
    with pytest.raises(UsageError, match="theta"):
        profile_horizon([1.0], 1.0)


def test_distances_are_dense_first_and_end_at_the_last() -> None:
    assert tried_distances(20) == [0, 1, 2, 3, 4, 6, 9, 13, 19, 20]
    assert tried_distances(20, 12, 19, 40) == [0, 1, 2, 3, 4, 6, 9, 12, 13, 19, 20]
    assert tried_distances(2) == [0, 1, 2] and tried_distances(0) == [0]


def test_bins_of_lengths_hold_about_equally_many_and_equal_ones_stand_together() -> None:
    assert length_bins([5, 1, 2, 9, 4, 7, 3, 8], 4) == [(1, 2), (3, 4), (5, 7), (8, 9)]
    assert length_bins([3, 3, 3, 8], 2) == [(3, 3), (8, 8)] and length_bins([4], 3) == [(4, 4)]


def test_replacing_tokens_are_those_of_the_others_and_never_special() -> None:
    prompts = [(0, 3, 4, 3, 5), (0, 6, 6, 2), (7, 6, 5)]
    every = token_counts(prompts, {0, 2})
    drawn = drawn_tokens("q", prompts[0], every, {0, 2}, 200, seed=1)
    assert drawn is not None and set(drawn[:, 1:].flatten().tolist()) == {5, 6, 7}  # 5 stands in the last one too
    assert set(drawn[:, 0].tolist()) == {0}  # the special token keeps its place
    share = (drawn[:, 1:] == 6).double().mean()
    assert 0.5 < float(share) < 0.7  # three of the five tokens that the others have
    again = drawn_tokens("q", prompts[0], every, {0, 2}, 200, seed=1)
    assert again is not None and drawn.equal(again)
    assert drawn_tokens("q", (3, 3), token_counts([(3, 3)], ()), (), 2, seed=1) is None


def test_divergences_are_those_of_runs_by_hand() -> None:
    model, prompt = nano("mamba"), (3, 1, 8, 8, 2)
    drawn = torch.tensor([[9, 9, 9, 9, 9], [4, 5, 6, 4, 5]])
    found = divergences(model, prompt, drawn, [0, 2, 4])
    with torch.no_grad():
        true = model(torch.tensor([prompt]))[0, -1].softmax(-1)
        other = model(torch.tensor([[4, 5, 8, 8, 2]]))[0, -1].softmax(-1)
    assert float(found[1, 1]) == pytest.approx(float((true * (true / other).log()).sum()))
    assert found[2].abs().max() < 1e-12 < found[0].min()


@pytest.mark.parametrize("changes", [{"arch": "mamba"}, {"arch": "mamba2"}, {"arch": "mamba2", "state_size": 1}])
def test_the_last_row_of_hidden_attention_is_that_of_the_whole_matrix(changes: dict[str, Any]) -> None:
    model, tokens = nano(**changes), torch.arange(22).view(2, 11) % 40
    (place,) = scans_of(model, 1)
    with torch.no_grad(), model.capture(*place.inputs) as acts:
        model(tokens)
    whole = hidden_attention(model, tokens[1, :9], 1).weights[:, 8]
    torch.testing.assert_close(last_row(place.rebuild(acts), 1, 9), whole, atol=1e-12, rtol=1e-10)


# -- recurrences that are cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_cut_recurrence_is_one_whose_state_is_taken_away_after_each_token(arch: str) -> None:
    model, tokens = nano(arch), torch.arange(24).view(2, 12) % 40
    edits = cut_recurrences(model)
    states = [Scale(site.name, 0.0) for site in model.sites() if site.name.endswith(".h_post")]
    assert (edits is None) == (not states)
    if edits is None:
        return
    with torch.no_grad():
        with model.edit(*edits):
            cut = model(tokens)
        with model.edit(*states):
            torch.testing.assert_close(cut, model(tokens), atol=1e-9, rtol=1e-9)
        assert not torch.allclose(cut, model(tokens))


def test_convolutions_side_by_side_count_once_and_those_above_one_another_add_up() -> None:
    assert conv_reach(nano("mamba", n_layers=3)) == [3, 3, 3]
    assert conv_reach(nano("stable_mamba_attached")) == [3, 3]
    assert conv_reach(nano("striped_hyena")) == [2, 0]  # attention has none


# -- planted models -------------------------------------------------------------------------------------------------


def test_the_horizons_of_fixed_decays_are_the_closed_form() -> None:
    rate, step, theta = 0.7, 0.05, 0.1
    model = nano("mamba")
    with torch.no_grad():
        for block in model.blocks:
            mixer: Any = block.mixer
            numbers = torch.arange(1, mixer.A_log.numel() + 1, dtype=torch.float64).view(mixer.A_log.shape)
            mixer.A_log.copy_((rate * numbers).log())
            mixer.dt_proj.weight.zero_()
            mixer.dt_proj.bias.fill_(inverse_softplus(step))
    tables = run_step("memory_horizon", model, ITEMS, **QUICK, theta=theta)
    exact = [-math.log(theta) / (rate * step * n) for n in range(1, 48 * 5 + 1)]
    lengths = [len(item.prompt) for item in ITEMS]
    found = rows(tables["coordinates"], layer=1)
    expected = [np.mean([min(math.floor(k), n) for n in lengths]) for k in exact]
    np.testing.assert_allclose([row["horizon_tokens"] for row in found], expected)
    by_prompt = rows(tables["prompts"], view="decay", layer=1)
    expected = [np.mean([min(math.floor(k), n) for k in exact]) for n in lengths]
    np.testing.assert_allclose([row["horizon"] for row in by_prompt], expected)
    censored = [np.mean([math.floor(k) >= n for k in exact]) for n in lengths]
    np.testing.assert_allclose([row["censored"] for row in by_prompt], censored)
    (whole,) = rows(tables["summary"], view="decay", layer=1, by="all")
    assert whole["horizon"] == pytest.approx(np.mean(expected)) and whole["n_censored"] == len(ITEMS)
    # and hidden attention: weights exp(-rate n step k) |C.B| of each channel, which one coordinate makes up alone
    assert len(rows(tables["summary"], view="attention", layer=1, by="category")) == 2


def test_the_distance_of_hidden_attention_of_one_coordinate_is_the_closed_form() -> None:
    model = nano("mamba", state_size=1)
    step, rate, items = 0.2, 1.5, [Item("q", (3,) * 9, (4,))]  # the same token: B and C are constant behind the taps
    with torch.no_grad():
        for block in model.blocks:
            mixer: Any = block.mixer
            mixer.A_log.fill_(math.log(rate))
            mixer.dt_proj.weight.zero_()
            mixer.dt_proj.bias.fill_(inverse_softplus(step))
            mixer.conv1d.weight[:, :, :3] = 0.0  # of the token itself alone
    (row,) = rows(run_step("memory_horizon", model, items, **QUICK)["prompts"], view="attention", layer=0)
    weights = np.exp(-rate * step * np.arange(9))
    assert row["horizon"] == pytest.approx(weights @ np.arange(9) / weights.sum())


@pytest.mark.parametrize("back", [2, 5])
def test_a_model_that_reads_one_token_so_far_back_has_that_horizon(back: int) -> None:
    """In behaviour and gradient, and the same without recurrences: it has none. Below theta of what that token does is
    what comes from the stream's own tokens, which the test's model does not have."""
    model = reader_of_one_token(back)
    items = [item for item in ITEMS if len(item.prompt) > back + 2]
    tables = run_step("memory_horizon", model, items, **QUICK, theta=1e-6)
    for recurrence in ("on", "off"):
        found = rows(tables["prompts"], view="behaviour", recurrence=recurrence)
        assert [row["horizon"] for row in found] == [back] * len(items)
        assert {row["censored"] for row in found} == {0.0}
        gradients = rows(tables["prompts"], view="gradient", recurrence=recurrence, layer=0)
        assert {row["horizon"] for row in gradients} == {back}
    (beside,) = rows(tables["control"], view="behaviour")
    assert beside["bound"] == 3 * model.n_layers and not beside["beyond"] and beside["difference"] == 0.0
    assert beside["past_bound"] == 0.0 and beside["longest"] == back


def test_with_recurrences_the_horizon_goes_past_the_convolutions_and_the_control_does_not() -> None:
    model = nano("mamba")
    tables = run_step("memory_horizon", model, ITEMS, **QUICK, theta=1e-9)
    for view in ("behaviour", "gradient"):
        beside = rows(tables["control"], view=view)
        assert [row["bound"] for row in beside] == ([6] if view == "behaviour" else [6, 3])
        assert all(row["longest"] <= row["bound"] and not row["beyond"] for row in beside)
        long = [len(item.prompt) > 7 for item in ITEMS]
        assert beside[0]["past_bound"] == np.mean(long)
    whole = rows(tables["prompts"], view="behaviour", recurrence="on")
    assert [row["horizon"] for row in whole] == [len(item.prompt) - 1 for item in ITEMS]  # its state forgets slowly
    assert {row["censored"] for row in whole} == {1.0}
    (row,) = rows(tables["summary"], view="behaviour", recurrence="on", by="all")
    assert row["n_censored"] == row["n_prompts"] == 6


def test_what_a_model_does_not_have_is_said() -> None:
    tables = run_step("memory_horizon", nano("hyena"), ITEMS, **QUICK)
    assert [row["reason"] for row in tables["control"].to_pylist()] == ["the model has no recurrence that could be cut"]
    reasons = {row["reason"] for row in rows(tables["summary"], status="not_applicable")}
    assert reasons == {"the block has no recurrence", "the block has no selective scan of its own states"}
    alone = run_step("memory_horizon", nano("mamba"), ITEMS[:1], **QUICK)["prompts"]
    assert {row["status"] for row in rows(alone, view="behaviour")} == {"not_applicable"}


def test_a_model_that_is_not_finite_has_no_horizon() -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.blocks[0].mixer.D.fill_(math.nan)  # type: ignore[union-attr]
    tables = run_step("memory_horizon", model, ITEMS, **QUICK)
    for view in ("gradient", "behaviour"):
        assert {row["status"] for row in rows(tables["prompts"], view=view)} == {"model_nonfinite"}
    assert "ok" not in {row["status"] for row in rows(tables["summary"], view="behaviour")}
