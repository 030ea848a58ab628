"""A recipe belongs to one model, survives its files, and refuses what is wrong before anything runs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from model_zoo import nano
from mplat.core.errors import InputError, UsageError
from mplat.steering import Layout, Part, Recipe
from mplat.steering.layout import mask
from recipes import scaled

FIRST = {
    "format": "mplat-recipe-1", "variant": "mamba", "operator": "scale_mixer_out", "site": "mixer_out", "layer": 1,
    "channels": [4, 17], "strength": 2.5, "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return nano("mamba")


@pytest.fixture
def recipe(model):
    gains = Part("scale_channels", "mixer.h", (0,), 0.5, "share", (2, 5), {"gains": torch.tensor([3.0, -0.1])})
    parts = (*scaled(model, (4, 17), 2.5).parts, gains)
    return Recipe(parts, model.digest, "mine", 7, {"questions": ["a" * 64]})


def test_file_round_trip(recipe, model, tmp_path):
    path = recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(path, model) == recipe
    assert path.read_bytes() == recipe.save(tmp_path / "again.json").read_bytes()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), source="here") == recipe


def test_a_recipe_without_tensors_is_one_file(model, tmp_path):
    path = scaled(model).save(tmp_path / "recipe.json")
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"] and Recipe.load(path) == scaled(model)


def test_tensors_of_another_recipe_are_refused(recipe, model, tmp_path):
    path = recipe.save(tmp_path / "recipe.json")
    other = dataclasses.replace(recipe, parts=(dataclasses.replace(recipe.parts[1], tensors={"gains": torch.ones(2)}),))
    other.save(tmp_path / "other.json")
    (tmp_path / "other.safetensors").rename(tmp_path / "recipe.safetensors")
    with pytest.raises(InputError, match=r"recipe\.safetensors: not the tensors of recipe\.json"):
        Recipe.load(path)


def test_the_first_format_is_read(model, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(FIRST | {"model_digest": model.digest, "decided_on": ["b"]}))
    found = Recipe.load(path, model)
    assert found.parts == scaled(model, (4, 17), 2.5).parts
    assert (found.name, found.seed, found.decided_on) == ("mamba", 7, ("b",))


def test_i9_a_recipe_for_another_model_is_refused(recipe, tmp_path):
    path = recipe.save(tmp_path / "recipe.json")
    with pytest.raises(InputError, match=r"recipe\.json: the recipe was found on the model with digest"):
        Recipe.load(path, nano("mamba", seed=1))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("scale_channels", "mixer_out", (2,), 2.0), "has no layer 2; its layers are 0 to 1"),
        (Part("scale_channels", "mixer_out", (1,), 2.0, channels=(24,)), "channel 24 of blocks.1.mixer_out, which"),
        (Part("scale_channels", "mixer.filter", (1,), 2.0), "does not have; operators that fit it: .*scale_delta"),
        (Part("scale_channels", "mixer_out", (1,), 1.0, "share", (1, 2), {"gains": torch.ones(3)}), r"takes \(2\)"),
    ],
)
def test_i9_what_the_model_has_not_is_refused(model, part, message):
    with pytest.raises(InputError, match=message):
        Recipe((part,), model.digest).check(model)


@pytest.mark.parametrize(
    "change",
    [{"channels": ()}, {"channels": (1, 1)}, {"channels": (-1,)}, {"strength": float("nan")}, {"strength": 1e9},
     {"layers": (-1,)}, {"operator": "scale"}, {"operator": "scale_delta"}, {"unit": "rms"},
     {"positions": "somewhere"}, {"phase": "later"}, {"tensors": {"vector": torch.ones(2)}}, {"options": {"low": 1}},
     {"unit": "share"}, {"unit": "share", "tensors": {"gains": torch.tensor([1.0, float("nan")])}},
     {"tensors": {"gains": torch.ones(2)}}],
)  # fmt: skip
def test_a_part_that_means_nothing_cannot_be_made(change):
    with pytest.raises(UsageError):
        dataclasses.replace(Part("scale_channels", "mixer_out", (1,), 2.0, channels=(4, 17)), **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "not a steering recipe"),
        ('{"format": "other"}', "not a steering recipe"),
        ("strength=NaN", "NaN is no number"),
        ("strength=1000", "out of range"),
        ('strength="2"', "strength is missing or has the wrong type"),
        ("channels=[]", "at least one channel"),
        ("channels=[1.5]", "whole numbers"),
        ("layers=true", "layers is missing or has the wrong type"),
        ("layrs=1", "unknown key 'layrs'; did you mean 'layers'"),
        ('tensors={"gains": "0.gains"}', "'0.gains' is not stored beside the recipe"),
        ('tensors={"gains": {"type": "object"}}', "not a tensor"),
        ('positions="evidnce"', "did you mean 'evidence'"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(model, tmp_path, text, message):
    path = tmp_path / "recipe.json"
    if "=" in text:
        key, _, value = text.partition("=")
        values = scaled(model).to_dict()
        values["parts"][0][key] = "MARK"
        text = json.dumps(values).replace('"MARK"', value)
    path.write_text(text)
    with pytest.raises(InputError, match=f"recipe.json: .*{message}"):
        Recipe.load(path)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(tmp_path / "absent.json")


def test_identity_is_that_of_every_part_and_makes_no_edit(recipe, model):
    assert recipe.scaled(0).is_identity and not recipe.is_identity and recipe.scaled(1) == recipe
    assert recipe.scaled(0).edits(model) == [] and Recipe((), model.digest).is_identity
    assert [part.strength for part in recipe.scaled(2).parts] == [4.0, 1.0]


def test_positions_need_a_layout_and_what_they_name(model):
    recipe = scaled(model, positions="evidence")
    with pytest.raises(UsageError, match="needs to be told where"):
        recipe.edits(model)
    with pytest.raises(InputError, match="prompt 1: it is not known which tokens of the prompt are the evidence"):
        recipe.edits(model, [Layout(4, ((1, 2),)), Layout(5)])


def test_masks_of_prompts_of_other_lengths():
    found = mask("last", [Layout(2), Layout(4)])
    assert found is not None and not found.beyond
    assert found.where.tolist() == [[False, True, False, False], [False, False, False, True]]
    found = mask("generated", [Layout(2), Layout(4)])
    assert found is not None and found.beyond
    assert found.where.tolist() == [[False, False, True, True], [False] * 4]
