"""The shipped operators do exactly what they say; what all of them promise is in tests/contracts."""

from __future__ import annotations

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Scale, generate
from mplat.steering import Part, find_operator, fitting, operator, operators
from mplat.steering.recipe import site_width
from recipes import scaled

LAYER = 1


def captured(model, site, *edits):
    with model.capture(site) as acts, model.edit(*edits):
        logits = model(tokens(2, 7))
    return acts[site], logits


@pytest.mark.parametrize("arch", STATE_SPACE)
@pytest.mark.parametrize(("name", "site"), [("scale_channels", "mixer_out"), ("scale_delta", "mixer.delta")])
def test_scaling_is_the_factor_on_the_channels_and_is_felt(arch, name, site):
    model, full = nano(arch), f"blocks.{LAYER}.{site}"
    channels = [0, int(site_width(model, full) or 0) - 1]
    plain, logits = captured(model, full)
    edits = scaled(model, channels, 2.5, LAYER, site=site, operator=name).edits(model)
    edited, steered = captured(model, full, *edits)
    assert torch.equal(edited[..., channels], 2.5 * plain[..., channels])
    assert torch.equal(edited[..., 1 : channels[1]], plain[..., 1 : channels[1]])
    assert not torch.equal(steered, logits)


@pytest.mark.parametrize("site", ["mixer_out", "mixer.h"])
def test_a_share_of_the_gains_scales_each_channel_by_its_own(site):
    model, full = nano("mamba"), f"blocks.{LAYER}.{site}"
    part = Part("scale_channels", site, (LAYER,), 0.5, "share", (1, 3), {"gains": torch.tensor([3.0, -1.0])})
    plain, _ = captured(model, full)
    edited, _ = captured(model, full, *part.edits(model))
    if site == "mixer.h":  # at the first token nothing has been carried on
        plain, edited = plain[:, :1], edited[:, :1]
    assert torch.allclose(edited[:, :, 1], 2.0 * plain[:, :, 1], rtol=0, atol=1e-14)
    assert torch.equal(edited[:, :, 3], 0.0 * plain[:, :, 3])


@pytest.mark.parametrize("arch", STATE_SPACE)
def test_generating_steered_is_rereading_steered(arch):
    """Prefill and decode are steered alike: each new token is the argmax of a steered pass over the whole text."""
    model = nano(arch)
    edits = scaled(model, (0, 1), 3.0, LAYER, site="mixer.delta", operator="scale_delta").edits(model)
    prompt = tokens(1, 5)[0].tolist()
    with model.edit(*edits):
        (said,) = generate(model, [prompt], max_new_tokens=6, stop=["\n"])
    for i, token in enumerate(said.tokens):
        with model.edit(*edits):
            logits = model(torch.tensor([[*prompt, *said.tokens[:i]]]))
        assert int(logits[0, -1].argmax()) == token


@pytest.mark.parametrize("strength", [-0.1, -1.0, float("inf"), float("nan"), 1e9, True])
def test_strengths_out_of_range_are_refused_with_the_range(strength):
    with pytest.raises(UsageError, match="scale_delta allows 0 to 100"):
        Part("scale_delta", "", (0,), strength)


def test_an_unknown_operator_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'scale_delta'"):
        Part("scale_detla", "mixer.delta", (0,), 2.0)


def test_the_operators_that_fit_a_model_are_those_with_a_site():
    assert "scale_delta" in fitting(nano("mamba")) and "scale_delta" not in fitting(nano("hyena"))


def test_an_operator_is_added_by_one_decorator(monkeypatch):
    monkeypatch.setattr(operators.OPERATORS, "_entries", dict(operators.OPERATORS._entries))

    @operator("open_gate", sites=("mixer.gate",))
    def open_gate(target):
        """Multiply gates."""
        return [Scale(target.site, target.strength, channels=target.channels)]

    assert find_operator("open_gate").meaning == "Multiply gates."
    model = nano("mamba")
    part = Part("open_gate", "", (1,), 2.0, channels=(0,))
    edited, _ = captured(model, "blocks.1.mixer.gate", *part.edits(model))
    with model.capture("blocks.1.mixer.gate") as acts:
        model(tokens(2, 7))
    assert torch.equal(edited[..., 0], 2.0 * acts["blocks.1.mixer.gate"][..., 0])
    find_operator("scale_channels")
    with pytest.raises(UsageError, match="two steering operators are called .scale_channels."):
        operator("scale_channels", sites=("mixer_out",))(open_gate)
