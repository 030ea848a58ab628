"""What a tokenizer puts before a text stands there once, wherever one is read: facts, traces, documents, training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.datasets.factual import FactualPrompt, locate
from mplat.datasets.tokens.tokenizer import open_tokenizer
from mplat.interp.methods.prompts import open_item
from mplat.models import LanguageModel
from mplat.models.decoding.generation import encode
from mplat.models.decoding.scored_texts import first_token, score_texts
from mplat.perplexity.perplexity_worker import DocumentWorker
from mplat.train.data import open_source
from mplat.train.data_sections import TextSection
from mplat.train.run_folder import RunFolder
from mplat.train.setup import prepare
from mplat.train.token_store import open_store
from tokenizer_zoo import llama_kind, word_pieces
from train_runs import config
from transformers import AutoTokenizer, PreTrainedTokenizerFast

KINDS = {"llama": llama_kind, "word pieces": word_pieces, "bos and eos": lambda: llama_kind("<s> $A </s>")}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    found = nano("mamba", vocab_size=272, dtype=torch.float32)
    found.tokenizer = KINDS[request.param]()
    return found


def read_by(tokenizer: PreTrainedTokenizerFast | None, text: str) -> list[int]:
    """The tokenizer's own ids of the whole text, without what it appends."""
    assert tokenizer is not None
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] == 2 else ids  # type: ignore[return-value, index]


def test_facts_traces_and_generation_read_the_same_tokens(model: LanguageModel) -> None:
    text, subject = "a b ab", "b"
    ids, whole = read_by(model.tokenizer, text), read_by(model.tokenizer, f"{text} b")
    assert model.tokenizer is not None and whole[: len(ids)] == ids and ids.count(1) == 1
    found = locate(FactualPrompt("x", "test", text, subject, (2, 3), "b", other_answer="a"), model.tokenizer)
    item = open_item(model, "x", text, subject, answer="b", replacement="ab")
    assert list(found.tokens) == list(item.tokens) == encode(model, [text])[0] == ids
    assert found.subject == item.subject
    assert "b" in model.tokenizer.decode(ids[slice(*item.subject)])
    assert list(found.answer) == whole[len(ids) :] and item.answer == whole[len(ids)]
    assert list(found.other_answer or ()) == read_by(model.tokenizer, f"{text} a")[len(ids) :]
    assert list(item.corrupted or ()) == read_by(model.tokenizer, "a ab ab")


@torch.no_grad()
def test_documents_are_predicted_from_it(model: LanguageModel) -> None:
    assert first_token(model) == 1
    worker = DocumentWorker(model, "carried", 3)
    texts = ["a b ab.a b", "b", "a"]
    items = [{"document_id": str(i), "set_name": "s", "model": "m", "text": t} for i, t in enumerate(texts)]
    for text, row in zip(texts, worker.run({"items": items}).to_pylist(), strict=True):
        ids = read_by(model.tokenizer, text)
        scores = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        assert row["log_likelihood"] == pytest.approx(scores[range(len(ids) - 1), ids[1:]].sum().item(), rel=1e-4)
        assert row["n_tokens"] == len(ids) - 1


@torch.no_grad()
def test_a_document_that_says_it_itself_is_predicted_from_that() -> None:
    model = nano("mamba", vocab_size=272)
    model.tokenizer = llama_kind()
    ids: list[int] = model.tokenizer("<s>a b", add_special_tokens=False)["input_ids"]  # type: ignore[assignment]
    found = score_texts(model, ["<s>a b"], method="carried", window=8)[0]
    scores = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    assert found.n_tokens == len(ids) - 1
    assert found.log_likelihood == pytest.approx(scores[range(len(ids) - 1), ids[1:]].sum().item(), rel=1e-4)


def test_an_answer_that_shares_a_token_with_the_prompt_is_refused(shared_data: Path) -> None:
    model = nano("mamba", vocab_size=50304)
    for name in ("gpt2", "gpt-neox-20b"):
        model.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(shared_data / "tokenizers" / name / "tokenizer.json")
        )
        whole = model.tokenizer("Rome is in Italy")["input_ids"]
        assert open_item(model, "x", "Rome is in", "Rome", answer="Italy", replacement=None).answer == whole[-1]
        with pytest.raises(UsageError, match="leave out the space that ends --prompt"):
            open_item(model, "x", "Rome is in ", "Rome", answer="Italy", replacement=None)
        lines = open_item(model, "x", "Rome is in\n", "Rome", answer="Italy", replacement=None)
        assert [*lines.tokens, lines.answer] == model.tokenizer("Rome is in\nItaly")["input_ids"][
            : len(lines.tokens) + 1
        ]


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_training_documents_are_the_texts_that_a_reader_gets(template: str, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    llama_kind(template).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["a b", "ab\nb", "b a", "a"]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    encoder, facts = open_tokenizer(folder)
    store = open_store(tmp_path / "data", TextSection(paths=(str(path),), holdout_every=2), encoder, facts)
    expected = [[*read_by(tokenizer, t), 2] for t in texts]
    assert store.train.tolist() == expected[0] + expected[2]
    assert store.holdout.tolist() == expected[1] + expected[3]
    run = config(
        sequence_length=4, batch_size=1,
        data={"source": "text", "tokenizer": str(folder), "text": {"paths": (str(path),), "holdout_every": 2}},
    )  # fmt: skip
    batch = open_source(run, tmp_path / "out").batch(0)
    assert torch.equal(batch.reset, batch.tokens == 1) and batch.reset.any()
    shape = prepare(run, RunFolder(tmp_path / "out"), dry_run=True).shape
    assert (shape.bos_token_id, shape.eos_token_id) == (1, 2)
