"""Controls differ from the recipe in one thing; random channels: in the channels alone."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.steering import Comparison, Drawn, control, control_names, control_recipes, controls
from recipes import scaled

small = cache(nano)
WIDTH = 24  # of mixer_out of the small Mamba


def drawn(channels=(0, 3, 5), draws=4, seed=0, **more):
    recipe = scaled(small("mamba"), channels, **more)
    return control_recipes(["random"], Comparison(recipe, small("mamba"), draws, seed))["random"].recipes


def own(recipe) -> tuple[int, ...]:
    return recipe.parts[0].channels or ()


@given(st.integers(1, WIDTH - 1), st.integers(0, 5))
def test_equal_number_same_everything_else_and_disjoint_where_possible(k, seed):
    recipe = scaled(small("mamba"), range(k))
    for made in drawn(range(k), 2, seed):
        same = dataclasses.replace(made.parts[0], channels=own(recipe))
        assert dataclasses.replace(made, parts=(same,)) == recipe
        assert len(set(own(made))) == k and max(own(made)) < WIDTH
        assert len(set(own(made)) & set(own(recipe))) == max(0, 2 * k - WIDTH)


def test_draws_are_distinct_and_more_draws_only_add():
    assert len({frozenset(own(r)) for r in drawn(draws=20)}) == 20
    assert drawn(draws=20)[:4] == drawn(draws=4)


def test_the_seed_decides():
    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)


def test_the_channels_are_spread_evenly():
    counted = [0] * WIDTH
    for made in drawn(range(6), draws=400):
        for channel in own(made)[:3]:
            counted[channel] += 1
    assert not any(counted[:6]) and max(counted[6:]) < 1.7 * min(counted[6:]), "gains fall on any of them"


def test_several_parts_are_drawn_together():
    recipe = scaled(small("mamba"), (0, 1))
    recipe = dataclasses.replace(recipe, parts=(*recipe.parts, *scaled(small("mamba"), (2,), layer=0).parts))
    made = control_recipes(["random"], Comparison(recipe, small("mamba"), 3, 0))["random"].recipes
    assert all(len(r.parts) == 2 and not {0, 1} & set(own(r)) and r.parts[1].channels != (2,) for r in made)


def test_what_cannot_exist_says_why_and_few_choices_give_few_draws():
    everything = Comparison(scaled(small("mamba"), range(WIDTH)), small("mamba"), 4, 0)
    found = control_recipes(["random"], everything)["random"]
    assert not found.recipes and "steers all 24 channels" in found.reason
    assert len(drawn(range(WIDTH - 1), draws=99)) == WIDTH - 1, "only which of its own is left out can differ"


def test_unknown_and_empty_requests():
    comparison = Comparison(scaled(small("mamba")), small("mamba"), 1, 0)
    with pytest.raises(UsageError, match="did you mean 'random'"):
        control_recipes(["randm"], comparison)
    with pytest.raises(UsageError, match="at least 1 draw"):
        control_recipes(["random"], dataclasses.replace(comparison, draws=0))
    assert control_recipes([], dataclasses.replace(comparison, draws=0)) == {}


def test_a_control_is_added_by_one_decorator(monkeypatch):
    monkeypatch.setattr(controls.CONTROLS, "_entries", dict(controls.CONTROLS._entries))

    @control("milder")
    def milder(comparison):
        return Drawn((comparison.recipe.scaled(0.5),))

    assert "milder" in control_names()
    made = control_recipes(["milder"], Comparison(scaled(small("mamba")), small("mamba"), 3, 0))["milder"].recipes
    assert [r.parts[0].strength for r in made] == [1.5]


def test_gains_go_with_the_draw():
    gains = {"gains": torch.tensor([3.0, 4.0])}
    for made in drawn((0, 1), unit="share", strength=1.0, tensors=gains):
        assert torch.equal(made.parts[0].tensors["gains"], gains["gains"])
