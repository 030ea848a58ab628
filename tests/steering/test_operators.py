"""Operators do exactly what they say: over everything registered, on both architectures."""

from __future__ import annotations

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import LanguageModel, generate
from mplat.steering import find_operator, operator, operator_names, operators
from mplat.steering.recipe import site_width

LAYER = 1


@pytest.fixture(scope="module", params=STATE_SPACE)
def model(request) -> LanguageModel:
    return nano(request.param)


@pytest.fixture(params=operator_names())
def name(request) -> str:
    return request.param


def captured(model, site, *edits):
    with model.capture(site) as acts, model.edit(*edits):
        logits = model(tokens(2, 7))
    return acts[site], logits


def test_scaling_is_the_factor_on_the_channels_and_nothing_elsewhere(model):
    for name in ("scale_mixer_out", "scale_delta"):
        site = f"blocks.{LAYER}.{find_operator(name).site}"
        width = site_width(model, site)
        assert width is not None
        channels = [0, width - 1]
        with model.capture(site) as acts:
            model(tokens(2, 7))
        plain = acts[site]
        edited, _ = captured(model, site, *operators.build(name, LAYER, channels, 2.5))
        others = [c for c in range(width) if c not in channels]
        assert torch.equal(edited[..., channels], 2.5 * plain[..., channels])
        assert torch.equal(edited[..., others], plain[..., others])


def test_layers_below_are_untouched(model, name):
    below = f"blocks.{LAYER - 1}.resid_post"
    with model.capture(below) as acts:
        model(tokens(2, 7))
    assert torch.equal(captured(model, below, *operators.build(name, LAYER, [0], 3.0))[0], acts[below])


def test_strength_one_is_the_identity_bit_for_bit(model, name):
    assert torch.equal(captured(model, "logits", *operators.build(name, LAYER, [0, 1], 1.0))[1], model(tokens(2, 7)))


def test_another_strength_is_not(model, name):
    assert not torch.equal(
        captured(model, "logits", *operators.build(name, LAYER, [0, 1], 3.0))[1], model(tokens(2, 7))
    )


def test_generating_steered_is_rereading_steered(model, name):
    """Prefill and decode are steered alike: each new token is the argmax of a steered pass over the whole text."""
    edits = operators.build(name, LAYER, [0, 1], 3.0)
    prompt = tokens(1, 5)[0].tolist()
    with model.edit(*edits):
        (said,) = generate(model, [prompt], max_new_tokens=6, stop=["\n"])
    for i, token in enumerate(said.tokens):
        with model.edit(*edits):
            logits = model(torch.tensor([[*prompt, *said.tokens[:i]]]))
        assert int(logits[0, -1].argmax()) == token


def test_only_the_layer_channels_and_strength_are_handed_on(name):
    (edit, *_) = operators.build(name, 3, [4, 1], 2.0)
    assert edit.selection.name == f"blocks.3.{find_operator(name).site}"
    assert edit.selection.channels == (4, 1) and edit.phase == "both"


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan"), 1e9, True])
def test_strengths_out_of_range_are_refused_with_the_range(name, strength):
    with pytest.raises(UsageError, match="allowed: above 0 to 100"):
        operators.build(name, 0, [0], strength)


def test_an_unknown_operator_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'scale_delta'"):
        operators.build("scale_detla", 0, [0], 2.0)


def test_an_operator_is_added_by_one_decorator(monkeypatch):
    monkeypatch.setattr(operators.OPERATORS, "_entries", dict(operators.OPERATORS._entries))

    @operator("scale_gate", site="mixer.gate")
    def scale_gate(site, channels, strength):
        """Multiply gates."""
        return operators.scale_delta(site, channels, strength)

    assert find_operator("scale_gate").meaning == "Multiply gates."
    model = nano("mamba")
    edited, _ = captured(model, "blocks.1.mixer.gate", *operators.build("scale_gate", 1, [0], 2.0))
    with model.capture("blocks.1.mixer.gate") as acts:
        model(tokens(2, 7))
    assert torch.equal(edited[..., 0], 2.0 * acts["blocks.1.mixer.gate"][..., 0])
    with pytest.raises(UsageError, match="two steering operators are called .scale_mixer_out."):
        operator("scale_mixer_out", site="mixer_out")(scale_gate)
