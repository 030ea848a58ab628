"""The grid, the rule of choice, the table, and what the variants look through."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from model_zoo import nano
from mplat.core.config import load_config
from mplat.core.errors import InputError, UsageError
from mplat.eval.eval_config import EvalConfig
from mplat.models.adapters import AdaptedConfig, build
from mplat.steering import Scored, choose, control_names, find_variant, grid, variant_for, variant_names
from mplat.steering.discovery import DISCOVERY_SCHEMA, channel_count, discovery_table, ranked
from recipes import scaled

ROOT = Path(__file__).resolve().parents[2]
RECIPE = scaled("d" * 64, (0,))


def scored(em, f1=0.5, *, strength=2.0, layer=1, failed=0, n=10):
    return Scored(scaled("d" * 64, (0,), strength, layer), n, failed, em, f1)


def make_grid(model, **changes):
    arguments = {
        "variant": "mamba", "strengths": {"scale_channels": (0.5, 2.0), "scale_delta": (3.0,)}, "layers": [0, 1],
        "channel_share": 0.25, "find_channels": lambda site, layer, k: list(range(k)), "seed": 0,
    }  # fmt: skip
    return grid(model, **{**arguments, **changes})


def test_the_grid_is_every_combination_in_order_with_channels_found_once_for_each_place():
    model, asked = nano("mamba"), []

    def find(site, layer, k):
        asked.append((site, layer, k))
        return [5, 2]

    found = make_grid(model, find_channels=find)
    assert [(r.parts[0].operator, r.parts[0].layers[0], r.parts[0].strength) for r in found] == [
        ("scale_channels", 0, 0.5), ("scale_channels", 0, 2.0), ("scale_channels", 1, 0.5),
        ("scale_channels", 1, 2.0), ("scale_delta", 0, 3.0), ("scale_delta", 1, 3.0),
    ]  # fmt: skip
    assert asked == [("mixer_out", 0, 6), ("mixer_out", 1, 6), ("mixer.delta", 0, 12), ("mixer.delta", 1, 12)]
    assert all(r.parts[0].channels == (2, 5) and r.model_digest == model.digest for r in found)


def test_what_the_model_has_not_is_refused():
    with pytest.raises(UsageError, match="its layers are 0 to 1"):
        make_grid(nano("mamba"), layers=[2])
    with pytest.raises(UsageError, match="grid is empty"):
        make_grid(nano("mamba"), strengths={})


def test_number_of_channels():
    assert [channel_count(w, 0.125) for w in (8, 24, 128, 1)] == [1, 3, 16, 1]
    assert channel_count(8, 1.0) == 7, "one is left to compare with"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (scored(0.6, 0.1), scored(0.5, 0.9)),
        (scored(0.5, 0.6), scored(0.5, 0.5)),
        (scored(0.5, 0.5), scored(0.5, None)),
        (scored(0.5, strength=0.5), scored(0.5, strength=5.0)),
        (scored(0.5, strength=1.0), scored(0.5, strength=1.5)),
        (scored(0.5, strength=2.0, layer=0), scored(0.5, strength=0.5, layer=1)),
        (scored(0.0), scored(1.0, failed=1)),
    ],
    ids=["em", "f1", "f1 known", "mildest", "identity", "lowest layer", "finite"],
)
def test_the_rule_of_choice(better, worse):
    assert choose([worse, better]) is choose([better, worse]) is better


def test_equal_candidates_are_chosen_in_grid_order():
    first, second = scored(0.5, strength=2.0), scored(0.5, strength=0.5)
    assert math.log(2.0) == -math.log(0.5)
    assert choose([first, second]) is first and choose([second, first]) is second


def test_no_candidate_is_an_error_that_says_why():
    with pytest.raises(InputError, match="not finite on some development question"):
        choose([scored(0.5, failed=1)])
    with pytest.raises(InputError, match="not one development question could be scored"):
        choose([scored(None, None, n=0)])


def test_the_table_keeps_every_candidate_with_its_rank():
    candidates = [scored(0.2), scored(None, None, n=0, failed=10), scored(0.7)]
    table = discovery_table(candidates, ["c0", "c1", "c2"], (0.3, 0.4))
    assert table.schema == DISCOVERY_SCHEMA
    rows = table.to_pylist()
    assert [(r["candidate"], r["em"], r["rank"], r["chosen"]) for r in rows] == [
        ("c0", 0.2, 2, False), ("c1", None, None, False), ("c2", 0.7, 1, True),
    ]  # fmt: skip
    assert {(r["em_unsteered"], r["f1_unsteered"]) for r in rows} == {(0.3, 0.4)}
    assert [s.em for s in ranked(candidates)] == [0.7, 0.2]


@pytest.mark.parametrize("name", [name for name in variant_names() if find_variant(name).steers])
def test_every_variant_has_a_place_to_look_in_any_model(name):
    variant = find_variant(name)
    for n_layers in (1, 2, 4, 24, 64):
        layers = variant.layers(n_layers)
        assert layers == sorted(set(layers)) and 0 <= layers[0] and layers[-1] < n_layers
    assert 20 in variant.layers(24), "83 % depth of 24 layers"
    if variant.arch == "transformer":
        model = build(AdaptedConfig.from_hf({"model_type": "gpt2", "vocab_size": 40, "n_embd": 24, "n_head": 2}))
    else:
        model = nano(variant.arch or "falcon_mamba")
    found = make_grid(model, variant=name, strengths=variant.strengths, layers=variant.layers(model.n_layers))
    assert len(found) <= 12 and not any(r.is_identity for r in found)
    for recipe in found:
        recipe.check(model)


_OUT, _DELTA = ("scale_channels", (0.5, 2.0, 5.0)), ("scale_delta", (0.5, 1.5, 2.0))


@pytest.mark.parametrize(
    ("name", "default_model", "strengths"),
    [("mamba", "tiny-mamba", [_OUT, _DELTA]), ("mamba2", "tiny-mamba2", [_OUT, _DELTA]),
     ("dense_mamba", "tiny-dense-mamba", [_OUT, _DELTA]), ("stable_mamba", "tiny-stable-mamba", [_OUT, _DELTA]),
     ("moe_mamba", "tiny-moe-mamba", [_OUT]), ("striped_hyena", "tiny-striped-hyena", [_OUT]),
     ("hyena", "tiny-hyena", [("scale_channels", (0.5, 1.5, 2.0, 5.0))]),
     ("miniplm", "MiniLLM/MiniPLM-Mamba-130M", [_OUT, _DELTA]),
     ("transformer", "openai-community/gpt2", [_OUT]), ("falcon_mamba", "tiiuae/falcon-mamba-7b", [_OUT]),
     ("black_mamba", None, [_OUT]), ("stable_mamba_attached", None, [_OUT, _DELTA]), ("general", None, [_OUT])],
)  # fmt: skip
def test_what_is_tried_for_each_architecture(name, default_model, strengths):
    variant = find_variant(name)
    assert (variant.name, variant.default_model) == (name, default_model)
    assert list(variant.strengths.items()) == strengths, "in the order of the grid"
    assert (variant.depths, variant.channel_share) == ((0.5, 0.8334), 0.125)


def test_an_operator_is_tried_where_all_blocks_of_the_model_have_its_site():
    for pattern, operators in ((("r", "r"), ["scale_channels", "scale_delta"]), (("r", "4"), ["scale_channels"])):
        model = nano("moe_mamba", layer_pattern=pattern)
        assert list(variant_for(model).strengths) == list(find_variant("moe", model).strengths) == operators


def test_an_unknown_variant_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'mamba2'"):
        find_variant("mumba2")


@pytest.mark.parametrize(
    ("said", "meant"),
    [("moe", "moe_mamba"), ("MoE-Mamba", "moe_mamba"), ("densemamba", "dense_mamba"), ("Mamba2", "mamba2"),
     ("mamba-2", "mamba2"), ("Mamba 2", "mamba2"), ("StripedHyena", "striped_hyena"), ("stable", "stable_mamba"),
     ("Hyena", "hyena"), ("mamba", "mamba"), ("Transformer", "transformer")],
)  # fmt: skip
def test_a_name_is_known_however_it_is_spelt(said, meant):
    from mplat.models import ModelConfig
    from mplat.models.mixer import names
    from mplat.train.train_config import TrainConfig

    assert find_variant(said).name == meant
    if meant in names():
        config = ModelConfig(said, vocab_size=40, d_model=24, n_layers=2, state_size=4, head_dim=8)
        assert config.arch == meant == config.to_hf()["model_type"]
        assert TrainConfig.model_validate({"model": {"arch": said}}).model.arch == meant


@pytest.mark.parametrize("said", ["", "mamba3", "-", "2", "moe2"])
def test_what_means_nothing_or_several_is_no_name(said):
    with pytest.raises(UsageError, match="there is no steering variant"):
        find_variant(said)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("steering/*.yaml")), ids=lambda p: p.stem)
def test_shipped_settings_are_valid_and_of_their_variant(path):
    settings = load_config(EvalConfig, path, [])
    assert settings.steering.variant == path.stem
    assert settings.steering.operators == list(find_variant(path.stem).strengths)


def test_the_default_settings_are_the_defaults():
    settings = load_config(EvalConfig, ROOT / "configs" / "eval" / "default.yaml", [])
    section = settings.steering.model_copy(update={"variant": None})
    assert settings.steering.variant == "mamba2" and settings.controls == control_names()
    assert settings.model_copy(update={"steering": section, "controls": None}) == EvalConfig()
