"""What every registered operator, control and variant promises, on every architecture that it can be for."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import LanguageModel
from mplat.steering import (
    Recipe,
    control_names,
    control_recipes,
    find_operator,
    find_variant,
    grid,
    operator_names,
    variant_for,
    variant_names,
)
from mplat.steering.operators import build, check_strength
from mplat.steering.recipe import site_width

LAYER = 1
small = cache(nano)


def width(arch: str, operator: str) -> int | None:
    return site_width(small(arch), f"blocks.{LAYER}.{find_operator(operator).site}")


PLACES = [(name, arch) for name in operator_names() for arch in ARCHITECTURES if width(arch, name) is not None]


def read(model: LanguageModel, *sites: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    with model.capture(*sites) as acts:
        logits = model(tokens(2, 7))
    return dict(acts), logits


@pytest.mark.parametrize("name", operator_names())
def test_an_operator_says_what_it_does_and_has_a_place(name: str) -> None:
    assert find_operator(name).meaning.endswith(".")
    assert name in {operator for operator, _ in PLACES}, "no architecture has its site in the second block"


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_strength_one_is_the_identity_bit_for_bit(name: str, arch: str) -> None:
    plain = small(arch)(tokens(2, 7))
    with small(arch).edit(*build(name, LAYER, [0, 1], 1.0)):
        assert torch.equal(small(arch)(tokens(2, 7)), plain)


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_only_the_given_channels_of_the_site_are_touched(name: str, arch: str) -> None:
    model, site, last = small(arch), f"blocks.{LAYER}.{find_operator(name).site}", int(width(arch, name) or 0) - 1
    below = f"blocks.{LAYER - 1}.resid_post"
    plain, _ = read(model, site, below)
    with model.edit(*build(name, LAYER, [0, last], 3.0)):
        steered, logits = read(model, site, below)
    with model.edit(*build(name, LAYER, [0, last], 3.0)):
        assert torch.equal(model(tokens(2, 7)), logits), "it depends on its arguments alone"
    assert torch.equal(steered[below], plain[below])
    assert torch.equal(steered[site][..., 1:last], plain[site][..., 1:last])


@pytest.mark.parametrize(("name", "arch"), PLACES)
@torch.no_grad()
def test_reading_a_text_whole_and_by_tokens_is_steered_alike(name: str, arch: str) -> None:
    model, text = small(arch), tokens(2, 7)
    state, parts = None, []
    with model.edit(*build(name, LAYER, [0, 1], 3.0)):
        whole = model(text)
        for t in range(text.shape[1]):
            logits, state = model(text[:, t : t + 1], state=state, return_state=True)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", control_names())
def test_a_control_differs_from_the_recipe_in_one_thing(name: str) -> None:
    operator, arch = PLACES[0]
    model = small(arch)
    recipe = Recipe("any", operator, find_operator(operator).site, LAYER, (0, 1), 2.0, 0, model.digest)
    n = int(width(arch, operator) or 0)

    def drawn(draws: int, seed: int = 0) -> list[Recipe]:
        return control_recipes([name], recipe, n, draws=draws, seed=seed)[name]

    three = drawn(3)
    assert len(three) == len(set(three)) == 3 and drawn(3) == three, "as many distinct draws as asked for, each time"
    assert drawn(2) == three[:2], "more draws only add"
    for made in three:
        made.check(model)
        assert (made.variant, made.seed, made.model_digest) == (recipe.variant, recipe.seed, recipe.model_digest)
        changed = {f.name for f in dataclasses.fields(Recipe) if getattr(made, f.name) != getattr(recipe, f.name)}
        assert changed in ({"operator", "site"}, {"operator"}, {"layer"}, {"channels"}, {"strength"}), changed


@pytest.mark.parametrize("name", variant_names())
def test_a_variant_has_places_to_look_in_a_model_of_any_depth(name: str) -> None:
    variant = find_variant(name)
    for operator, strengths in variant.strengths.items():
        assert operator in operator_names() and strengths
        assert all(check_strength(strength) != 1.0 for strength in strengths), "strength 1 is no steering"
    for depth in (1, 2, 4, 24, 64) if variant.steers else ():
        layers = variant.layers(depth)
        assert layers == sorted(set(layers)) and 0 <= layers[0] and layers[-1] < depth


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_can_be_steered(arch: str) -> None:
    model, variant = small(arch), variant_for(small(arch))
    recipes = grid(
        model, variant=variant.name, strengths=variant.strengths, layers=variant.layers(model.n_layers),
        channel_share=variant.channel_share, find_channels=lambda site, layer, k: list(range(k)), seed=0,
    )  # fmt: skip
    assert recipes
    for recipe in recipes:
        recipe.check(model)
        assert not recipe.is_identity
