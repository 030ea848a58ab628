"""Every word for positions is the edit that one would write by hand, whole and in decode."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_zoo import nano, tokens
from mplat.steering import Layout
from mplat.steering.layout import POSITIONS
from recipes import scaled


@pytest.fixture(scope="module")
def model():
    return nano("mamba")


@pytest.mark.parametrize("word", POSITIONS)
@torch.no_grad()
def test_every_word_for_positions_is_the_edit_written_by_hand(model, word):
    """A prompt of 6 tokens with evidence at 1 and 2 and the question at 4, then an answer of 3 tokens."""
    text, layout = tokens(1, 9), Layout(6, ((1, 3),), ((4, 5),))
    by_hand = {
        "all": range(9), "prompt": range(6), "evidence": [1, 2], "question": [4], "last": [5], "generated": [6, 7, 8],
    }[word]  # fmt: skip
    (plain,) = scaled(model, (0, 3), 3.0).edits(model)
    with model.edit(dataclasses.replace(plain, positions=tuple(by_hand))):
        wanted = model(text)
    with model.edit(*scaled(model, (0, 3), 3.0, positions=word).edits(model, [layout])):
        assert torch.equal(model(text), wanted)
        first, state = model(text[:, :6], return_state=True)
        parts = [first]
        for t in range(6, 9):
            logits, state = model(text[:, t : t + 1], state=state, return_state=True)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=0, atol=1e-11)
