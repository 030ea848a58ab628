"""Operators on filters, poles and mixing weights against the filters they should give, computed in float64 by hand."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError
from mplat.steering import Part, fitting

T = 24


@torch.no_grad()
def seen(model, sites, part=None):
    with model.capture(*sites) as acts, model.edit(*([] if part is None else part.edits(model))):
        model(tokens(2, T))
    return [acts[site] for site in sites]


def convolved(u, taps):
    """sum_k taps[:, k] u[:, t - k]: u (B, T, E), taps (E, L)."""
    y = torch.zeros_like(u)
    for k in range(min(taps.shape[1], u.shape[1])):
        y[:, k:] += taps[:, k] * u[:, : u.shape[1] - k]
    return y


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 9), (5, 63)])
def test_a_band_of_lags_is_scaled_and_the_others_stay(first, last):
    model, here = nano("hyena"), "blocks.1.mixer."
    part = Part("scale_filter", "", (1,), -0.5, channels=(2, 7), options={"first": first, "last": last})
    part.check(model)
    (taps,) = seen(model, [here + "filter"])
    expected = taps.clone()
    for channel in (2, 7):
        expected[channel, first : last + 1] *= -0.5
    u, y, steered = seen(model, [here + "long_conv_in", here + "long_conv_out", here + "filter"], part)
    assert torch.equal(steered, expected)
    skip = model.blocks[1].mixer.D.detach()
    torch.testing.assert_close(y, convolved(u, expected) + skip * u, rtol=0, atol=1e-10)


def test_a_band_beyond_the_filter_is_refused_and_so_is_a_filter_without_taps():
    model = nano("hyena")
    with pytest.raises(InputError, match="has lags 0 to .*, not a band 3 to 100000"):
        Part("scale_filter", "", (0,), 0.0, options={"first": 3, "last": 100_000}).check(model)
    with pytest.raises(InputError, match="last must be a whole number, not 2.5"):
        Part("scale_filter", "", (0,), 0.0, options={"last": 2.5}).check(model)
    striped = nano("striped_hyena")
    with pytest.raises(InputError, match=r"operators that fit it: .*scale_modes, .*scale_time_constants"):
        Part("scale_filter", "", (0,), 0.0).check(striped)
    assert "scale_filter" in fitting(model) and "scale_filter" not in fitting(striped)


def modal(model):
    """log |pole|, angle, residues of the first layer's filter."""
    of = model.blocks[0].mixer.filter
    return -of.log_decay.detach().exp(), of.angle.detach(), torch.view_as_complex(of.residues.detach())


def response(log_modulus, angle, residues):
    t = torch.arange(T, dtype=torch.float64)
    modes = residues[..., None] * torch.exp(log_modulus[..., None] * t) * torch.exp(1j * angle[..., None] * t)
    return modes.sum(1).real


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e9), (0.5, 6.0)])
@pytest.mark.parametrize(("name", "site"), [("scale_modes", "residues"), ("scale_time_constants", "poles")])
def test_modes_of_a_band_of_half_lives_are_louder_or_last_longer(name, site, low, high):
    model, here, s = nano("striped_hyena"), "blocks.0.mixer.", 3.0
    log_modulus, angle, residues = modal(model)
    lives = math.log(2.0) / -log_modulus
    meant = (lives >= low) & (lives <= high)
    meant[[i for i in range(len(meant)) if i not in (1, 4, 5)]] = False
    assert bool(meant.any()) and (low == 0.0 or not bool(meant[[1, 4, 5]].all()))
    if site == "residues":
        residues = torch.where(meant, s * residues, residues)
    else:
        log_modulus = torch.where(meant, log_modulus / s, log_modulus)
        assert torch.allclose((math.log(2.0) / -log_modulus)[meant], s * lives[meant])
    part = Part(name, f"mixer.{site}", (0,), s, channels=(1, 4, 5), options={"low": low, "high": high})
    part.check(model)
    u, y = seen(model, [here + "long_conv_in", here + "long_conv_out"], part)
    taps = response(log_modulus, angle, residues)
    torch.testing.assert_close(y, convolved(u, taps) + model.blocks[0].mixer.D.detach() * u, rtol=0, atol=1e-10)


def test_a_band_without_modes_is_refused_with_what_there_is():
    part = Part("scale_modes", "", (0,), 0.0, channels=(0,), options={"low": 1e6})
    with pytest.raises(InputError, match=r"no mode of blocks\.0\.mixer\.residues has a half-life of 1e\+06"):
        part.check(nano("striped_hyena"))


@pytest.mark.parametrize("strength", [-2.0, 0.75])
@pytest.mark.parametrize(("arch", "within"), [("stable_mamba", ""), ("stable_mamba_attached", "stable.")])
def test_timescales_are_shifted_in_logits_and_their_weights_add_up_to_one(arch, within, strength):
    model, site = nano(arch), f"mixer.{within}timescale_weights"
    part = Part("shift_timescale", site, (0,), strength)
    part.check(model)
    (plain,), (weights,) = seen(model, [f"blocks.0.{site}"]), seen(model, [f"blocks.0.{site}"], part)
    expected = plain * torch.tensor([-strength, 0.0, strength], dtype=torch.float64).exp()
    torch.testing.assert_close(weights, expected / expected.sum(), rtol=0, atol=1e-14)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-14)
    assert (weights[2] > plain[2]) == (strength > 0) == bool(weights[0] < plain[0])


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "stable_mamba"])
@torch.no_grad()
def test_half_lives_of_channels_are_multiplied_and_the_state_is_that_of_the_slower_recurrence(arch):
    model, here, f = nano(arch), "blocks.0.mixer.", 2.5
    (of,) = model.blocks[0].recurrences(torch.float64)
    chosen = (2, 0)
    sites = [here + name for name in ("x", "delta", "B", "h")]
    part = Part("scale_time_constants", "mixer.delta", (0,), f, channels=chosen)
    part.check(model)
    _, plain, _, plain_h = seen(model, sites)
    slower = plain.clone()
    slower[..., list(chosen)] /= f
    before, after = (math.log(2.0) / (d[..., None] * of.A.abs())[:, :, list(chosen)] for d in (plain, slower))
    torch.testing.assert_close(after, f * before, rtol=1e-14, atol=0)
    x, delta, key, h = seen(model, sites, part)
    torch.testing.assert_close(delta, slower, rtol=1e-15, atol=0)
    units = len(of.A)
    state = x.new_zeros(len(x), units, x.shape[2] // units, h.shape[-1])
    keys = key.unflatten(-1, (of.groups, -1)).repeat_interleave(units // of.groups, 2)
    for t in range(T):  # by definition, token by token
        written = -torch.expm1(-slower[:, t]) if of.averaging else slower[:, t]
        entering = written[..., None, None] * x[:, t].unflatten(-1, (units, -1))[..., None] * keys[:, t][:, :, None]
        state = torch.exp(slower[:, t, :, None] * of.A)[:, :, None] * state + entering
        torch.testing.assert_close(h[:, t], state.flatten(1, 2), rtol=0, atol=1e-10)
    assert not torch.allclose(h, plain_h)
