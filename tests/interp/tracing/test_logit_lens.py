"""The lens after the last block is the model; before it, it is the model cut short there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.logit_lens import logit_lens
from mplat.models import LanguageModel, Replace, load

T = 7


@pytest.fixture(params=["mamba", "mamba2", "striped_hyena", "stable_mamba", "moe_mamba"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, n_layers=3)


@torch.no_grad()
def test_every_row_is_what_the_model_says_with_that_residual_stream_at_its_end(model) -> None:
    text = tokens(1, T)[0]
    rows = logit_lens(model, text, top=3).to_pylist()
    final = torch.log_softmax(model(text[None])[0], -1)
    answer = int(final[-1].argmax())
    assert [(r["layer"], r["position"]) for r in rows] == [(i, t) for i in range(3) for t in range(T)]
    for layer in range(3):
        with model.capture(f"blocks.{layer}.resid_post") as acts:
            model(text[None])
        with model.edit(Replace("blocks.2.resid_post", acts[f"blocks.{layer}.resid_post"])):
            lens = torch.softmax(model(text[None])[0], -1)
        for t, row in enumerate(rows[layer * T : (layer + 1) * T]):
            p = lens[t]
            assert row["answer_prob"] == pytest.approx(float(p[answer]), rel=1e-9)
            assert row["answer_rank"] == 1 + int((p > p[answer]).sum())
            assert row["top_ids"] == p.argsort(descending=True)[:3].tolist() == [int(i) for i in row["top_tokens"]]
            assert row["top_probs"] == pytest.approx(p.sort(descending=True).values[:3].tolist(), rel=1e-9)
            kl = sum(math.exp(q) * (float(q) - math.log(float(pi))) for q, pi in zip(final[t], p, strict=True))
            assert row["kl"] == pytest.approx(kl, abs=1e-9)
            assert row["token"] == str(int(text[t]))
    assert max(r["kl"] for r in rows[-T:]) < 1e-12 and rows[-1]["answer_rank"] == 1
    assert min(r["kl"] for r in rows[:T]) > 1e-6


@torch.no_grad()
def test_layers_positions_site_and_answer_are_chosen(model) -> None:
    text = tokens(1, T)[0]
    whole = {(r["layer"], r["position"]): r for r in logit_lens(model, text, answer=4).to_pylist()}
    some = logit_lens(model, text, answer=4, layers=[2, 0], positions=[-1, 2])
    assert some.schema.metadata[b"answer"] == b"4"
    rows = some.to_pylist()
    assert [(r["layer"], r["position"]) for r in rows] == [(0, 2), (0, 6), (2, 2), (2, 6)]
    assert all(r["kl"] == pytest.approx(whole[r["layer"], r["position"]]["kl"], abs=1e-12) for r in rows)
    # what leaves a block enters the next one
    before = logit_lens(model, text, answer=4, layers=[1], site="resid_pre").to_pylist()
    assert [r["answer_prob"] for r in before] == pytest.approx([whole[0, t]["answer_prob"] for t in range(T)], rel=1e-9)


@torch.no_grad()
def test_texts_are_those_of_the_tokenizer() -> None:
    model = load("tiny-mamba")
    assert model.tokenizer is not None
    text = model.tokenizer.encode(" Bekdok lives in", return_tensors="pt").squeeze(0)
    rows = logit_lens(model, text, positions=[-1], top=1).to_pylist()
    assert "".join(r["token"] for r in logit_lens(model, text, layers=[0]).to_pylist()) == " Bekdok lives in"
    assert rows[-1]["top_tokens"] == [model.tokenizer.decode([int(model(text[None])[0, -1].argmax())])]


@torch.no_grad()
def test_adapted_models_have_the_lens_too(tmp_path: Path) -> None:
    for case in ("gpt2", "falcon_h1"):  # the second scales its logits
        model = adapted(case, tmp_path / case.replace(":", "_"))
        rows = logit_lens(model, tokens(1, T)[0], positions=[-1]).to_pylist()
        assert rows[-1]["kl"] < 1e-12 < rows[0]["kl"]


def test_wrong_arguments_say_what_would_be_right() -> None:
    model, text = nano("mamba"), tokens(1, T)[0]
    for arguments, told in [
        ({"site": "mixer_out"}, "resid_pre, resid_mid, resid_post"),
        ({"site": "resid_mid"}, "did you mean 'resid_pre'"),
        ({"top": 0}, "at least 1"),
        ({"top": 41}, "has 40 tokens"),
        ({"layers": [3]}, "blocks 0 to 1"),
        ({"positions": [-8]}, "0 to 6"),
        ({"answer": -1}, "from 0 to 39"),
    ]:
        with pytest.raises(UsageError, match=told):
            logit_lens(model, text, **arguments)
