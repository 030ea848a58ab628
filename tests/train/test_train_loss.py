"""The loss of a step is one weighted mean, however the step is cut into micro-batches."""

import pytest
import torch
from mplat.core.errors import InputError
from mplat.train.loss import accumulate_gradients
from mplat.train.precision import Precision
from train_runs import random_batch, small_model

FLOAT64 = Precision(False, "cpu", "test")


def gradients(model, batch, micro_batch_size):
    model.zero_grad()
    loss = accumulate_gradients(model, batch, micro_batch_size, FLOAT64)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_accumulated_gradients_equal_those_of_one_big_batch(arch):
    model, batch = small_model(arch), random_batch(6, 20)
    whole_loss, whole = gradients(model, batch, 6)
    for micro_batch_size in (1, 2, 3):
        loss, parts = gradients(model, batch, micro_batch_size)
        assert loss.loss == pytest.approx(whole_loss.loss, rel=1e-12)
        assert loss.answer_loss == pytest.approx(whole_loss.answer_loss, rel=1e-12)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-10, atol=1e-14)


def test_loss_is_the_weighted_mean_and_its_gradient_is_that_of_autograd():
    model, batch = small_model(), random_batch(3, 12)
    assert batch.answers is not None
    got, gradient = gradients(model, batch, 1)
    probabilities = model(batch.tokens[:, :-1], reset=batch.reset[:, :-1]).softmax(-1)
    nll = -probabilities.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1).log()
    expected = (batch.weights * nll).sum() / batch.weights.sum()
    assert got.loss == pytest.approx(expected.item(), rel=1e-12)
    assert got.answer_loss == pytest.approx(nll[batch.answers].mean().item(), rel=1e-12)
    model.zero_grad()
    expected.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradient[name], p.grad, rtol=1e-9, atol=1e-14)


def test_tokens_of_weight_zero_do_not_count():
    model, batch = small_model(), random_batch(2, 12)
    weights = batch.weights.clone()
    weights[:, 6:] = 0
    changed = batch.tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 40  # targets of weight 0, and inputs that come after all others
    a, gradient_a = gradients(model, batch._replace(weights=weights), 2)
    b, gradient_b = gradients(model, batch._replace(weights=weights, tokens=changed), 2)
    assert a.loss == b.loss
    for name, gradient in gradient_a.items():
        torch.testing.assert_close(gradient_b[name], gradient, rtol=1e-10, atol=1e-14)


def test_documents_do_not_see_each_other():
    """With a reset in the middle, what stands before it does not change the loss of what stands after it."""
    model, batch = small_model(), random_batch(1, 16)
    reset = torch.zeros_like(batch.reset)
    reset[:, 8] = True
    weights = batch.weights.clone()
    weights[:, :8] = 0
    other = batch.tokens.clone()
    other[:, :8] = (other[:, :8] + 7) % 40
    losses = [
        gradients(model, batch._replace(tokens=tokens, weights=weights, reset=reset), 1)[0].loss
        for tokens in (batch.tokens, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def test_a_batch_without_weight_is_refused():
    batch = random_batch(2, 4)
    with pytest.raises(InputError, match="no token with a weight"):
        accumulate_gradients(small_model(), batch._replace(weights=torch.zeros(2, 4)), 2, FLOAT64)
