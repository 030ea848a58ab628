"""Plants hurt, can be undone bit for bit, and turning the residual stream changes no answer."""

from __future__ import annotations

import copy
from functools import cache

import mplat
import pytest
import torch
from mplat.datasets.facts import prompts
from mplat.errors import UsageError
from mplat.eval.planted import PLANTS, Plant, exact_matches, find_plant, forced_batches
from mplat.eval.planted.damages import in_weights
from mplat.eval.planted.turned import TURNABLE, loudest_axes, turned
from mplat.models.edits import Scale
from mplat.scoring.metrics import score

QUESTIONS = prompts(per_level=6, seed=3)
FRESH = prompts(per_level=4, seed=21)


@cache
def answered(name):
    """Which of FRESH a shipped model answers."""
    model = mplat.load(name)
    return exact_matches(model, forced_batches(model, FRESH))


@pytest.fixture(scope="module")
def planted():
    return find_plant("tiny-mamba2:mixer_out:1/16:0").grow()


def test_forced_answers_are_the_generated_ones():
    model = mplat.load("tiny-mamba2")
    said = model.generate([q.prompt for q in QUESTIONS], max_new_tokens=12)
    generated = [score(q.metric, a, list(q.answers)).em for q, a in zip(QUESTIONS, said, strict=True)]
    assert exact_matches(model, forced_batches(model, QUESTIONS)).tolist() == [float(em) for em in generated]
    assert 0 < sum(generated) < len(generated)


@pytest.mark.parametrize("name", [f"tiny-{arch.replace('_', '-')}" for arch in TURNABLE])
def test_turning_the_residual_stream_changes_no_logits(name):
    model = mplat.load(name, dtype=torch.float64)
    batches = forced_batches(model, QUESTIONS[:12])
    axes = loudest_axes(model, 0, 8, batches, seed=1)
    other = turned(model, axes.turn)
    assert torch.allclose(axes.turn.T @ axes.turn, torch.eye(model.config.d_model, dtype=torch.float64), atol=1e-12)
    for batch in batches:
        before, after = model(batch.tokens, batch.mask), other(batch.tokens, batch.mask)
        assert torch.allclose(before[batch.mask], after[batch.mask], atol=1e-9)
        with other.capture("embed") as there, model.capture("embed") as here:
            for each in (model, other):
                each(batch.tokens, batch.mask)
        assert torch.allclose(here["embed"] @ axes.turn, there["embed"], atol=1e-12)


def test_a_layer_norm_cannot_be_turned():
    model = mplat.load("tiny-hyena")
    with pytest.raises(UsageError, match="hyena cannot be turned"):
        turned(model, torch.eye(model.config.d_model, dtype=torch.float64))


def test_a_damage_hurts_and_is_undone_bit_for_bit(planted):
    batches = forced_batches(planted.model, QUESTIONS)
    clean = exact_matches(planted.clean, batches)
    with planted.applied():
        damaged = exact_matches(planted.model, batches)
        with planted.model.edit(*planted.undo()), torch.no_grad():
            undone = planted.model(batches[0].tokens, batches[0].mask)[batches[0].mask]
    assert damaged.mean() <= 0.6 * clean.mean()
    with torch.no_grad():
        assert torch.equal(undone, planted.clean(batches[0].tokens, batches[0].mask)[batches[0].mask])


def test_a_damaged_model_is_saved_and_read_like_any_other(planted, tmp_path):
    again = mplat.load(planted.model.save(tmp_path / "damaged"))
    batch = forced_batches(planted.model, QUESTIONS[:6])[0]
    with torch.no_grad():
        read, made = (m(batch.tokens, batch.mask)[batch.mask] for m in (again, planted.model))
    assert torch.equal(read, made)


def test_a_plant_is_a_function_of_its_fields(planted):
    again = planted.plant.grow()
    assert again.channels == planted.channels and again.model.digest == planted.model.digest
    other = find_plant("tiny-mamba2:mixer_out:1/16:1").grow()
    assert other.channels != planted.channels


def test_names_are_those_of_the_plants():
    assert all(name == plant.name for name, plant in PLANTS.items())
    with pytest.raises(UsageError, match="unknown plant"):
        find_plant("tiny-mamba:mixer_out")
    with pytest.raises(UsageError, match="can be undone"):
        Plant("none", "damaged", "tiny-mamba", "mixer_out", 0, 16, 0.0)


