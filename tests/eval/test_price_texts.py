"""On what text the price is measured, and that it is text that the model was not trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.datasets import facts
from mplat.datasets.facts.names import entities
from mplat.eval.price_texts import MAX_TOKENS, OWN_QUESTIONS, SEED, price_texts, trained_on, why_not_known
from mplat.models import load
from mplat.models.files.catalog import shipped
from planted_models import talking

QUESTIONS = facts.prompts(per_level=2, seed=3)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny-mamba2")


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    """A model whose folder does not say what it was trained on."""
    folder = tmp_path_factory.mktemp("untold") / "model"
    talking().save(folder)
    return load(folder)


def decoded(model, text, *, first=0):
    return model.tokenizer.decode(list(text.tokens[first:]), skip_special_tokens=False)


def test_a_shipped_model_reads_training_documents_of_a_seed_that_training_never_used(tiny):
    texts = price_texts(tiny, QUESTIONS, file=None, limit=30)
    assert texts.known and "training split" in texts.source and len(texts.texts) == 30
    settings = trained_on(tiny)
    assert settings is not None and settings["seed"] != SEED
    said = "".join(decoded(tiny, text) for text in texts.texts)
    assert sum(said.count(name) for name in entities("train")["person"]) > 100
    assert not any(name in said for name in entities("eval")["person"])
    # whole documents end as in training, and each begins where its row of training was reset
    assert sum(text.tokens[-1] == tiny.tokenizer.eos_token_id for text in texts.texts) > 10
    assert all(tiny.tokenizer.eos_token_id not in text.tokens[:-1] for text in texts.texts)


def test_the_seed_of_training_is_avoided_whatever_it_is(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(shipped()["tiny-mamba2"], folder)
    settings = (folder / "training.yaml").read_text()
    (folder / "training.yaml").write_text(settings.replace("seed: 1\n", f"seed: {SEED}\n", 1))
    theirs = price_texts(tiny, QUESTIONS, file=None, limit=5)
    ours = price_texts(load(folder), QUESTIONS, file=None, limit=5)
    assert {t.tokens for t in theirs.texts}.isdisjoint(t.tokens for t in ours.texts)
    assert ours.digest != theirs.digest


def test_the_record_of_a_training_run_says_it_too(tmp_path):
    made = tmp_path / "run"
    made.mkdir()
    shutil.copytree(shipped()["tiny-mamba2"], made / "model")
    (made / "model" / "training.yaml").unlink()
    config = {"seed": 4, "sequence_length": 64, "data": {"source": "facts", "facts": {}}}
    (made / "run.json").write_text(json.dumps({"command": "train", "config": config}))
    model = load(made / "model")
    texts = price_texts(model, QUESTIONS, file=None, limit=6)
    assert texts.known and all(len(text.tokens) <= 65 for text in texts.texts)
    (made / "run.json").write_text(json.dumps({"command": "train", "config": {"seed": 4}}))
    with pytest.raises(InputError, match=r"run\.json: .*no data\.source"):
        trained_on(model)


def test_bytes_are_those_of_the_predicted_text(tiny):
    for text in price_texts(tiny, QUESTIONS, file=None, limit=12).texts:
        said = decoded(tiny, text, first=1).removesuffix("<|endoftext|>")
        assert text.n_bytes == len(said.encode())


def test_a_model_that_does_not_say_reads_its_questions_under_that_name(untold):
    texts = price_texts(untold, QUESTIONS, file=None, limit=7)
    assert not texts.known and texts.source == OWN_QUESTIONS and len(texts.texts) == 7
    for question, text in zip(QUESTIONS, texts.texts, strict=False):
        assert decoded(untold, text, first=1) == f"{question.prompt} {question.answers[0]}\n"
    assert "--price-texts" in why_not_known(untold) and "does not say" in why_not_known(untold)


def test_questions_of_one_group_are_one_document(untold):
    together = [dataclasses.replace(q, group="page") for q in QUESTIONS[:3]]
    texts = price_texts(untold, together, file=None, limit=7).texts
    assert {text.document for text in texts} == {"page"} and len({text.id for text in texts}) == 3


LONG = "Ünïcode and “quotes” over several lines.\n" * 120


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_file_is_cut_into_windows_that_predict_each_byte_once(untold, tmp_path, kind):
    path = tmp_path / f"own.{kind}"
    documents = [LONG] if kind == "txt" else [LONG, "Short."]
    if kind == "txt":
        path.write_text(LONG, encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    else:
        pq.write_table(pa.table({"text": documents}), path)
    texts = price_texts(untold, QUESTIONS, file=path, limit=1000)
    assert texts.known and texts.source.startswith(f"own.{kind}, {len(documents)} document")
    assert all(2 <= len(text.tokens) <= MAX_TOKENS for text in texts.texts)
    assert sum(text.n_bytes for text in texts.texts) == sum(len(text.encode()) for text in documents)
    assert len({text.document for text in texts.texts}) == len(documents)
    if kind != "txt":  # the first window of every document comes before the second of any
        assert len({text.document for text in texts.texts[:2]}) == 2
    assert len(price_texts(untold, QUESTIONS, file=path, limit=2).texts) == 2


@pytest.mark.slow
def test_the_pile_is_read_as_it_is(untold, shared_data: Path):
    texts = price_texts(untold, QUESTIONS, file=shared_data / "pile" / "pile_test_permissive.jsonl.zst", limit=3)
    assert len(texts.texts) == 3 and all(text.n_bytes > 0 for text in texts.texts)


def test_a_file_without_a_text_is_refused(untold, tmp_path):
    (tmp_path / "none.jsonl").write_text('{"no": "text"}\n')
    with pytest.raises(InputError, match="none"):
        price_texts(untold, QUESTIONS, file=tmp_path / "none.jsonl", limit=3)
