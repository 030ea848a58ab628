"""Half-lives measured on texts against their definition, and the parts that change those in a range."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import load
from mplat.steering import Part, Recipe
from mplat.steering.time_constants import HalfLives, half_lives, time_constant_parts

TEXTS = ["The capital of", "Karfen", "A much longer text than the others, so that rows of a batch are padded."]


def deltas(model, text, site):
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad(), model.capture(site) as acts:
        model(ids)
    return acts[site][0].double()


@pytest.mark.parametrize("name", ["tiny-mamba", "tiny-mamba2", "tiny-moe-mamba"])
def test_a_half_life_is_ln_2_over_mean_delta_times_the_rate_on_the_texts(name):
    model = load(name).double()
    found = half_lives(model, TEXTS)
    layers = [0, 2, 4] if name == "tiny-moe-mamba" else [0, 1, 2, 3]
    assert [(f.layer, f.site) for f in found] == [(layer, "mixer.delta") for layer in layers]
    last = found[-1]
    mean = torch.cat([deltas(model, text, f"blocks.{last.layer}.mixer.delta") for text in TEXTS]).mean(0)
    rate = model.blocks[last.layer].mixer.A_log.detach().double().exp().reshape(len(mean), -1)
    torch.testing.assert_close(last.tokens, math.log(2) / (mean[:, None] * rate), rtol=1e-10, atol=0)
    assert torch.equal(last.slowest, last.tokens.max(1).values)


def test_scaled_channels_have_the_half_life_that_was_asked_for_and_no_other_has_changed():
    model = load("tiny-mamba").double()
    before = half_lives(model, TEXTS)
    low, high = (float(q) for q in before[0].slowest.quantile(torch.tensor([0.3, 0.6], dtype=torch.float64)))
    parts = time_constant_parts(before[:1], low, high, 4.0)
    (part,) = parts
    chosen = torch.zeros(256, dtype=torch.bool)
    chosen[list(part.channels)] = True
    assert (
        torch.equal(chosen, (before[0].slowest >= low) & (before[0].slowest <= high)) and 60 < int(chosen.sum()) < 100
    )
    recipe = Recipe(tuple(parts), model.digest)
    recipe.check(model)
    with model.edit(*recipe.edits(model)):
        after = half_lives(model, TEXTS)
    factor = torch.where(chosen, 4.0, 1.0).double()
    torch.testing.assert_close(after[0].slowest, factor * before[0].slowest, rtol=1e-10, atol=0)


def test_modes_of_a_filter_need_no_text_and_are_chosen_by_the_band():
    model = nano("striped_hyena")
    (found,) = half_lives(model, [])
    assert found.modal and found.site == "mixer.poles"
    poles = torch.view_as_complex(model.blocks[0].mixer.filter.poles.detach())
    torch.testing.assert_close(found.tokens, math.log(0.5) / poles.abs().log(), rtol=1e-10, atol=0)
    (part,) = time_constant_parts([found], 1.0, math.inf, 2.0)
    part.check(model)
    with torch.no_grad(), model.capture("blocks.0.mixer.poles") as acts, model.edit(*part.edits(model)):
        model(tokens(1, 3))
    after = math.log(0.5) / torch.view_as_complex(acts["blocks.0.mixer.poles"]).abs().log()
    torch.testing.assert_close(after, torch.where(found.tokens >= 1.0, 2.0, 1.0) * found.tokens, rtol=1e-9, atol=0)


def test_a_range_that_nothing_lies_in_is_refused_with_what_there_is():
    found = [HalfLives(0, "mixer.delta", torch.tensor([[2.0, 1.0], [8.0, 4.0]]))]
    with pytest.raises(InputError, match="nothing has a half-life of 9 to 10 tokens; .* between 2 and 8"):
        time_constant_parts(found, 9, 10, 2.0)
    with pytest.raises(UsageError, match="no range"):
        time_constant_parts(found, 5, 3, 2.0)
    (part,) = time_constant_parts(found, 8, 9, 2.0, write="stays")
    assert (part.site, part.channels, dict(part.options)) == ("mixer.A", (1,), {})
    with pytest.raises(UsageError, match="has no recurrence"):
        half_lives(nano("hyena"), TEXTS)
    with pytest.raises(InputError, match="texts of at least one token"):
        half_lives(load("tiny-mamba"), [])


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "dense_mamba", "stable_mamba"])
@torch.no_grad()
def test_where_the_write_stays_only_decay_changes(arch):
    model, here, f = nano(arch), "blocks.0.mixer.", 3.0
    (of,) = model.blocks[0].recurrences(torch.float64)
    part = Part("scale_time_constants", "mixer.A", (0,), f, channels=(2, 0))
    part.check(model)
    names = [here + name for name in ("x", "delta", "B", "h")]
    with model.capture(*names) as plain:
        model(tokens(2, 9))
    with model.capture(*names, here + "write") as steered, model.edit(*part.edits(model)):
        model(tokens(2, 9))
    x, delta, key = (plain[name] for name in names[:3])
    units = len(of.A)
    slower = delta.clone()
    slower[..., [2, 0]] /= f
    state = torch.zeros_like(plain[names[3]][:, 0]).unflatten(1, (units, -1))
    keys = key.unflatten(-1, (of.groups, -1)).repeat_interleave(units // of.groups, 2)
    for t in range(9):
        share = -torch.expm1(-delta[:, t]) if of.averaging else delta[:, t]
        written = (share[..., None] * x[:, t].unflatten(-1, (units, -1)))[..., None] * keys[:, t][:, :, None]
        state = torch.exp(slower[:, t, :, None] * of.A)[:, :, None] * state + written
        torch.testing.assert_close(steered[names[3]][:, t], state.flatten(1, 2), rtol=0, atol=1e-10)
        torch.testing.assert_close(steered[here + "write"][:, t], written.flatten(1, 2), rtol=0, atol=1e-10)
