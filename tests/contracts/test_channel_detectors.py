"""What every registered detector promises, on every architecture."""

from __future__ import annotations

import inspect
from functools import cache

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.steering.answered import Asked, batches
from mplat.steering.detectors import Observed, detector_names, find_detector, observe

SITE = "blocks.1.mixer_out"


@cache
def seen(arch: str) -> Observed:
    rows = tokens(5, 9, seed=3).tolist()
    asked = [Asked(str(i), str(i), tuple(row[:7]), tuple(row[7:])) for i, row in enumerate(rows)]
    return observe(nano(arch), batches(asked), [SITE])[SITE]


@pytest.mark.parametrize("name", detector_names())
def test_it_says_what_it_can_see_and_what_it_cannot(name: str) -> None:
    said = " ".join((inspect.getdoc(find_detector(name).detect) or "").split())
    assert "Sees: " in said and "Blind to: " in said and find_detector(name).meaning.endswith(".")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", detector_names())
def test_it_numbers_and_orders_every_channel_and_changes_nothing(name: str, arch: str) -> None:
    made, found = seen(arch), find_detector(name)
    before = made.attribution.clone()
    scores = found(made)
    assert scores.shape == (made.channels,) and scores.dtype == torch.float64 and not scores.isnan().any()
    assert sorted(found.order(made)) == list(range(made.channels))
    assert torch.equal(found(made), scores) and torch.equal(made.attribution, before)


@pytest.mark.parametrize("name", detector_names())
def test_a_signed_one_turns_with_the_answer_and_any_other_does_not_claim_a_direction(name: str) -> None:
    made, found = seen("mamba2"), find_detector(name)
    turned = Observed(
        made.site, -made.attribution, -made.slope, made.energy, made.sensitivity, made.mean, made.variance
    )
    if found.signed:
        assert torch.allclose(found(turned), -found(made))
    elif name != "mean_ablation":  # a loss and not a direction: what helps to take away costs less than nothing
        assert torch.allclose(found(turned), found(made))
