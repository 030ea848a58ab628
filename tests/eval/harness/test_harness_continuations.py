"""Likelihoods of continuations and windows equal those of one forward pass over each text; no harness is needed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import nano
from mplat.core.errors import InputError
from mplat.eval.harness.continuations import Request, likelihoods, window_likelihoods
from mplat.eval.harness.shared_reading import batches
from mplat.models import Add, LanguageModel, Scale, generate

MODEL = nano("mamba2")
STRIPED = nano("striped_hyena")
token = st.integers(0, 39)


@torch.no_grad()
def alone(model: LanguageModel, request: Request) -> tuple[float, bool]:
    """(log-likelihood, greedy) by one forward pass over the whole text."""
    text = torch.tensor([[*request.prompt, *request.continuation]])
    start = len(request.prompt)
    scores = model(text)[0, start - 1 : -1].log_softmax(-1)
    wanted = torch.tensor(request.continuation)
    total = scores.gather(1, wanted[:, None]).sum()
    return float(total), bool((scores.argmax(-1) == wanted).all())


@st.composite
def asked(draw: st.DrawFn) -> list[Request]:
    """Requests behind headers, some behind the same prompt, some the same altogether."""
    headers = draw(st.lists(st.lists(token, min_size=0, max_size=80), min_size=1, max_size=2))
    prompts = [
        (*draw(st.sampled_from(headers)), *draw(st.lists(token, min_size=1, max_size=6)))
        for _ in range(draw(st.integers(1, 8)))
    ]
    return [
        Request(draw(st.sampled_from(prompts)), tuple(draw(st.lists(token, min_size=1, max_size=4))))
        for _ in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=15)
@given(asked(), st.integers(1, 5))
def test_a_likelihood_is_that_of_a_forward_pass(requests, size):
    for model in (MODEL, STRIPED):
        found = likelihoods(model, requests, size)
        for request, likelihood in zip(requests, found, strict=True):
            total, greedy = alone(model, request)
            assert likelihood.total == pytest.approx(total, abs=1e-9) and likelihood.greedy == greedy


def test_what_the_model_writes_is_greedy_and_nothing_else_is():
    prompt = (3, 4, 5)
    (written,) = generate(MODEL, [prompt], max_new_tokens=3, stop=())
    other = (*written.tokens[:-1], (written.tokens[-1] + 1) % 40)
    found = likelihoods(MODEL, [Request(prompt, written.tokens), Request(prompt, other)], 2)
    assert [each.greedy for each in found] == [True, False]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.lists(token, min_size=1, max_size=9), st.lists(token, min_size=1, max_size=9))), st.data())
def test_a_window_is_read_as_one_text(parts, data):
    windows = [Request(tuple(a), tuple(b)) for a, b in parts]
    found = window_likelihoods(MODEL, windows, data.draw(st.integers(1, 4)))
    assert found == pytest.approx([alone(MODEL, window)[0] for window in windows], abs=1e-9)


@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
def test_a_prompt_is_prefill_and_a_continuation_is_decoded(phase):
    """By hand: an edit of the prompt acts at its positions, one of the continuation at those behind it."""
    requests = [Request((1, 2, 3), (4, 5, 6)), Request((7, 8, 9), (1, 2, 3)), Request((7, 8, 9), (4,))]
    positions = {"prefill": (0, 1, 2), "decode": (3, 4), "both": None}[phase]
    with MODEL.edit(Scale("blocks.0.mixer_out", 3.0, phase=phase)):
        found = [each.total for each in likelihoods(MODEL, requests, 2)]
    expected = []
    for request in requests:
        by_hand = Scale("blocks.0.mixer_out", 3.0, positions=positions)
        if phase == "decode" and len(request.continuation) == 1:
            expected.append(alone(MODEL, request)[0])
            continue
        with MODEL.edit(by_hand):
            expected.append(alone(MODEL, request)[0])
    assert found == pytest.approx(expected, abs=1e-9)
    unsteered = [each.total for each in likelihoods(MODEL, requests, 2)]
    assert found != pytest.approx(unsteered, abs=1e-3)


def test_a_header_that_all_share_is_read_once():
    header = tuple(i % 40 for i in range(100))
    prompts = [(*header, i % 40, 1 + i // 40) for i in range(50)]
    read: list[int] = []
    forward = MODEL.forward

    def counted(tokens, mask=None, **options):
        read.append(int(tokens.numel()))
        return forward(tokens, mask, **options)

    MODEL.forward = counted
    try:
        found = list(batches(MODEL, prompts, 4))
    finally:
        del MODEL.forward
    assert sorted(row for batch in found for row in batch.rows) == list(range(50))
    assert sum(read) <= 150  # the header, and beginnings of rows within it
    for batch in found:
        assert len(batch.rows) <= 4 and batch.state is not None
        before = int(batch.state.position)
        for row, rest in zip(batch.rows, batch.rest, strict=True):
            assert prompts[row][before:] == rest and rest


def test_an_edit_that_goes_by_positions_is_not_read_ahead():
    """A beginning that is read before its prompts are known has no end to count from."""
    header = tuple(i % 40 for i in range(100))
    requests = [Request((*header, i), (i, 2)) for i in range(12)]
    edit = Add("blocks.0.mixer_out", torch.ones(24, dtype=torch.float64), positions=[-1], phase="prefill")
    with MODEL.edit(edit):
        found = [each.total for each in likelihoods(MODEL, requests, 3)]
    for request, total in zip(requests, found, strict=True):
        with MODEL.edit(Add("blocks.0.mixer_out", torch.ones(24, dtype=torch.float64), positions=[100])):
            assert total == pytest.approx(alone(MODEL, request)[0], abs=1e-9)
    assert found != pytest.approx([alone(MODEL, r)[0] for r in requests], abs=1e-3)


def test_scores_that_are_not_finite_are_an_error_and_no_number():
    with pytest.raises(InputError, match="not finite for request 0"):
        with MODEL.edit(Scale("blocks.0.mixer_out", 1e308)):
            likelihoods(MODEL, [Request((1, 2), (3,))], 1)
