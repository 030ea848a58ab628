"""Whatever edits do, the recipe made of them does, bit for bit."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import Add, Clamp, Interpolate, ProjectOut, Replace, Scale, save_edits
from mplat.steering import Comparison, Recipe, control_recipes
from mplat.steering.from_edits import load_recipe_of_edits, recipe_of

model = cache(lambda: nano("mamba"))
VECTOR = torch.linspace(-1, 1, 24, dtype=torch.float64)
EDITS = {
    "factor": [Scale("blocks.1.mixer_out", 0.0, channels=[3, -1])],
    "negative": [Scale("blocks.*.mixer_out[0,5]", -2.0)],
    "gains": [Scale("blocks.0.mixer_out", [2.0, 0.5], channels=[3, 4])],
    "coordinates of a state": [Scale("blocks.0.mixer.h", [1.0, 0.5, 2.0, 0.0, -1.0], channels=[0, 1, 2, 3, 7]),
                               Add("blocks.1.mixer.h", [1.0, 0.5, 2.0, 0.0, -1.0])],
    "whole": [Scale("blocks.0.mixer.h", 0.5)],
    "vector": [Add("blocks.1.resid_pre", VECTOR, phase="prefill")],
    "positions": [Add("blocks.1.resid_pre@[2,-1]", VECTOR)],
    "several": [Clamp("final_norm", low=-0.5, high=0.5), ProjectOut("blocks.0.mixer_out", VECTOR),
                Interpolate("blocks.1.mixer_out", 0.0, weight=0.3), Replace("blocks.0.mixer.delta[1]", 0.1)],
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
@torch.no_grad()
def test_the_recipe_does_what_the_edits_do_and_survives_its_files(name, tmp_path):
    text = tokens(2, 7)
    with model().edit(*EDITS[name]):
        wanted = model()(text)
    assert not torch.equal(wanted, model()(text))
    recipe = load_recipe_of_edits(save_edits(tmp_path / "edits", EDITS[name]), model())
    again = Recipe.load(recipe.save(tmp_path / "recipe.json"), model())
    assert again == recipe == recipe_of(EDITS[name], model())
    for made in (recipe, again):
        with model().edit(*made.edits(model())):
            assert torch.equal(model()(text), wanted)
    assert recipe.scaled(0).edits(model()) == []


def test_a_stored_edit_at_strength_0_is_a_recipe_that_changes_nothing(tmp_path):
    recipe = recipe_of(EDITS["several"], model()).scaled(0)
    assert recipe.is_identity and Recipe.load(recipe.save(tmp_path / "recipe.json"), model()) == recipe


def test_a_factor_on_channels_has_random_channels_for_its_control():
    recipe = recipe_of(EDITS["factor"], model())
    found = control_recipes(["random"], Comparison(recipe, model(), 3, 0))["random"]
    assert len(found.recipes) == 3 and recipe.parts[0].channels == (3, 23)


def test_what_is_for_one_batch_or_fits_no_site_is_refused(tmp_path):
    with pytest.raises(UsageError, match="for the rows of one batch"):
        recipe_of([Add("blocks.1.resid_pre", torch.zeros(2, 1, 24))], model())
    with pytest.raises(UsageError, match="no site 'blocks.1.mixer_ot'"):
        recipe_of([Scale("blocks.1.mixer_ot", 2.0)], model())
    with pytest.raises(InputError, match="no stored edits"):
        load_recipe_of_edits(tmp_path, model())
