"""Controls of equal size change activations as much as the recipe does, and in one thing alone."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from model_zoo import nano, tokens
from mplat.models import Scale
from mplat.steering import Comparison, Part, Recipe, control_recipes
from mplat.steering.controls import Activity
from mplat.steering.features import Dictionary
from recipes import scaled

small = cache(nano)
SITE = "blocks.1.mixer_out"
TEXT = tokens(8, 40)


@cache
def values():
    model = small("mamba")
    with model.capture(SITE) as acts, model.edit(Scale(SITE, torch.logspace(-1, 1, 24, dtype=torch.float64))):
        model(TEXT)
    return acts[SITE].flatten(0, 1)


def activity(site):
    assert site == SITE
    return Activity(values().mean(0), values().var(0, correction=0))


def change(part):
    """Mean squared change of the site's values by a part, by hand."""
    x = values()
    if part.operator == "scale_channels":
        gains = torch.ones(24, dtype=torch.float64)
        own = part.tensors.get("gains", torch.full((len(part.channels),), part.strength))
        gains[list(part.channels)] = 1 + part.strength * (own - 1) if "gains" in part.tensors else part.strength
        return float(((x * (gains - 1)) ** 2).sum(1).mean())
    basis = part.tensors["basis"]
    return float((((part.strength - 1) * (x @ basis.T)) ** 2).sum(1).mean())


def drawn(name, draws=4):
    gains = torch.tensor([3.0, 0.2, 6.0], dtype=torch.float64)
    part = Part("scale_channels", "mixer_out", (1,), 1.0, "share", (2, 9, 20), {"gains": gains})
    recipe = Recipe((part,), small("mamba").digest)
    found = control_recipes([name], Comparison(recipe, small("mamba"), draws, 0, activity))[name]
    return part, found


@pytest.mark.parametrize("name", ["random", "variance_matched", "high_variance"])
def test_other_channels_are_changed_as_much(name):
    part, found = drawn(name)
    assert len(found.recipes) == (1 if name == "high_variance" else 4)
    for recipe in found.recipes:
        (other,) = recipe.parts
        assert other.layers == part.layers and other.site == part.site
        assert change(other) == pytest.approx(change(part), rel=1e-9)
        if name != "high_variance":
            assert not set(other.channels) & set(part.channels)


def test_factors_that_are_held_at_the_lowest_strength_are_made_up_for():
    gains = torch.tensor([0.1, 4.0], dtype=torch.float64)
    part = Part("scale_delta", "mixer.delta", (1,), 1.0, "share", (0, 1), {"gains": gains})
    power = torch.tensor([4.0, 4.0, *[1.0] * (small("mamba").config.inner_size - 2)], dtype=torch.float64)
    comparison = Comparison(
        Recipe((part,), small("mamba").digest), small("mamba"), 4, 0, lambda site: Activity(power.sqrt(), 0 * power)
    )
    for recipe in control_recipes(["random"], comparison)["random"].recipes:
        there = recipe.parts[0].tensors["gains"]
        assert float(there.min()) == 0.0, "no step size below 0"
        assert float(((there - 1) ** 2).sum()) == pytest.approx(float(4 * ((gains - 1) ** 2).sum()), rel=1e-6)


def test_matched_channels_are_as_lively_and_the_liveliest_are_the_liveliest():
    part, found = drawn("variance_matched")
    power = activity(SITE).mean ** 2 + activity(SITE).variance
    spread = (power.max() / power.min()).log()
    for recipe in found.recipes:
        apart = (power[list(recipe.parts[0].channels)] / power[list(part.channels)]).log().abs()
        assert float(apart.max()) < 0.35 * float(spread)
    _, found = drawn("high_variance")
    assert set(found.recipes[0].parts[0].channels) == set(activity(SITE).variance.argsort()[-3:].tolist())


def test_random_directions_change_about_as_much():
    part, found = drawn("random_direction", draws=12)
    if not found.recipes:
        assert "no counterpart" in found.reason
        return
    sizes = [change(recipe.parts[0]) for recipe in found.recipes]
    assert sum(sizes) / len(sizes) == pytest.approx(change(part), rel=0.5)


