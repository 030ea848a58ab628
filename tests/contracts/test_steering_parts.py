"""What every registered operator, control and variant promises, on every architecture that it can be for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import LanguageModel
from mplat.steering import (
    Comparison,
    Part,
    Recipe,
    control_names,
    control_recipes,
    find_operator,
    find_variant,
    layers_with,
    operator_names,
    variant_for,
    variant_names,
)
from mplat.steering.units import unit_called
from parts_of_operators import example

small = cache(nano)
LAYERS = range(2)
SITES_EACH = 2  # of an operator that acts on any site, spread over what the architecture has: others in each one


@cache
def editable(arch: str) -> list[tuple[int, str]]:
    """(layer, site) of everything in the blocks of a small model that can be edited."""
    names = [site.name.split(".", 2) for site in small(arch).sites() if site.editable]
    return [(int(block), site) for blocks, block, site in (n for n in names if len(n) == 3) if blocks == "blocks"]


def places(arch: str, name: str) -> list[tuple[int, str]]:
    """(layer, site) where the operator can act in a small model, one of each site."""
    there = {site: layer for layer, site in editable(arch) if find_operator(name).takes(site)}
    found = [(layer, site) for site, layer in there.items()]
    step = max(1, len(found) // SITES_EACH)
    return found[ARCHITECTURES.index(arch) % step :: step]


PLACES = [(name, arch) for name in operator_names() for arch in ARCHITECTURES if places(arch, name)]


@cache
def plain_scores(arch: str) -> torch.Tensor:
    return small(arch)(tokens(2, 7))


@cache
def recipes(name: str, arch: str) -> list[Recipe]:
    """An example of the operator at every site of the architecture, in each of its units."""
    model = small(arch)
    found = [example(model, name, layer, site, unit)
             for layer, site in places(arch, name) for unit in find_operator(name).units]  # fmt: skip
    return [Recipe((part,), model.digest) for part in found if part is not None]


def read(model: LanguageModel, *sites: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    with model.capture(*sites) as acts:
        logits = model(tokens(2, 7))
    return dict(acts), logits


def test_places_are_the_sites_in_which_an_operator_can_act() -> None:
    for name, arch in PLACES[::7]:
        for layer in LAYERS:
            found = {s.name.removeprefix(f"blocks.{layer}.") for s in find_operator(name).sites_in(small(arch), layer)}
            assert found == {site for at, site in editable(arch) if at == layer and find_operator(name).takes(site)}


@pytest.mark.parametrize("name", operator_names())
def test_an_operator_says_what_it_does_and_has_a_place(name: str) -> None:
    op = find_operator(name)
    assert op.meaning.endswith(".")
    assert name in {operator for operator, _ in PLACES}, "no architecture has its site"
    for unit in op.units:
        assert op.low <= unit_called(unit).identity <= op.high


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_the_identity_changes_no_bit_and_anything_else_is_felt(name: str, arch: str) -> None:
    model, plain = small(arch), plain_scores(arch)
    made = recipes(name, arch)
    assert made
    felt = 0
    for recipe in made:
        recipe.check(model)
        with model.edit(*recipe.scaled(0).edits(model)):
            assert torch.equal(model(tokens(2, 7)), plain)
        with model.edit(*recipe.edits(model)):
            steered = model(tokens(2, 7))
        assert bool(torch.isfinite(steered).all())
        felt += not torch.equal(steered, plain)
    assert felt, "none of its examples changes the scores"


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_what_lies_below_is_not_touched_and_the_arguments_alone_decide(name: str, arch: str) -> None:
    model = small(arch)
    for recipe in recipes(name, arch)[:2]:
        below = f"blocks.{recipe.parts[0].layers[0]}.resid_pre"
        plain, _ = read(model, below)
        with model.edit(*recipe.edits(model)):
            steered, logits = read(model, below)
        with model.edit(*recipe.edits(model)):
            assert torch.equal(model(tokens(2, 7)), logits), "it depends on its arguments alone"
        if recipe.parts[0].site != "resid_pre":
            assert torch.equal(steered[below], plain[below])


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_reading_a_text_whole_and_by_tokens_is_steered_alike(name: str, arch: str) -> None:
    model, text = small(arch), tokens(2, 7)
    for recipe in recipes(name, arch)[::5]:
        state, parts = None, []
        with model.edit(*recipe.edits(model)):
            whole = model(text)
            for t in range(text.shape[1]):
                logits, state = model(text[:, t : t + 1], state=state, return_state=True)
                parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "arch"), PLACES)
def test_a_recipe_survives_its_files(name: str, arch: str, tmp_path) -> None:
    for recipe in recipes(name, arch)[:2]:
        assert Recipe.load(recipe.save(tmp_path / "recipe.json"), small(arch)) == recipe


@pytest.mark.parametrize("name", control_names())
def test_a_control_is_for_the_same_model_and_more_draws_only_add(name: str) -> None:
    model = small("mamba")
    part = Part("scale_channels", "mixer_out", (1,), 2.0, channels=(0, 1))
    recipe = Recipe((part,), model.digest, "some", 3)

    def drawn(draws: int, seed: int = 0) -> tuple[Recipe, ...]:
        return control_recipes([name], Comparison(recipe, model, draws, seed))[name].recipes

    three = drawn(3)
    assert len({r.digest for r in three}) == len(three) and drawn(3) == three
    assert drawn(2) == three[:2] or len(three) < 3, "more draws only add"
    if not three:
        assert control_recipes([name], Comparison(recipe, model, 3, 0))[name].reason
    for made in three:
        made.check(model)
        assert (made.name, made.seed, made.model_digest) == (recipe.name, recipe.seed, recipe.model_digest)
        assert made != recipe


@pytest.mark.parametrize("name", variant_names())
def test_a_variant_has_places_and_layers_to_look_in_a_model_of_any_depth(name: str) -> None:
    variant = find_variant(name)
    assert all(find_operator(operator).takes(site) for operator, site in variant.places)
    for depth in (1, 2, 4, 24, 64):
        layers = variant.layers(depth)
        assert layers == sorted(set(layers)) and set(layers) <= set(range(depth))
        assert bool(layers) == bool(variant.depths), "none stands for all"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_can_be_steered(arch: str) -> None:
    model, variant = small(arch), variant_for(small(arch))
    assert variant.places
    for operator, site in variant.places:
        assert find_operator(operator).takes(site) and layers_with(model, site), (operator, site)
