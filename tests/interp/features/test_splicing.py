"""Reconstructions in the place of activations: a dictionary that loses nothing costs nothing, to the last bit with the
error term, at sites of one axis and at recurrent states; and losses are those of the model's own logits."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from interp_jobs import token_items
from model_zoo import nano, tokens
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.methods.sae.ablated_losses import LOSSES, Losses, batch_losses, replaced, spliced
from mplat.interp.methods.sae.dictionary import SparseDictionary
from mplat.interp.methods.sae.splicing import Splice, next_token_loss, packed, recovered, unpacked

ITEMS = token_items(5)
CPU = torch.device("cpu")


def identity(width: int) -> SparseDictionary:
    """relu(x) - relu(-x) = x."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    return SparseDictionary(both.T.contiguous(), torch.zeros(2 * width), both, torch.zeros(width))


def bad(width: int, n: int = 7) -> SparseDictionary:
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(width, n, generator=generator), torch.randn(n, width, generator=generator)
    return SparseDictionary(encoder, torch.zeros(n), decoder, torch.ones(width), k=2)


@pytest.mark.parametrize(("arch", "site"), [
    ("mamba", "resid_post"), ("mamba", "mixer.h"), ("mamba2", "mixer_out"), ("mamba2", "mixer.h"),
])  # fmt: skip
@torch.no_grad()
def test_a_dictionary_that_loses_nothing_recovers_the_loss_wholly(arch: str, site: str) -> None:
    model = nano(arch, dtype=torch.float32)
    name = f"blocks.1.{site}"
    shape = next(tuple(s.axes) for s in model.sites() if s.name == name)
    width = int(torch.tensor(shape).prod())
    replacements = [
        spliced(name, identity(width)), replaced(name, 0.0, shape), replaced(name, torch.linspace(-1, 1, width), shape),
        spliced(name, bad(width), keep_error=True), spliced(name, bad(width)),
    ]  # fmt: skip
    arguments = {"ids": [item.id for item in ITEMS], "replacements": replacements}
    losses = Losses(batch_losses(model, Batch(ITEMS, CPU), arguments))
    about = losses.about(0, 1, 2)
    assert about["loss_zero"] != about["loss_clean"] != about["loss_mean"]
    for name in ("zero", "mean"):  # where an ablation costs nothing there is nothing to recover
        costs = (about[f"loss_{name}"] or 0.0) > (about["loss_clean"] or 0.0)
        assert about[f"recovered_{name}"] == (1.0 if costs else None)
    assert about["loss_spliced"] == about["loss_clean"] != about["loss_zero"]
    assert losses.exact == {3: True} and losses.mean(3) == losses.mean(-1)
    assert losses.mean(4) != losses.mean(-1)
    batch = [batch_losses(model, Batch(ITEMS[i : i + 2], CPU), arguments) for i in (0, 2, 4)]
    again = Losses(pa.concat_tables(batch))
    assert again.mean(4) == pytest.approx(losses.mean(4), rel=1e-6)
    assert batch_losses(model, Batch(ITEMS, CPU), arguments | {"ids": []}).equals(LOSSES.empty_table())


@torch.no_grad()
def test_bits_of_logits_are_kept_with_the_error_term_and_changed_without() -> None:
    model = nano("mamba", dtype=torch.float32)
    text = tokens(2, 7)
    clean = model(text)
    with model.edit(Splice("blocks.0.mixer_out", bad(24), keep_error=True)):
        assert torch.equal(model(text), clean)
    with model.edit(Splice("blocks.0.mixer_out", bad(24))), model.capture("blocks.0.mixer_out") as acts:
        assert not torch.equal(model(text), clean)
    with model.capture("blocks.0.mixer_out") as before:
        model(text)
    wanted = bad(24).decoded(bad(24).latents(before["blocks.0.mixer_out"]))
    torch.testing.assert_close(acts["blocks.0.mixer_out"], wanted)


@torch.no_grad()
def test_a_model_that_can_lose_something_loses_nothing_by_the_identity_and_something_by_a_bad_dictionary() -> None:
    """Items whose answers are what the model says, so that taking a site away costs."""
    model = nano("mamba", dtype=torch.float32)
    text = tokens(1, 1)
    for _ in range(20):  # greedy text: the clean model finds it most probable
        text = torch.cat([text, model(text)[:, -1:].argmax(-1)], 1)
    items = [Item("a", tuple(text[0, :14].tolist()), tuple(text[0, 14:].tolist()))]
    name = "blocks.1.resid_post"
    replacements = [spliced(name, identity(24)), replaced(name, 0.0, (24,)), replaced(name, torch.ones(24), (24,)),
                    spliced(name, bad(24))]  # fmt: skip
    losses = Losses(batch_losses(model, Batch(items, CPU), {"ids": ["a"], "replacements": replacements}))
    same, worse = losses.about(0, 1, 2), losses.about(3, 1, 2)
    assert same["recovered_zero"] == same["recovered_mean"] == 1.0
    assert worse["recovered_zero"] < 0.9 and worse["recovered_mean"] < 0.9


def test_the_loss_is_that_of_the_next_token_and_recovery_its_share() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    text, mask = tokens(2, 4, vocab=9), torch.tensor([[True] * 4, [True, True, False, False]])
    sums, counts = next_token_loss(logits, text, mask)
    for row, length in ((0, 4), (1, 2)):
        wanted = torch.nn.functional.cross_entropy(
            logits[row, : length - 1].double(), text[row, 1:length], reduction="sum"
        )
        assert float(sums[row]) == pytest.approx(float(wanted), rel=1e-12) and int(counts[row]) == length - 1
    assert recovered(1.0, 1.5, 3.0) == 0.75 and recovered(1.0, 3.0, 3.0) == 0.0 and recovered(1.0, 1.2, 0.9) is None


def test_a_dictionary_is_the_same_out_of_the_arguments_of_a_batch() -> None:
    import json

    for dictionary in (bad(5), identity(3), SparseDictionary(torch.ones(2, 1), torch.zeros(1), torch.ones(1, 2),
                                                              torch.zeros(2), torch.full((1,), 0.1))):  # fmt: skip
        again = unpacked(json.loads(json.dumps(packed(dictionary))))
        for name, tensor in dictionary.tensors().items():
            assert torch.equal(again.tensors()[name], tensor), name
        assert again.k == dictionary.k
