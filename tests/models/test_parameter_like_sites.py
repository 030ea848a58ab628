"""Sites that hold what parameters decide: editing them is the model with other parameters."""

# pyright: reportIndexIssue=false
from __future__ import annotations

import copy
import math

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.recurrences import recurrences_of
from mplat.models import LanguageModel, Scale


def altered(model: LanguageModel) -> LanguageModel:
    return copy.deepcopy(model)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "dense_mamba", "moe_mamba"])
@torch.no_grad()
def test_scaled_decay_rates_are_those_of_other_parameters(arch: str) -> None:
    model, text = nano(arch), tokens(2, 9)
    other = altered(model)
    other.blocks[0].mixer.A_log[[0, 2]] += math.log(0.25)
    edit = Scale("blocks.0.mixer.A", 0.25, channels=[0, 2])
    with model.edit(edit):
        whole = model(text)
        state, parts = None, []
        for t in range(9):
            logits, state = model(text[:, t : t + 1], state=state, return_state=True)
            parts.append(logits)
        with pytest.raises(UsageError, match="changes the decays of block 0"):
            recurrences_of(model, 0)
    torch.testing.assert_close(whole, other(text), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11)
    assert not torch.allclose(whole, model(text))


@torch.no_grad()
def test_a_slower_timescale_of_stable_mamba_writes_as_before() -> None:
    """A half-life times 4 is a decay of a ** (1 / 4), with the same 1 - a on what is written."""
    model, text = nano("stable_mamba"), tokens(1, 9)
    prefix = "blocks.0.mixer."
    with model.capture(prefix + "write", prefix + "delta") as plain:
        model(text)
    with model.edit(Scale(prefix + "A", 0.25)), model.capture(prefix + "write", prefix + "h") as seen:
        model(text)
    torch.testing.assert_close(seen[prefix + "write"], plain[prefix + "write"], rtol=0, atol=1e-14)
    decay = torch.exp(-0.25 * plain[prefix + "delta"]).repeat_interleave(8, -1)[..., None]
    h = torch.zeros_like(seen[prefix + "h"][:, 0])
    for t in range(9):
        h = decay[:, t] * h + plain[prefix + "write"][:, t]
        torch.testing.assert_close(seen[prefix + "h"][:, t], h, rtol=0, atol=1e-12)
