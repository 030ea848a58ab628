"""Distributions of the next token, compared as their definitions say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mplat.steering import divergence
from mplat.steering.divergence import compare, texts_together, token_divergence


def test_every_quantity_is_its_definition():
    base, edited = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0)).unbind(0)
    targets = torch.tensor([1, 2, 3, 4, 5, 6, 0])
    found = compare(base, edited, targets, targets != 0)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (base.double().numpy(), edited.double().numpy()))
    loss = -np.log(q[np.arange(7), targets])
    assert found.nll == pytest.approx(loss.mean(), rel=1e-12)
    assert found.text_nats == pytest.approx(loss[:6].sum(), rel=1e-12)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-12)
    assert token_divergence(base, edited).mean().item() == pytest.approx(found.kl, rel=1e-12)
    assert found.agreement == (p.argmax(-1) == q.argmax(-1)).mean()


def test_blocks_of_positions_do_not_matter(monkeypatch):
    base, edited = torch.randn(2, 9, 13, generator=torch.Generator().manual_seed(1)).unbind(0)
    targets = torch.arange(9)
    whole = compare(base, edited, targets, targets > 2)
    monkeypatch.setattr(divergence, "_CELLS", 26)
    assert compare(base, edited, targets, targets > 2) == pytest.approx(whole, rel=1e-12)


def test_a_token_that_is_ruled_out_has_no_part_and_one_that_becomes_impossible_is_infinite():
    base, edited = torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([[0.0, 0.0, -math.inf]])
    assert compare(base, edited, torch.tensor([0]), torch.tensor([True])).kl == 0.0
    impossible = torch.tensor([[0.0, -math.inf, 0.0]])
    assert compare(base, impossible, torch.tensor([0]), torch.tensor([True])).kl == math.inf


def test_texts_read_at_once_leave_room_for_the_vocabulary():
    assert texts_together([100, 200], 1024) == 8
    assert texts_together([512], 50_000) == 2
    assert texts_together([512], 500_000) == 1