@pytest.mark.slow
def test_decoys_follow_a_carrier_and_nothing_reads_them():
    plant = find_plant("tiny-mamba:mixer.gated:decoy")
    planted = plant.grow()
    batch = forced_batches(planted.model, QUESTIONS[:6])[0]
    with torch.no_grad(), planted.model.capture(plant.full_site) as seen:
        logits = planted.model(batch.tokens, batch.mask)
    activity = seen[plant.full_site][batch.mask]
    others = [c for c in range(planted.width) if c not in planted.channels]
    for decoy in planted.channels:
        assert any(torch.equal(activity[:, decoy], activity[:, c]) for c in others)
    with torch.no_grad(), planted.model.edit(Scale(plant.full_site, 100.0, channels=planted.channels)):
        assert torch.equal(planted.model(batch.tokens, batch.mask)[batch.mask], logits[batch.mask])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, plant in PLANTS.items() if plant.factor != 1 and not n.endswith(":1")])
def test_every_damage_hurts_and_is_undone(name):
    planted = find_plant(name).grow()
    batches = forced_batches(planted.model, FRESH)
    clean = answered(planted.plant.model)
    with planted.applied():
        damaged = exact_matches(planted.model, batches)
        with planted.model.edit(*planted.undo()):
            undone = exact_matches(planted.model, batches)
    assert damaged.mean() <= 0.6 * clean.mean() and (undone != clean).float().mean() <= 0.02


@pytest.mark.parametrize(("site", "layer"), [("mixer_out", 0), ("mixer.x_in", 1), ("mixer.B", 0), ("mixer.C", 1),
                                             ("mixer.delta", 1)])  # fmt: skip
def test_a_change_of_weights_is_the_factor_at_the_site(site, layer):
    model = mplat.load("tiny-mamba", dtype=torch.float64)
    changed = copy.deepcopy(model)
    assert in_weights(changed, site, layer, [1, 5, 7], 0.3)
    batch = forced_batches(model, QUESTIONS[:4])[0]
    with torch.no_grad(), model.edit(Scale(f"blocks.{layer}.{site}", 0.3, channels=(1, 5, 7))):
        edited = model(batch.tokens, batch.mask)[batch.mask]
    with torch.no_grad():
        plain, by_weights = (m(batch.tokens, batch.mask)[batch.mask] for m in (model, changed))
    assert torch.allclose(edited, by_weights, atol=1e-10) and not torch.allclose(plain, edited, atol=1e-6)


@pytest.mark.parametrize(("name", "site", "layer"), [("tiny-stable-mamba", "mixer.gate", 1),
                                                     ("tiny-moe-mamba", "mixer.expert_gain", 3)])  # fmt: skip
def test_gates_and_experts_are_changed_in_the_weights(name, site, layer):
    model = mplat.load(name, dtype=torch.float64)
    changed = copy.deepcopy(model)
    assert in_weights(changed, site, layer, [0, 2], 0.3)
    batch = forced_batches(model, QUESTIONS[:4])[0]
    with torch.no_grad(), model.edit(Scale(f"blocks.{layer}.{site}", 0.3, channels=(0, 2))):
        edited = model(batch.tokens, batch.mask)[batch.mask]
    with torch.no_grad():
        plain, by_weights = (m(batch.tokens, batch.mask)[batch.mask] for m in (model, changed))
    assert torch.allclose(edited, by_weights, atol=1e-10) and not torch.allclose(plain, edited, atol=1e-8)


def test_what_is_no_change_of_weights_is_held(planted):
    assert not in_weights(planted.model, "mixer.B", 0, [1], 0.5)  # a nonlinearity stands behind it in Mamba-2
    held = find_plant("tiny-mamba2:mixer.B:state_only").grow()
    batch = forced_batches(held.model, QUESTIONS[:4])[0]
    with torch.no_grad():
        clean = held.clean(batch.tokens, batch.mask)[batch.mask]
        with held.applied() as model:
            damaged = model(batch.tokens, batch.mask)[batch.mask]
            with model.edit(*held.undo()):
                undone = model(batch.tokens, batch.mask)[batch.mask]
    assert torch.equal(undone, clean) and not torch.allclose(damaged, clean, atol=0.1)
