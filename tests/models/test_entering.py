"""A pass that enters at a block gives what the whole pass gives; where none can be entered alone, it is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.errors import UsageError
from mplat.models import Scale
from mplat.models.entering import exchanges

TOGETHER = {"dense_mamba"}
ALONE = [arch for arch in ARCHITECTURES if arch not in TOGETHER]


def entered(model, read, layer, **options):
    with model.capture(f"blocks.{layer - 1}.resid_post" if layer else "embed") as acts:
        whole = model(read, **options)
    (value,) = acts.values()
    return whole, model(read, enter=(layer, value), **options)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_which_blocks_exchange_more_than_the_residual_stream(arch):
    assert exchanges(nano(arch)) == (arch in TOGETHER)


@pytest.mark.parametrize("arch", ALONE)
def test_every_block_can_be_entered_bit_for_bit(arch):
    model = nano(arch, n_layers=3)
    for layer in range(3):
        whole, found = entered(model, tokens(3, 11), layer)
        assert torch.equal(whole, found), layer


@pytest.mark.parametrize("arch", ALONE)
def test_what_continues_a_state_can_enter_at_every_block(arch):
    model, read = nano(arch, n_layers=3), tokens(3, 11)
    for behind in (10, 6):  # one token, and several
        _, state = model(read[:, :behind], return_state=True)
        for layer in range(3):
            whole, found = entered(model, read[:, behind:], layer, state=state)
            assert torch.equal(whole, found), (layer, behind)


@given(st.data())
@settings(max_examples=40)
def test_padding_on_either_side_documents_wanted_columns_and_edits_are_as_in_a_whole_pass(data):
    model, read = nano("mamba", n_layers=3), tokens(3, 9)
    left, right = (data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)) for _ in range(2))
    columns = torch.arange(9)
    mask = (columns >= torch.tensor(left)[:, None]) & (columns < 9 - torch.tensor(right)[:, None])
    options = {"mask": mask}
    if data.draw(st.booleans()):
        options["only"] = torch.tensor([[left[i], 8 - right[i]] for i in range(3)])
    if data.draw(st.booleans()):
        options["reset"] = columns.expand(3, 9) % 4 == 0
    layer = data.draw(st.integers(0, 2))
    edits = [Scale(f"blocks.{i}.mixer_out", 1.5, channels=[0, 3]) for i in range(3)]
    edits.append(Scale(f"blocks.{layer}.resid_pre", 0.5, positions=[-1]))
    with model.edit(*edits):
        whole, found = entered(model, read, layer, **options)
    real = mask if "only" not in options else torch.ones_like(whole[..., 0], dtype=torch.bool)
    assert torch.equal(whole[real], found[real])


def test_what_stands_below_is_not_computed():
    model, read = nano("mamba", n_layers=3), tokens(2, 5)
    with model.capture("blocks.0.resid_post") as acts:
        model(read)
    with pytest.raises(UsageError, match="never fired"), model.edit(Scale("blocks.0.mixer_out", 2.0)):
        model(read, enter=(1, acts["blocks.0.resid_post"]))


@pytest.mark.parametrize(
    ("enter", "said"),
    [
        ((3, torch.zeros(2, 5, 24)), "a block from 0 to 2"),
        ((True, torch.zeros(2, 5, 24)), "a block from 0 to 2"),
        (torch.zeros(2, 5, 24), r"enter is \(block, residual stream\)"),
        ((1, torch.zeros(2, 4, 24)), r"a tensor of shape \(2, 5, 24\), not \(2, 4, 24\)"),
        ((1, [0.0]), "not list"),
    ],
)
def test_what_is_no_entry_is_refused(enter, said):
    with pytest.raises(UsageError, match=said):
        nano("mamba", n_layers=3)(tokens(2, 5), enter=enter)


def test_giving_a_state_and_a_model_whose_blocks_exchange_are_refused():
    model, read = nano("mamba"), tokens(2, 5)
    entry = (1, torch.zeros(2, 5, 24, dtype=torch.float64))
    with pytest.raises(UsageError, match="no state of the blocks below"):
        model(read, enter=entry, return_state=True)
    with pytest.raises(UsageError, match="exchange more than the residual stream"):
        nano("dense_mamba")(read, enter=entry)
