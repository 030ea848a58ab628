"""Costs of channels against hand-made ablations, and the published recipe made of them."""

# pyright: reportIndexIssue=false, reportOptionalIterable=false
from __future__ import annotations

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError
from mplat.models import Replace, Scale
from mplat.steering import source_recipe, source_site
from mplat.steering.ablation_costs import ablation_costs
from mplat.steering.answered import Asked, batches

SITE = "blocks.1.mixer_out"


def asked(n=6):
    read = tokens(n, 9).tolist()
    return batches([Asked(str(i), str(i), tuple(row[:6]), tuple(row[6:])) for i, row in enumerate(read)], rows=4)


@torch.no_grad()
def loss(model, *edits):
    text = tokens(6, 9)
    with model.edit(*edits):
        scores = model(text[:, :-1]).log_softmax(-1)
    return -scores[:, 5:].gather(-1, text[:, 6:, None]).sum((1, 2)).mean()


def test_a_cost_is_the_relative_rise_of_the_loss_without_the_channel():
    model = nano("mamba")
    costs = ablation_costs(model, SITE, asked())
    assert costs.shape == (24,) and bool((costs.abs() > 1e-8).all())
    for channel in (0, 7, 23):
        expected = loss(model, Replace(SITE, 0.0, channels=[channel])) / loss(model) - 1
        torch.testing.assert_close(costs[channel], expected, rtol=1e-9, atol=0)


def test_costs_under_edits_are_those_of_the_edited_model():
    model, doubled = nano("mamba"), Scale(SITE, 2.0)
    costs = ablation_costs(model, SITE, asked(), [doubled])
    expected = loss(model, doubled, Replace(SITE, 0.0, channels=[3])) / loss(model, doubled) - 1
    torch.testing.assert_close(costs[3], expected, rtol=1e-9, atol=0)


def test_the_published_recipe_is_made_of_measured_costs():
    model = nano("mamba2")
    costs = ablation_costs(model, source_site(model), asked())
    recipe = source_recipe(model, costs)
    recipe.check(model)
    costly = recipe.parts[0]
    assert costly.strength == 5.0 and all(float(costs[c]) > 0.02 for c in costly.channels)


def test_what_cannot_be_measured_is_said():
    model = nano("mamba")
    with pytest.raises(InputError, match=r"has no site blocks\.9\.mixer_out with channels"):
        ablation_costs(model, "blocks.9.mixer_out", asked())
    with torch.no_grad():
        model.blocks[1].mixer.out_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite on some question"):
        ablation_costs(model, SITE, asked())
