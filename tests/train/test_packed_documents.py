"""Documents packed into a row have the losses that they have alone, and a model starts out knowing nothing."""

import math

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import build
from mplat.train.data import batches
from mplat.train.loss import weighted_loss
from mplat.train.run_folder import RunFolder
from mplat.train.setup import prepare
from mplat.train.sizes import model_config
from mplat.train.train_config import ModelSection
from train_runs import config

LENGTHS = (5, 1, 9, 16)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_a_packed_row_has_the_losses_of_its_documents(arch, dtype, error):
    model, text = nano(arch, dtype=dtype), tokens(1, sum(LENGTHS) + 1)
    starts = torch.tensor([sum(LENGTHS[:i]) for i in range(len(LENGTHS))])
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[0, starts] = True
    _, packed = weighted_loss(model, text, torch.ones(1, sum(LENGTHS)), reset)
    for start, length in zip(starts.tolist(), LENGTHS, strict=True):
        part = slice(start, start + length)
        _, alone = weighted_loss(model, text[:, start : start + length + 1], torch.ones(1, length), None)
        torch.testing.assert_close(packed[:, part], alone, rtol=error, atol=error)
    _, without = weighted_loss(model, text, torch.ones(1, sum(LENGTHS)), None)
    assert (without - packed).abs().max() > 1e-3  # what comes before a document is seen without


def test_no_reset_is_for_every_batch(tmp_path):
    run = config(data={"reset": False})
    source = prepare(run, RunFolder(tmp_path), dry_run=True).source
    assert source.batch(0).reset.any()
    (first,) = batches(source, 0, 1, reset=run.data.reset)
    assert not first.reset.any() and torch.equal(first.tokens, source.batch(0).tokens)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_the_first_loss_is_that_of_knowing_nothing(arch):
    shape = model_config(ModelSection(arch=arch, size="nano"), 1024, tokenizer_name="none", eos_id=0)
    model, text = build(shape, seed=1), tokens(2, 65, vocab=1024)
    _, nll = weighted_loss(model, text, torch.ones(2, 64), None)
    assert nll.mean().item() == pytest.approx(math.log(1024), abs=0.4)
