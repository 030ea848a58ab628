"""The loss in chunks is the plain loss: its value and every gradient, for every architecture."""

import pytest
import torch
from model_zoo import ARCHITECTURES, nano
from mplat.train.chunked_loss import chunked_loss
from mplat.train.loss import accumulate_gradients, in_chunks, token_losses, weighted_loss
from mplat.train.precision import Precision
from train_runs import random_batch, small_model

PLAIN = Precision(False, "cpu", "test")


def step(model, batch, how, precision=PLAIN):
    """Loss and gradients of a step over two micro-batches."""
    model.train().zero_grad()
    loss = accumulate_gradients(model, batch, 2, precision, how)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_chunks_change_neither_the_loss_nor_a_gradient(arch, dtype, error, monkeypatch):
    monkeypatch.setattr("mplat.train.loss.CHUNK", 7 * 40)
    model, batch = nano(arch, dtype=dtype), random_batch(4, 12, dtype=dtype)
    whole, gradients = step(model, batch, "whole")
    chunked, others = step(model, batch, "chunked")
    assert chunked.loss == pytest.approx(whole.loss, rel=error)
    assert chunked.answer_loss == pytest.approx(whole.answer_loss, rel=error)
    assert gradients.keys() == others.keys()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=error * largest, msg=name)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("chunk", [1, 40, 130, 10**6])
def test_any_chunk_and_a_scale_of_the_logits(chunk, scale):
    generator = torch.Generator().manual_seed(1)
    normed = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(40, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 40, (2, 5), generator=generator)
    weights = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    expected = (token_losses(scale * normed @ matrix.T, targets) * weights).sum() * 3
    gradients = torch.autograd.grad(expected, (normed, matrix))
    total, nll = chunked_loss(normed, (matrix, scale), targets, weights, chunk)
    assert not nll.requires_grad
    torch.testing.assert_close((nll * weights).sum() * 3, expected, rtol=1e-13, atol=0)
    for ours, theirs in zip(torch.autograd.grad(total * 3, (normed, matrix)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_frozen_head_gets_no_gradient_and_no_grad_computes_none():
    model, batch = small_model(vocab_size=40), random_batch(2, 6)
    assert model.head_matrix is not None
    matrix, scale = model.head_matrix
    normed = torch.randn(2, 6, 16, dtype=torch.float64, requires_grad=True)
    frozen = (matrix.detach(), scale)
    total, _ = chunked_loss(normed, frozen, batch.tokens[:, 1:], batch.weights, 50)
    total.backward()
    assert normed.grad is not None and matrix.grad is None
    with torch.no_grad():
        total, nll = chunked_loss(normed, (matrix, scale), batch.tokens[:, 1:], batch.weights, 50)
    assert not total.requires_grad and total.item() == pytest.approx((nll * batch.weights).sum().item())


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_under_autocast_chunks_are_as_near_to_the_exact_loss_as_the_whole(arch):
    model, batch = small_model(arch, dtype=torch.float32), random_batch(2, 12, dtype=torch.float32)
    exact, _ = step(model, batch, "whole")
    whole, gradients = step(model, batch, "whole", Precision(True, "cpu", ""))
    chunked, others = step(model, batch, "chunked", Precision(True, "cpu", ""))
    assert chunked.loss == pytest.approx(whole.loss, rel=1e-6) and chunked.loss != exact.loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=0.02 * gradient.abs().max().item(), msg=name)
        assert others[name].dtype == torch.float32


def test_no_tensor_of_all_logits_is_made():
    model, batch = small_model(dtype=torch.float32, vocab_size=4000), random_batch(2, 64, dtype=torch.float32)
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made.extend(t.numel() for t in (out if isinstance(out, tuple) else [out]) if isinstance(t, torch.Tensor))
            return out

    assert model.head_matrix is not None
    matrix, _ = model.head_matrix
    normed = torch.randn(2, 64, 16, requires_grad=True)
    with Watch():
        total, _ = chunked_loss(normed, (matrix, 1.0), batch.tokens[:, 1:], batch.weights, chunk=20 * 4000)
    assert max(made) == 20 * 4000


def test_when_the_loss_is_cut():
    model = small_model(vocab_size=4096)
    assert not in_chunks(model, 4096) and in_chunks(model, 4097)
    assert in_chunks(model, 1, "chunked") and not in_chunks(model, 10**6, "whole")
    with model.capture("logits"):
        assert not in_chunks(model, 4097, "chunked")  # or the capture would see nothing
        weighted_loss(model, torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2), None, "chunked")
