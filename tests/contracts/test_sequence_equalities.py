"""However a sequence is fed, the numbers are the same: chunked, token by token, padded on either side, packed."""

from __future__ import annotations

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import Add
from mplat.models.access.run import pack
from mplat.models.parts.past import PAST, lengthen

close = {"rtol": 0.0, "atol": 1e-11}


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest):
    return nano(request.param)


@torch.no_grad()
def test_prefill_equals_decode_equals_chunked_prefill(model) -> None:
    text = tokens(3, 23)
    whole, end = model(text, return_state=True)
    for cuts in ([1] * 23, [5, 1, 17], [22, 1], [2, 2, 19]):
        state, parts, at = None, [], 0
        for n in cuts:
            logits, state = model(text[:, at : at + n], state=state, return_state=True)
            parts.append(logits)
            at += n
        torch.testing.assert_close(torch.cat(parts, 1), whole, **close)
        assert state is not None and state.position.tolist() == [23] * 3
        for layer, expected in zip(state.layers, end.layers, strict=True):
            for name in expected:
                torch.testing.assert_close(layer[name], expected[name], **close)


@torch.no_grad()
def test_zero_state_is_no_state(model) -> None:
    text = tokens(2, 9)
    torch.testing.assert_close(model(text, state=model.zero_state(2)), model(text), **close)


@torch.no_grad()
def test_padding_changes_neither_logits_nor_state(model) -> None:
    """Left, right, on both sides and between the tokens, all in one batch."""
    width = 11
    rows = [(start, n) for n in (4, 11, 1, 7) for start in sorted({0, (width - n) // 2, width - n})]
    mask = torch.zeros(len(rows) + 4, width, dtype=torch.bool)
    for i, (start, n) in enumerate(rows):
        mask[i, start : start + n] = True
    for i, n in enumerate((4, 11, 1, 7), len(rows)):
        mask[i, torch.randperm(width, generator=torch.Generator().manual_seed(i))[:n]] = True
    lengths = mask.sum(1).tolist()
    padded = tokens(len(lengths), width, seed=9)
    logits, state = model(padded, mask, return_state=True)
    next_token = tokens(len(lengths), 2, seed=3)
    onward = model(next_token, state=state)
    for i in range(len(lengths)):
        alone = padded[i][mask[i]][None]
        expected, end = model(alone, return_state=True)
        torch.testing.assert_close(logits[i][mask[i]][None], expected, **close)
        torch.testing.assert_close(onward[i : i + 1], model(next_token[i : i + 1], state=end), **close)
        assert int(state.position[i]) == lengths[i]


@torch.no_grad()
def test_a_padded_call_can_continue_a_state(model) -> None:
    first, second = tokens(2, 6), tokens(2, 5, seed=4)
    _, state = model(first, return_state=True)
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, True, True]])
    logits, end = model(second, mask, state=state, return_state=True)
    expected, alone = model(torch.cat([first[:1], second[:1, 2:]], 1), return_state=True)
    torch.testing.assert_close(logits[:1, 2:], expected[:, 6:], **close)
    for name, value in alone.layers[1].items():
        found = end.layers[1][name]
        if name.startswith(PAST):  # zeros stand in front of a row that has seen less than its neighbours
            value = lengthen(value, found.shape[-1])
        torch.testing.assert_close(found[:1], value, **close)


@torch.no_grad()
def test_packed_documents_with_reset_equal_separate_documents(model) -> None:
    lengths = [5, 1, 2, 9, 3]
    text = tokens(2, sum(lengths))
    reset = torch.zeros_like(text, dtype=torch.bool)
    at = 0
    starts = []
    for n in lengths:
        starts.append(at)
        reset[:, at] = True
        at += n
    packed, end = model(text, reset=reset, return_state=True)
    for start, n in zip(starts, lengths, strict=True):
        separate, last = model(text[:, start : start + n], return_state=True)
        torch.testing.assert_close(packed[:, start : start + n], separate, **close)
    for layer, expected in zip(end.layers, last.layers, strict=True):
        for name in expected:
            torch.testing.assert_close(layer[name], expected[name], **close)


def test_without_the_mask_packed_documents_leak() -> None:
    """So the test above can fail."""
    model, text = nano("mamba"), tokens(2, 20)
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[:, [0, 5, 6, 8, 17]] = True
    with torch.no_grad():
        assert not torch.allclose(model(text), model(text, reset=reset), **close)


def test_gradient_to_the_future_is_exactly_zero(model) -> None:
    text = tokens(1, 12)
    for t in (0, 5, 10):
        embedded: list[torch.Tensor] = []

        with model.capture("embed", gradients=True) as acts:
            logits = model(text)
        embedded.append(acts["embed"])
        (gradient,) = torch.autograd.grad(logits[0, t].sum(), embedded)
        assert torch.count_nonzero(gradient[0, t + 1 :]) == 0
        assert torch.count_nonzero(gradient[0, : t + 1]) > 0


@torch.no_grad()
def test_float64_is_float64_everywhere(model) -> None:
    logits, state = model(tokens(1, 8), return_state=True)
    assert logits.dtype == torch.float64
    assert all(t.dtype == torch.float64 for layer in state.layers for t in layer.values())
    # ten times as small a shift changes ten times as little: a float32 step inside would swallow both, or round them
    changes = []
    for shift in (1e-9, 1e-10):
        with model.edit(Add("embed", shift, channels=[0])):
            changes.append((model(tokens(1, 8)) - logits) / shift)
    assert float(changes[0].abs().max()) > 0
    torch.testing.assert_close(changes[0], changes[1], rtol=0, atol=1e-3 * float(changes[0].abs().max()))
    assert model.to(torch.float32)(tokens(1, 8)).dtype == torch.float32


def test_pack_moves_padding_to_the_right_and_keeps_order() -> None:
    mask = torch.tensor([[False, True, False, True], [True, True, True, True]])
    order, keep, lengths = pack(mask, 4, 2, torch.device("cpu"))
    assert order is not None and keep is not None
    assert order[0].tolist()[:2] == [1, 3] and order[1].tolist() == [0, 1, 2, 3]
    assert lengths.tolist() == [2, 4] and keep[0].tolist() == [True, True, False, False]


def test_wrong_calls_say_what_is_wrong(model) -> None:
    with pytest.raises(InputError, match="token id 40 is outside the vocabulary of 40"):
        model(torch.tensor([[1, 40]]))
    with pytest.raises(UsageError, match="shape"):
        model(torch.tensor([1, 2]))
    with pytest.raises(UsageError, match="mask has shape"):
        model(tokens(1, 3), torch.ones(1, 4, dtype=torch.bool))
    _, state = model(tokens(2, 3), return_state=True)
    with pytest.raises(UsageError, match="does not fit"):
        model(tokens(3, 1), state=state)