@pytest.mark.parametrize(
    ("operator", "site", "name"), [("add_vector", "mixer_out", "vector"), ("learned_state", "mixer.h_init", "state")]
)
def test_what_is_added_has_random_counterparts_of_equal_norm(operator, site, name):
    model = small("mamba")
    axes = next(s.axes for s in model.sites() if s.name == f"blocks.1.{site}")
    tensor = torch.linspace(-1, 2, math.prod(axes), dtype=torch.float64).reshape(axes)
    unit = "share" if operator == "learned_state" else "value"
    recipe = Recipe((Part(operator, site, (1,), 1.0, unit, tensors={name: tensor}),), model.digest)
    found = control_recipes(["random_direction"], Comparison(recipe, model, 3, 0))["random_direction"].recipes
    drawn = [r.parts[0].tensors[name] for r in found]
    assert len({r.digest for r in found}) == 3
    assert [float(t.norm()) for t in drawn] == pytest.approx([float(tensor.norm())] * 3)
    assert all(abs(float((t * tensor).sum())) < 0.9 * float(tensor.norm()) ** 2 for t in drawn)
    for made in found:
        made.check(model)


@pytest.mark.parametrize("operator", ["scale_feature", "clamp_feature"])
@pytest.mark.parametrize("features", [2, 17])  # that span a few directions, and all of them
def test_features_are_turned_together_with_their_norms_and_angles(operator, features):
    model = small("mamba")
    generator = torch.Generator().manual_seed(5)
    encoder, decoder = (torch.randn(features, 24, generator=generator) for _ in range(2))
    whole = Dictionary(encoder, torch.linspace(-1, 1, features), decoder, torch.ones(24))
    values = [1.0] * features if operator == "clamp_feature" else None
    part = whole.part(model, "mixer_out", 1, range(features), 0.5, values=values)
    recipe = Recipe((part,), model.digest)
    found = control_recipes(["random_direction"], Comparison(recipe, model, 19, 0))["random_direction"].recipes
    assert len({made.digest for made in found}) == 19, "as many as a rank test takes"
    own = torch.cat([part.tensors[name].double() for name in ("encoder", "decoder")])
    for made in found:
        made.check(model)
        turned = torch.cat([made.parts[0].tensors[name] for name in ("encoder", "decoder")])
        assert torch.allclose(turned @ turned.T, own @ own.T, atol=1e-9)
        assert abs(float((turned * own).sum() / own.square().sum())) < 0.6
        assert torch.equal(made.parts[0].tensors["bias"], part.tensors["bias"])


def test_step_sizes_have_no_random_direction_because_it_would_make_some_negative():
    recipe = scaled(small("mamba"), (0, 1), site="mixer.delta", operator="scale_delta")
    comparison = Comparison(recipe, small("mamba"), 3, 0, lambda site: Activity(torch.ones(48), torch.ones(48)))
    found = control_recipes(["random_direction"], comparison)["random_direction"]
    assert found.recipes == () and "must not be negative" in found.reason


def test_every_other_layer_that_has_the_site():
    model = small("mamba")
    found = control_recipes(["other_layers"], Comparison(scaled(model), model, 9, 0))["other_layers"]
    assert [recipe.parts[0].layers for recipe in found.recipes] == [(0,)]
    striped = small("striped_hyena")
    where = next(i for i in range(2) if any(s.name == f"blocks.{i}.mixer.poles" for s in striped.sites()))
    recipe = scaled(striped, layer=where, site="mixer.residues")
    found = control_recipes(["other_layers"], Comparison(recipe, striped, 9, 0))["other_layers"]
    assert not found.recipes and "no other layer" in found.reason


def test_shuffled_labels_repeat_the_search_and_say_when_it_left_the_model_alone():
    model = small("mamba")
    recipe = scaled(model)

    def found(search):
        return control_recipes(["shuffled_labels"], Comparison(recipe, model, 9, 5, None, search))["shuffled_labels"]

    seeds = []
    other = found(lambda seed: seeds.append(seed) or scaled(model, (seed,)))
    assert seeds == [6, 7, 8] and [r.parts[0].channels for r in other.recipes] == [(6,), (7,), (8,)]
    assert found(lambda seed: recipe).recipes == (recipe,), "what noise finds too is nothing about the answers"
    assert "left the model as it is in all 3" in found(lambda seed: recipe.scaled(0)).reason
    assert "not searched for" in found(None).reason
