"""Controls of recipes with several parts, several layers, and sites where some channels say nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import nano
from mplat.steering import Comparison, Part, Recipe, control_recipes
from mplat.steering.controls import Activity

small = cache(nano)
WIDTH = 24  # of mixer_out of the small Mamba
OF_CHANNELS = ["random", "variance_matched", "high_variance"]


def lively(site):
    return Activity(torch.zeros(WIDTH, dtype=torch.float64), torch.linspace(1, 3, WIDTH, dtype=torch.float64))


def recipe_of(*sets, layers=(1,)):
    parts = (Part("scale_channels", "mixer_out", layers, 5.0 - i, channels=tuple(own)) for i, own in enumerate(sets))
    return Recipe(tuple(parts), small("mamba").digest)


def made(name, recipe, activity=lively, draws=4):
    return control_recipes([name], Comparison(recipe, small("mamba"), draws, 0, activity))[name]


@pytest.mark.parametrize("name", OF_CHANNELS)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_parts_at_one_site_fall_on_no_channel_of_each_other(name, first, second, start):
    recipe = recipe_of(range(start, start + first), range(start + first, start + first + second))
    own = {c for part in recipe.parts for c in part.channels or ()}
    for drawn in made(name, recipe).recipes:
        sets = [set(part.channels or ()) for part in drawn.parts]
        assert not sets[0] & sets[1], "one channel would get both factors"
        assert [len(s) for s in sets] == [first, second]
        if name != "high_variance":
            assert not own & (sets[0] | sets[1]), "a control must not steer what the recipe steers"


@pytest.mark.parametrize("name", OF_CHANNELS)
def test_where_all_others_are_silent_the_control_says_so(name):
    own = torch.zeros(WIDTH, dtype=torch.float64)
    own[-2:] = 1.0  # constant channels: what they carry is their mean
    found = made(name, recipe_of((WIDTH - 2, WIDTH - 1)), lambda site: Activity(own, torch.zeros_like(own)))
    assert found.recipes == () and "carry nothing" in found.reason


def test_draws_that_fall_on_silent_channels_alone_are_drawn_again():
    def half(site):
        loud = (torch.arange(WIDTH) % 2 == 0).double()
        return Activity(torch.zeros(WIDTH, dtype=torch.float64), loud)

    found = made("random", recipe_of((0,)), half, draws=11)
    assert {channel for r in found.recipes for channel in r.parts[0].channels or ()} == set(range(2, WIDTH, 2))


def test_a_part_in_several_layers_is_matched_over_all_of_them():
    by_layer = {f"blocks.{layer}.mixer_out": 10.0**layer for layer in (0, 1)}

    def activity(site):
        power = torch.ones(WIDTH, dtype=torch.float64)
        power[12:] = by_layer[site]  # the other half is louder in the second layer
        return Activity(torch.zeros_like(power), power)

    recipe = recipe_of(range(12), layers=(0, 1))
    (drawn, *_) = made("random", recipe, activity).recipes
    gains = drawn.parts[0].tensors["gains"] - 1.0
    there = sum(float((gains**2 * activity(site).variance[12:]).sum()) for site in by_layer)
    own = sum(float(12 * 16.0 * activity(site).variance[0]) for site in by_layer)
    assert there == pytest.approx(own, rel=1e-9)


def test_each_layer_keeps_its_root_mean_square_when_layers_move():
    model = nano("mamba", n_layers=3)
    vector = {"vector": torch.ones(WIDTH)}
    part = Part("add_vector", "mixer_out", (1, 2), 1.0, tensors=vector, scales=(5.0, 7.0))
    recipe = Recipe((part,), model.digest)
    found = control_recipes(["other_layers"], Comparison(recipe, model, 9, 0))["other_layers"].recipes
    assert [(r.parts[0].layers, r.parts[0].scales) for r in found] == [((0, 2), (7.0, 5.0)), ((0, 1), (5.0, 7.0))]
