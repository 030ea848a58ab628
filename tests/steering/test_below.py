"""What lies below a block is read once, within a bound, and changes no score and no derivative."""

from __future__ import annotations

from functools import partial

import torch
from model_zoo import nano, tokens
from mplat.models import Scale
from mplat.steering.answered import Asked, batches, score_all
from mplat.steering.below import Below
from mplat.steering.gains import Gains, Place, fit, frozen

PLACE = Place("mixer_out", 2, 24)


def asked(rows=2):
    read = tokens(6, 9)
    items = [Asked(str(i), str(i), tuple(r[: 4 + i].tolist()), (1, 2)) for i, r in enumerate(read)]
    return batches(items, rows)


def test_scores_and_fits_are_those_of_whole_passes_with_the_edits_in_force():
    model, parts = nano("mamba2", n_layers=3), asked()
    gains = Gains(PLACE, torch.linspace(-1, 1, 24, dtype=torch.float64))
    with model.edit(Scale("blocks.0.mixer_out", 2.0)), frozen(model):
        enter = partial(Below(model), layer=2)
        for _ in range(2):  # read, and remembered
            whole, found = (score_all(model, parts, gains.edits(), *more) for more in ([], [enter]))
            assert torch.equal(whole.logprob, found.logprob) and torch.equal(whole.exact, found.exact)
        slow, fast = (fit(model, parts, gains, 4, **more) for more in ({}, {"enter": enter}))
    assert torch.equal(slow.log_gains, fast.log_gains)


def test_a_batch_is_read_once_for_a_block(monkeypatch):
    model, parts = nano("mamba2", n_layers=3), asked()
    below, read = Below(model), []
    plain = Below._read
    monkeypatch.setattr(Below, "_read", lambda self, batch, layer: read.append(layer) or plain(self, batch, layer))
    for _ in range(3):
        for batch in parts:
            assert below(batch, 1) is not None and below(batch, 2) is not None
    assert read == [1, 2] * len(parts)


def test_what_is_kept_is_bounded_and_what_was_used_last_stays():
    model, parts = nano("mamba2", n_layers=3), asked(rows=3)
    one = max(batch.tokens.numel() for batch in parts) * 24 * 8
    below = Below(model, at_most=one)
    assert below(parts[0], 1) is not None and below(parts[0], 2) is not None
    assert [key[1] for key in below._kept] == [2] and below._bytes <= one
    assert Below(model, at_most=one - 1)(parts[0], 1) is None


def test_where_no_block_can_be_entered_a_pass_begins_at_the_tokens():
    (batch,) = asked(rows=6)
    assert Below(nano("dense_mamba"))(batch, 1) is None
    assert Below(nano("mamba"))(batch, 0) is None
