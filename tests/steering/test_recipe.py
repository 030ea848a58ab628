"""A recipe belongs to one model, survives its file, and refuses what is wrong before anything runs."""

from __future__ import annotations

import dataclasses
import json

import pytest
from model_zoo import nano
from mplat.core.errors import InputError, UsageError
from mplat.steering import Recipe


@pytest.fixture(scope="module")
def model():
    return nano("mamba")


@pytest.fixture
def recipe(model):
    return Recipe("mamba", "scale_mixer_out", "mixer_out", 1, (4, 17), 2.5, 7, model.digest)


def test_file_round_trip(recipe, model, tmp_path):
    path = recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(path, model) == recipe
    assert path.read_bytes() == recipe.save(tmp_path / "again.json").read_bytes()


def test_a_recipe_for_another_model_is_refused(recipe, tmp_path):
    path = recipe.save(tmp_path / "recipe.json")
    with pytest.raises(InputError, match=r"recipe\.json: the recipe was found on the model with digest"):
        Recipe.load(path, nano("mamba", seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layer": 2}, "does not have"), ({"channels": (4, 24)}, "channel 24 of blocks.1.mixer_out, which has 24")],
)
def test_a_layer_or_channel_that_the_model_has_not_is_refused(recipe, model, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(recipe, **change).check(model)


@pytest.mark.parametrize(
    "change",
    [{"channels": ()}, {"channels": (1, 1)}, {"channels": (-1,)}, {"strength": float("nan")}, {"strength": 0.0},
     {"layer": -1}, {"operator": "scale"}, {"site": "mixer.delta"}],
)  # fmt: skip
def test_a_recipe_that_means_nothing_cannot_be_made(recipe, change):
    with pytest.raises(UsageError):
        dataclasses.replace(recipe, **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "not a steering recipe"),
        ('{"format": "other"}', "not a steering recipe"),
        ("strength=NaN", "NaN is no number"),
        ("strength=0", "out of range"),
        ('strength="2"', "strength is missing or has the wrong type"),
        ("channels=[]", "at least one channel"),
        ("channels=[1.5]", "whole numbers"),
        ("layer=true", "layer is missing or has the wrong type"),
        ("layr=1", "unknown key 'layr'; did you mean 'layer'"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(recipe, tmp_path, text, message):
    path = tmp_path / "recipe.json"
    if "=" in text:
        key, _, value = text.partition("=")
        values = json.dumps(recipe.to_dict() | {key: "MARK"})
        text = values.replace('"MARK"', value)
    path.write_text(text)
    with pytest.raises(InputError, match=f"recipe.json: .*{message}"):
        Recipe.load(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(tmp_path / "absent.json")


def test_identity_is_strength_one(recipe):
    assert dataclasses.replace(recipe, strength=1.0).is_identity and not recipe.is_identity


def test_the_digest_of_channels_names_the_set(recipe):
    assert dataclasses.replace(recipe, channels=(17, 4)).channels_digest == recipe.channels_digest
    assert dataclasses.replace(recipe, channels=(4, 18)).channels_digest != recipe.channels_digest
