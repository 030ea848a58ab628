"""Texts, token lists and a tokenizer's output mean the same to a model, generation and tracing; wrong ones are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.interp.tracing import causal_trace
from mplat.models import Add, Clamp, Interpolate, LanguageModel, Scale, load

TEXTS = ["Zakdor lives in Nornik.\nQ: Where does Zakdor live?\nA:", "Sisgat lives in Karfen."]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("tiny-mamba")


@torch.no_grad()
def test_i5_every_form_of_a_text_gives_the_logits_of_its_tokens(model: LanguageModel) -> None:
    ids = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    alone = [model(torch.tensor([row])) for row in ids]
    told = model.tokenizer(TEXTS[0]), model.tokenizer(TEXTS[0], return_tensors="pt"), dict(model.tokenizer(TEXTS[:1]))
    for given in (TEXTS[0], TEXTS[:1], ids[0], ids[:1], torch.tensor(ids[:1]), np.array(ids[:1]), *told):
        assert torch.equal(model(given), alone[0])
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token
    for side in ("left", "right"):
        padded = model.tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
        for given in (TEXTS, ids, tuple(TEXTS), padded):
            logits = model(given)
            for i, row in enumerate(ids):
                start = logits.shape[1] - len(row) if given is padded and side == "left" else 0
                torch.testing.assert_close(logits[i, start : start + len(row)], alone[i][0], rtol=0, atol=1e-4)
        assert model.generate(padded, max_new_tokens=4) == model.generate(ids, max_new_tokens=4)
    assert model.generate(TEXTS[0], max_new_tokens=4) == model.generate(TEXTS[:1], max_new_tokens=4)
    assert model.generate(ids[1], max_new_tokens=4) == model.generate([ids[1]], max_new_tokens=4)
    assert model.generate(torch.tensor(ids[:1]), max_new_tokens=4) == model.generate(ids[:1], max_new_tokens=4)


@pytest.mark.parametrize("has_pad", [True, False])
@torch.no_grad()
def test_i5_texts_of_different_lengths_need_no_pad_token_of_their_own(has_pad: bool) -> None:
    model = load("tiny-mamba")
    end = model.tokenizer.eos_token
    model.tokenizer.pad_token = end if has_pad else None
    texts = [*TEXTS, f"Zakdor lives{end} in Nornik."]  # a text that says the token itself is read to its end
    alone = [model(text)[0] for text in texts]
    together = model(texts)
    for row, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-4)
    assert model.generate(texts, max_new_tokens=4) == [model.generate(t, max_new_tokens=4)[0] for t in texts]


@torch.no_grad()
def test_tracing_takes_texts(model: LanguageModel) -> None:
    ids = model.tokenizer(TEXTS[1])["input_ids"]
    asked = {"subject": (1, 3), "samples": 1, "layers": [0], "positions": [1], "sites": ["resid_post"]}
    expected = causal_trace(model, torch.tensor(ids), **asked)
    for given in (TEXTS[1], ids, model.tokenizer(TEXTS[1]), model.tokenizer(TEXTS[1], return_tensors="pt")):
        assert causal_trace(model, given, **asked).equals(expected)


@torch.no_grad()
def test_run_with_cache_is_a_call_inside_a_capture(model: LanguageModel) -> None:
    logits, acts = model.run_with_cache(TEXTS[1], "blocks.*.mixer.delta", "blocks.0.mixer.h@-1")
    with model.capture("blocks.*.mixer.delta", "blocks.0.mixer.h@-1") as expected:
        assert torch.equal(model(TEXTS[1]), logits)
    assert sorted(acts) == sorted(expected) and all(torch.equal(acts[k], expected[k]) for k in expected)
    (_, state), acts = nano("mamba").run_with_cache(tokens(1, 3), return_state=True)
    assert set(acts) == {site.name for site in nano("mamba").sites()} and state.position.tolist() == [3]


def test_run_with_cache_gives_gradients_where_they_are_asked_for() -> None:
    model = nano("mamba2")
    assert not model.run_with_cache(tokens(1, 3), "embed")[1]["embed"].requires_grad
    logits, acts = model.run_with_cache(tokens(1, 3), "embed", gradients=True)
    assert torch.autograd.grad(logits.sum(), acts["embed"])[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "NoneType is nothing to read"), (3, "int is nothing to read"), ([], "nothing to read"),
        ([1.5, 2.0], "prompt 0 is no text"), ([[1], [True]], "prompt 1 is no text"), ([[1], None], "prompt 1 is no"),
        ({"ids": [1]}, "without input_ids"), (torch.zeros(1, 3), "must be integers"), (b"text", "bytes is nothing"),
        (torch.ones(1, 3, dtype=torch.bool), "must be integers"), ({"input_ids": [[1.0]]}, "no list of token ids"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(given: object, told: str) -> None:
    model = nano("mamba")
    with pytest.raises(UsageError, match=told):
        model(given)


def test_wrong_arguments_are_our_errors(model: LanguageModel) -> None:
    text = tokens(1, 3)
    for call, told in [
        (lambda: model(text, [[True] * 3]), "mask is a tensor"),
        (lambda: model(text, state=3), "return_state=True gave"),
        (lambda: model(text, phase="later"), "phase is"),
        (lambda: model(TEXTS, torch.ones(2, 5)), "leave mask out"),
        (lambda: model.run_with_cache(text, "embed", layers=3), "no option 'layers'"),
        (lambda: model.generate(TEXTS, max_new_tokens="3"), "max_new_tokens must be an integer"),
        (lambda: model.generate(TEXTS, temperature=None), "temperature a number"),
        (lambda: model.generate(TEXTS, stop="x"), "stop is a list"),
        (lambda: model.generate(TEXTS, seed="x"), "seed must be an integer"),
        (lambda: model.generate(None), "nothing to read"),
        (lambda: model.unembed(torch.zeros(3, 4)), r"a residual stream is a tensor \(batch, time, 128\)"),
        (lambda: model.zero_state(2).rows([2]), "rows of a state of 2 rows"),
        (lambda: Scale("embed", "large"), "factor must be a number"),
        (lambda: Add("embed", None), "value must be a number"),
        (lambda: Clamp("embed", low="x"), "low must be a finite number"),
        (lambda: Interpolate("embed", 0.0, weight=None), "weight must be a finite number"),
        (lambda: causal_trace(model, None, subject=(0, 1)), "not NoneType"),
        (lambda: causal_trace(model, model.tokenizer(TEXTS), subject=(0, 1)), "output of 2 texts"),
    ]:
        with pytest.raises(UsageError, match=told):
            call()
    with pytest.raises(InputError, match="no tokenizer"):
        nano("mamba")("a text")
    with pytest.raises(InputError, match="prompt 1 is empty"):
        model([[1], []])
