"""The shipped operators do exactly what they say; what all of them promise is in tests/contracts."""

from __future__ import annotations

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Scale, generate
from mplat.steering import find_operator, operator, operators
from mplat.steering.recipe import site_width

LAYER = 1


def captured(model, site, *edits):
    with model.capture(site) as acts, model.edit(*edits):
        logits = model(tokens(2, 7))
    return acts[site], logits


@pytest.mark.parametrize("arch", STATE_SPACE)
@pytest.mark.parametrize("name", ["scale_mixer_out", "scale_delta"])
def test_scaling_is_the_factor_on_the_channels_and_is_felt(arch, name):
    model, site = nano(arch), f"blocks.{LAYER}.{find_operator(name).site}"
    channels = [0, int(site_width(model, site) or 0) - 1]
    plain, logits = captured(model, site)
    edited, steered = captured(model, site, *operators.build(name, LAYER, channels, 2.5))
    assert torch.equal(edited[..., channels], 2.5 * plain[..., channels])
    assert not torch.equal(steered, logits)


@pytest.mark.parametrize("arch", STATE_SPACE)
def test_generating_steered_is_rereading_steered(arch):
    """Prefill and decode are steered alike: each new token is the argmax of a steered pass over the whole text."""
    model, edits = nano(arch), operators.build("scale_delta", LAYER, [0, 1], 3.0)
    prompt = tokens(1, 5)[0].tolist()
    with model.edit(*edits):
        (said,) = generate(model, [prompt], max_new_tokens=6, stop=["\n"])
    for i, token in enumerate(said.tokens):
        with model.edit(*edits):
            logits = model(torch.tensor([[*prompt, *said.tokens[:i]]]))
        assert int(logits[0, -1].argmax()) == token


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan"), 1e9, True])
def test_strengths_out_of_range_are_refused_with_the_range(strength):
    with pytest.raises(UsageError, match="allowed: above 0 to 100"):
        operators.build("scale_delta", 0, [0], strength)


def test_an_unknown_operator_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'scale_delta'"):
        operators.build("scale_detla", 0, [0], 2.0)


def test_an_operator_is_added_by_one_decorator(monkeypatch):
    monkeypatch.setattr(operators.OPERATORS, "_entries", dict(operators.OPERATORS._entries))

    @operator("scale_gate", site="mixer.gate")
    def scale_gate(site, channels, strength):
        """Multiply gates."""
        return [Scale(site, strength, channels=channels)]

    assert find_operator("scale_gate").meaning == "Multiply gates."
    model = nano("mamba")
    edited, _ = captured(model, "blocks.1.mixer.gate", *operators.build("scale_gate", 1, [0], 2.0))
    with model.capture("blocks.1.mixer.gate") as acts:
        model(tokens(2, 7))
    assert torch.equal(edited[..., 0], 2.0 * acts["blocks.1.mixer.gate"][..., 0])
    find_operator("scale_mixer_out")
    with pytest.raises(UsageError, match="two steering operators are called .scale_mixer_out."):
        operator("scale_mixer_out", site="mixer_out")(scale_gate)
