"""Plants hurt, can be undone bit for bit, and turning the residual stream changes no answer."""

from __future__ import annotations

import mplat
import pytest
import torch
from mplat.datasets.facts import prompts
from mplat.errors import UsageError
from mplat.eval.planted import PLANTS, Plant, exact_matches, find_plant, forced_batches
from mplat.eval.planted.turned import loudest_axes, turned
from mplat.scoring.metrics import score

QUESTIONS = prompts(per_level=6, seed=3)


@pytest.fixture(scope="module")
def planted():
    return find_plant("tiny-mamba2:mixer_out:1/16:0").grow()


def test_forced_answers_are_the_generated_ones():
    model = mplat.load("tiny-mamba2")
    said = model.generate([q.prompt for q in QUESTIONS], max_new_tokens=12)
    generated = [score(q.metric, a, list(q.answers)).em for q, a in zip(QUESTIONS, said, strict=True)]
    assert exact_matches(model, forced_batches(model, QUESTIONS)).tolist() == [float(em) for em in generated]
    assert 0 < sum(generated) < len(generated)


@pytest.mark.parametrize("name", ["tiny-mamba", "tiny-mamba2", "tiny-dense-mamba", "tiny-moe-mamba"])
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
            model(batch.tokens, batch.mask), other(batch.tokens, batch.mask)
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
