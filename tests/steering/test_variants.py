"""What a variant says can be steered is there, in the blocks of its kind, and the published recipe is a rule."""

from __future__ import annotations

import pytest
import torch
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import InputError
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.models import load
from mplat.steering import (
    Part,
    find_operator,
    find_variant,
    layers_with,
    source_recipe,
    source_site,
    variant_for,
    variant_names,
    variants,
)
from mplat.steering.source_recipe import source_layer
from mplat.steering.variants import places_in
from planted_models import talking

#: what each architecture has that others lack
OF_ITS_OWN = {
    "dense_mamba": {"scale_dense_gate"},
    "moe_mamba": {"scale_expert", "bias_router"},
    "hyena": {"scale_filter"},
    "striped_hyena": {"scale_modes", "scale_time_constants"},
    "stable_mamba": {"scale_stable_gate", "shift_timescale"},
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_place_of_a_variant_is_in_a_model_of_its_architecture_and_can_be_steered(arch):
    model = nano(arch)
    variant = variant_for(model)
    assert variant.places[0] == ("scale_channels", "mixer_out")
    assert len(set(variant.places)) == len(variant.places)
    for name, site in variant.places:
        layers = layers_with(model, site)
        assert layers and find_operator(name).takes(site)
        Part(name, site, tuple(layers), find_operator(name).low if name == "scale_time_constants" else 0.5).check(model)
    assert OF_ITS_OWN.get(arch, set()) <= {name for name, _ in variant.places}


def test_places_name_operators_that_take_their_site_and_no_steering_has_none():
    for name in variant_names():
        variant = find_variant(name)
        assert variant.steers or not (variant.places or variant.source)
        assert all(find_operator(operator).takes(site) for operator, site in variant.places)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "miniplm", "transformer", "general"])
def test_whatever_is_shipped_has_places_and_the_published_rule(name):
    assert find_variant(name).places and find_variant(name).source is source_recipe


def test_a_variant_that_names_depths_is_searched_there_alone(monkeypatch, tmp_path):
    model = load(talking("mamba").save(tmp_path / "model"))
    late = variants.Variant("late", None, None, (("scale_channels", "mixer_out"),), depths=(0.75, 0.9))
    monkeypatch.setattr(variants.VARIANTS, "_entries", dict(variants.VARIANTS._entries))
    variants.VARIANTS.add("late", late, __name__)
    config = EvalConfig.model_validate({"per_level": 3, "price_limit": 2, "steering": {"variant": "late"}})
    search = prepare(config, model).search
    assert search is not None and [place.name for place in search.where] == ["blocks.2.mixer_out"]
    chosen = config.model_copy(update={"steering": config.steering.model_copy(update={"layers": [0]})})
    assert [place.layer for place in prepare(chosen, model).search.where] == [0]


def test_layers_are_those_of_the_kind_that_has_the_site():
    model = nano("moe_mamba", n_layers=6)
    assert layers_with(model, "mixer.delta") == [0, 2, 4]
    assert layers_with(model, "mixer.expert_gain") == [1, 3, 5]
    assert layers_with(model, "mixer_out") == list(range(6))
    assert layers_with(model, "mixer.no_such_site") == []


def test_places_without_a_file_are_those_of_the_sites_and_none_needs_a_tensor():
    found = places_in(nano("black_mamba"))
    assert {("bias_router", "mixer.router_logits"), ("scale_delta", "mixer.delta")} <= set(found)
    assert not {"add_vector", "scale_feature"} & {name for name, _ in found}
    assert [site for name, site in found if name == "scale_time_constants"] == ["mixer.A"]


def test_the_published_rule_scales_the_costliest_channels_by_what_their_ablation_costs():
    model = nano("mamba", n_layers=6)
    costs = torch.full((24,), -0.5, dtype=torch.float64)
    costs[:16] = torch.linspace(-0.01, 0.065, 16, dtype=torch.float64)  # -.01, -.005, ..., .02 is neutral
    recipe = source_recipe(model, costs)
    recipe.check(model)
    found = [(p.operator, p.site, p.layers, p.strength, p.channels) for p in recipe.parts]
    assert found == [
        ("scale_channels", "mixer_out", (5,), 5.0, tuple(range(7, 16))),
        ("scale_channels", "mixer_out", (5,), 2.0, tuple(range(7))),
        ("scale_delta", "mixer.delta", (5,), 1.5, None),
    ]
    assert source_site(model) == "blocks.5.mixer_out"


def test_the_published_rule_never_takes_more_than_sixteen_channels_and_leaves_those_whose_ablation_helps():
    model = nano("mamba")
    (fast, delta) = source_recipe(model, torch.ones(24)).parts
    assert fast.channels == tuple(range(16)) and fast.strength == 5.0 and delta.operator == "scale_delta"
    assert [p.operator for p in source_recipe(model, -torch.ones(24)).parts] == ["scale_delta"]


@pytest.mark.parametrize(("arch", "depth", "layer"), [
    ("mamba", 24, 20), ("mamba", 4, 3), ("moe_mamba", 6, 4), ("striped_hyena", 4, 2), ("hyena", 24, 20),
])  # fmt: skip
def test_the_published_depth_is_83_per_cent_among_the_blocks_that_remember(arch, depth, layer):
    assert source_layer(nano(arch, n_layers=depth)) == layer


def test_impacts_of_another_width_or_that_are_not_numbers_are_refused():
    model = nano("hyena")
    for wrong in (torch.zeros(23), torch.full((24,), float("nan"))):
        with pytest.raises(InputError, match=r"one finite cost for each of the 24 channels of blocks\.1\.mixer_out"):
            source_recipe(model, wrong)
    assert [p.operator for p in source_recipe(model, torch.ones(24)).parts] == ["scale_channels"]


def test_a_variant_of_a_model_leaves_out_what_that_model_has_not():
    one_gate = nano("stable_mamba", n_gates=1)
    gates = [site for name, site in variant_for(one_gate).places if name == "scale_stable_gate"]
    assert gates == ["mixer.gate_0"]
    everything = find_variant("moe_mamba").places
    only_mamba = variant_for(nano("moe_mamba", layer_pattern=("r", "r"))).places
    assert set(everything) - set(only_mamba) == {
        ("scale_expert", "mixer.expert_gain"), ("bias_router", "mixer.router_logits"),
    }  # fmt: skip
