"""Replacing candidates: against edits of the sites themselves, and with planted truth."""

from __future__ import annotations

import json

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.candidates import Candidate, Channels, Coordinates, Direction, Donor, Window, named
from mplat.interp.methods.controls import complement, controls, overlap
from mplat.models import LanguageModel, Replace
from planted_circuits import grown, planted_states
from torch import Tensor

CLEAN, OTHER = tokens(3, 7, seed=1), tokens(3, 7, seed=2)
ALL = torch.ones(3, dtype=torch.bool)


@torch.no_grad()
def replaced(
    model: LanguageModel, candidate: Candidate, values: dict[str, Tensor] | None, rows: Tensor = ALL
) -> Tensor:
    with model.edit(*candidate.edits(model, Donor(values, torch.arange(3), rows))):
        return model(CLEAN)


@torch.no_grad()
def held(model: LanguageModel, ids: Tensor, *names: str) -> dict[str, Tensor]:
    with model.capture(*names) as acts:
        model(ids)
    return {name: acts[name].clone() for name in names}


@torch.no_grad()
def edited(model: LanguageModel, site: str, value: Tensor) -> Tensor:
    with model.edit(Replace(site, value)):
        return model(CLEAN)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
@pytest.mark.parametrize("values", ["zero", "mean", "other"])
def test_state_coordinates_are_replaced_at_every_step(arch: str, values: str) -> None:
    """The same as edits of the site `h` itself, of all steps one after the other."""
    model, prefix = nano(arch), "blocks.1.mixer."
    pairs = ((0, 1), (3, 4), (3, 2), (17, 0))
    for part in (Coordinates(prefix, pairs), Coordinates(prefix, pairs, others=True), Coordinates(prefix)):
        candidate = Candidate("c", "state", (part,), 1)
        own, other = (held(model, ids, prefix + "h", *candidate.sites(model)) for ids in (CLEAN, OTHER))
        mask = torch.zeros(own[prefix + "h"].shape[2:], dtype=torch.bool)
        for pair in pairs:
            mask[pair] = True
        mask = ~mask if part.others else mask | (part.pairs is None)
        fixed = other[prefix + "h"].mean((0, 1), keepdim=True)
        there = {"zero": torch.zeros_like(fixed), "mean": fixed, "other": other[prefix + "h"]}[values]
        expected = edited(model, prefix + "h", torch.where(mask, there.expand_as(own[prefix + "h"]), own[prefix + "h"]))
        donor = {"zero": None, "mean": {prefix + "h": fixed}, "other": {n: other[n] for n in candidate.sites(model)}}
        torch.testing.assert_close(replaced(model, candidate, donor[values]), expected, rtol=0, atol=1e-9)
        assert (expected - model(CLEAN)).abs().max() > 1e-4


def test_channels_directions_and_windows_are_replaced_in_their_rows_alone() -> None:
    model = nano("mamba")
    site, window = "blocks.0.mixer_out", "blocks.0.mixer.conv_state"
    own, other = (held(model, ids, site, window) for ids in (CLEAN, OTHER))
    rows = torch.tensor([True, False, True])
    value = own[site].clone()
    value[rows, :, 5:7] = other[site][rows, :, 5:7]
    channels = Candidate("c", "channels", (Channels(site, (5, 6)),), 0)
    torch.testing.assert_close(replaced(model, channels, other, rows), edited(model, site, value), rtol=0, atol=1e-12)
    unit = torch.zeros(24, dtype=torch.float64)
    unit[5], unit[6] = 0.6, 0.8
    value = own[site] + ((other[site] - own[site]) @ unit)[..., None] * unit
    along = Candidate("d", "direction", (Direction(site, (tuple(unit.tolist()),)),), 0)
    torch.testing.assert_close(replaced(model, along, other), edited(model, site, value), rtol=0, atol=1e-12)
    whole = Candidate("w", "window", (Window(window),), 0)
    torch.testing.assert_close(replaced(model, whole, other), edited(model, window, other[window]), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        replaced(model, whole, None), edited(model, window, torch.zeros_like(own[window])), rtol=0, atol=1e-12
    )


def test_a_candidate_survives_json() -> None:
    model = nano("mamba")
    candidate = Candidate(
        "all sorts", "x",
        (Channels("blocks.0.mixer_out", (1, 2), True), Coordinates("blocks.1.mixer.", ((0, 1),)),
         Direction("blocks.0.mixer_out", ((1.0,) * 24,)), Window("blocks.0.mixer.conv_state"),
         Channels("blocks.1.mixer.B")),
    )  # fmt: skip
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate
    assert candidate.size(model) == 22 + 1 + 1 + 48 * 3 + 5


def test_controls_are_as_large_and_share_nothing_with_the_candidate() -> None:
    model = nano("mamba")
    candidate = Candidate(
        "c", "x", (Channels("blocks.0.mixer_out", (1, 2, 3)), Coordinates("blocks.1.mixer.", ((0, 1), (5, 2))))
    )
    drawn = controls(model, candidate, (0, 1), 5, seed=0)
    assert len(drawn) == 5 and len({str(control.parts) for control in drawn}) == 5
    for control in drawn:
        assert control.size(model) == candidate.size(model) and not overlap(control, candidate)
    assert drawn == controls(model, candidate, (0, 1), 5, seed=0) != controls(model, candidate, (0, 1), 5, seed=1)
    large = Candidate("l", "x", (Channels("blocks.0.mixer_out", tuple(range(20))),))  # of 48 in both blocks
    assert not any(overlap(control, large) for control in controls(model, large, (0, 1), 5, seed=0))
    whole = Candidate("B", "parameter B", (Channels("blocks.0.mixer.B"),), 0)
    assert [c.parts for c in controls(model, whole, (0, 1), 5, seed=0)] == [(Channels("blocks.1.mixer.B"),)]
    assert controls(model, whole, (0,), 5, seed=0) == [] and complement(whole) is None
    rest = complement(candidate)
    assert rest is not None and rest.size(model) == 24 - 3 + 48 * 5 - 2


def test_candidates_are_named_as_sites_are() -> None:
    model = nano("mamba")
    found = named(model, "blocks.0.mixer_out[3,4]+blocks.1.mixer.h[5]")
    assert found.parts == (
        Channels("blocks.0.mixer_out", (3, 4)), Coordinates("blocks.1.mixer.", tuple((5, n) for n in range(5))),
    )  # fmt: skip
    for text, why in (
        ("blocks.0.mixer_out@3", "positions"),
        ("blocks.0.nothing", "no site"),
        ("blocks.0.mixer.A", "one"),
    ):
        with pytest.raises(UsageError, match=why):
            named(model, text)


def test_planted_states_are_as_large_as_the_truth_says() -> None:
    planted, model = grown("planted-copy-mamba2")
    assert planted_states(planted).size(model) == sum(len(p.cells) for p in planted.truth.of("state"))
