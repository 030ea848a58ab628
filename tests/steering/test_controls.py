"""Controls differ from the recipe in the channels alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.steering import Recipe, check_controls, control, control_names, control_recipes, controls, places

RECIPE = Recipe("mamba", "scale_mixer_out", "mixer_out", 1, (0, 3, 5), 2.0, 0, "d" * 64)


def drawn(recipe=RECIPE, width=32, draws=4, seed=0):
    return control_recipes(["random"], recipe, width, draws=draws, seed=seed)["random"]


@given(st.integers(5, 40), st.integers(1, 20), st.integers(0, 5))
def test_equal_number_same_everything_else_and_disjoint_where_possible(width, k, seed):
    if k >= width:
        return
    recipe = dataclasses.replace(RECIPE, channels=tuple(range(k)))
    for made in drawn(recipe, width, 1, seed):
        assert dataclasses.replace(made, channels=recipe.channels) == recipe
        assert len(set(made.channels)) == k and max(made.channels) < width
        assert len(set(made.channels) & set(recipe.channels)) == max(0, 2 * k - width)


def test_draws_are_distinct_and_more_draws_only_add():
    assert len({r.channels for r in drawn(draws=20)}) == 20
    assert drawn(draws=20)[:4] == drawn(draws=4)


def test_the_seed_decides():
    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)


def test_the_channels_are_spread_evenly():
    counted = [0] * 12
    for made in drawn(dataclasses.replace(RECIPE, channels=(0, 1)), width=12, draws=45):  # all 45 pairs of 10
        for channel in made.channels:
            counted[channel] += 1
    assert counted == [0, 0] + [9] * 10


def test_when_no_other_channels_are_left_it_says_so():
    with pytest.raises(UsageError, match="steers all 3 channels"):
        drawn(dataclasses.replace(RECIPE, channels=(0, 1, 2)), width=3)
    with pytest.raises(UsageError, match="only 4 distinct random controls; use --draws 4"):
        drawn(dataclasses.replace(RECIPE, channels=(0,)), width=5, draws=5)


def test_unknown_and_empty_requests():
    with pytest.raises(UsageError, match="did you mean 'random'"):
        control_recipes(["randm"], RECIPE, 32, draws=1, seed=0)
    with pytest.raises(UsageError, match="at least 1 draw"):
        control_recipes(["random"], RECIPE, 32, draws=0, seed=0)
    assert control_recipes([], RECIPE, 32, draws=0, seed=0) == {}


def test_a_control_is_added_by_one_decorator(monkeypatch):
    monkeypatch.setattr(controls.CONTROLS, "_entries", dict(controls.CONTROLS._entries))

    @control("milder")
    def milder(recipe, width, *, draws, seed):
        return [dataclasses.replace(recipe, strength=1.5)]

    assert control_names() == ["milder", "random"]
    made = control_recipes(["milder"], RECIPE, 32, draws=3, seed=0)["milder"]
    assert [r.strength for r in made] == [1.5]


def test_what_no_recipe_of_a_site_could_have_is_refused_without_one():
    model = nano("mamba")  # width 24, of which three channels are steered at a share of an eighth
    sites = list(places(model, ["scale_mixer_out"], [0, 1], 0.125))
    assert [(p.layer, p.width, p.count) for p in sites] == [(0, 24, 3), (1, 24, 3)]
    check_controls(["random"], model, sites, draws=1000)  # of 1330 choices of three among 21
    check_controls([], model, places(model, ["scale_mixer_out"], [0], 1.0), draws=99)
    with pytest.raises(UsageError, match="allows only 23 distinct random controls"):
        check_controls(["random"], model, places(model, ["scale_mixer_out"], [1], 0.01), draws=24)
    with pytest.raises(UsageError, match="in layer 7, which"):
        check_controls(["random"], model, places(model, ["scale_mixer_out"], [7], 0.125), draws=1)
