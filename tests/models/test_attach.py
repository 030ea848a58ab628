"""Attaching Stable-Mamba parts to a Mamba changes nothing, until they are trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, Scale, load
from mplat.models.families.stable_mamba.attach import attach
from torch.nn.functional import cross_entropy

PART = {"head_dim": 8, "stable_state_size": 5}


def one_step(model, rate=0.1):
    """One step of plain gradient descent on a batch; the loss before it."""
    model.train()
    text = tokens(4, 24, seed=7)
    loss = cross_entropy(model(text)[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    model.eval()
    return float(loss.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_attaching_is_the_identity_bit_for_bit(dtype):
    base = nano("mamba", n_layers=3, dtype=dtype)
    model = attach(base, [0, 2], mix=0.5, **PART)
    assert model.dtype == dtype and model.training == base.training
    text = tokens(3, 19)
    mask = torch.ones_like(text, dtype=torch.bool)
    mask[0, :6] = False
    assert torch.equal(model(text), base(text))
    assert torch.equal(model(text, mask)[mask], base(text, mask)[mask])
    assert model.generate([[3, 1, 4], [1]], max_new_tokens=8) == base.generate([[3, 1, 4], [1]], max_new_tokens=8)
    _, state = model(text, return_state=True)
    _, plain = base(text, return_state=True)
    for with_part, without in zip(state.layers, plain.layers, strict=True):
        assert all(torch.equal(with_part[name], value) for name, value in without.items())


@torch.no_grad()
def test_a_shipped_model_keeps_its_scores_bit_for_bit():
    base = load("tiny-mamba")
    model = attach(base, [0, 1, 2])
    text = tokens(2, 40, vocab=base.config.vocab_size)
    assert torch.equal(model(text), base(text))
    assert model.tokenizer is base.tokenizer and model.name == "tiny-mamba+stable"


def test_the_base_stays_as_it_is_and_shares_no_memory():
    base = nano("mamba")
    before = base.digest
    model = attach(base, [1], **PART)
    one_step(model)
    assert base.digest == before and base.config.arch == "mamba"
    addresses = {p.data_ptr() for p in base.parameters()}
    assert addresses.isdisjoint(p.data_ptr() for p in model.parameters())


def test_training_moves_the_parts_and_lowers_the_loss():
    base = nano("mamba")
    model = attach(base, [0, 1], freeze_base=True, **PART)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(base.state_dict())
    losses = [one_step(model) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in base.state_dict().items())
    assert not torch.equal(model(tokens(1, 5)), base(tokens(1, 5)))


def test_without_freezing_everything_is_trained():
    model = attach(nano("mamba"), [0], **PART)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):  # behind an out_proj of zeros, and then an offset_out of zeros, the first two move only these
        one_step(model)
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert not still


@torch.no_grad()
def test_what_is_added_is_mix_times_a_stable_mamba_layer():
    model = attach(nano("mamba"), [1], mix=0.25, **PART)
    mixer: Any = model.backbone.layers[1].mixer
    mixer.stable.out_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
    text, at = tokens(2, 9), "blocks.1.mixer"
    with model.capture(
        "blocks.1.mixer_in", at + "_out", at + ".stable.out", at + ".gated", at + ".stable.gated"
    ) as acts:
        model(text)
    added = 0.25 * acts[at + ".stable.gated"] @ mixer.stable.out_proj.weight.T
    torch.testing.assert_close(acts[at + ".stable.out"], added, rtol=0, atol=1e-12)
    whole = acts[at + ".gated"] @ mixer.out_proj.weight.T + added
    torch.testing.assert_close(acts[at + "_out"], whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_saving_and_loading_keeps_options_and_bits(tmp_path):
    model = attach(nano("mamba", dtype=torch.float32), [1], mix=0.5, sparsity=0.5, **PART)
    model.backbone.layers[1].mixer.stable.out_proj.weight.fill_(0.1)
    again = load(model.save(tmp_path / "m"))
    assert again.config == model.config and again.config.own.layers == (1,) and again.config.own.sparsity == 0.5
    assert torch.equal(again(tokens(2, 9)), model(tokens(2, 9)))


@torch.no_grad()
def test_the_parts_sites_can_be_read_and_edited():
    base = nano("mamba")
    model = attach(base, [0], **PART)
    text = tokens(1, 6)
    names = {s.name for s in model.sites()}
    assert {s.name for s in base.sites()} <= names
    assert "blocks.0.mixer.stable.sparse_attn" in names and "blocks.1.mixer.stable.out" not in names
    with model.capture("blocks.0.mixer.stable.h") as acts:
        model(text)
    assert acts["blocks.0.mixer.stable.h"].shape == (1, 6, 3 * 24, 5)
    with model.edit(Scale("blocks.0.mixer.stable.h", 9.0)):  # out_proj is zero: nothing inside the part is felt
        assert torch.equal(model(text), base(text))
    with model.edit(Add("blocks.0.mixer.stable.out", 1.0, positions=[2])):
        changed = model(text)
    assert torch.equal(changed[:, :2], base(text)[:, :2]) and not torch.equal(changed[:, 2:], base(text)[:, 2:])


def test_wrong_calls_say_what_is_wrong():
    base = nano("mamba")
    for layers, options, text in [
        ([2], PART, "layers 0 to 1"),
        ([], PART, "one or more block numbers"),
        ([-1], PART, "one or more block numbers"),
        ([0, 0], PART, "twice"),
        ([0], {"head_dim": 7}, "not a multiple of head_dim"),
        ([0], {**PART, "mix": 0.0}, "mix"),
        ([0], {**PART, "sparsty": 0.5}, "did you mean 'sparsity'"),
    ]:
        with pytest.raises(UsageError, match=text):
            attach(base, layers, **options)
    with pytest.raises(UsageError, match="must be a mamba model"):
        attach(nano("mamba2"), [0])
