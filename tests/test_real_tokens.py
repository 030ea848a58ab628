"""Real records, published tokenizers, every command: the model reads the tokens of the texts that are recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from mplat.commands import main
from mplat.datasets.records import Question, to_table
from mplat.eval.price_texts import price_texts
from mplat.models import LanguageModel, ModelConfig, build, load
from real_records import FILES, published, real_questions

pytestmark = pytest.mark.timeout(900)
SHAPES = [
    pytest.param(("gpt-neox-20b", ModelConfig("mamba", 50280, 8, 2, 4), 1, 96), id="small"),
    pytest.param(("gpt2", ModelConfig("mamba2", 50280, 8, 2, 4, head_dim=4), 1, 96), id="gpt2", marks=pytest.mark.slow),
    pytest.param(("gpt-neox-20b", ModelConfig("mamba", 50280, 768, 2, 16), 1, 64), id="wide", marks=pytest.mark.slow),
]
Ids = tuple[int, ...]


class Case:
    """A model in a folder, real questions in a file, and what the commands make the model read from its beginning."""

    def __init__(self, folder: Path, tokenizer, questions: list[Question], budget: int) -> None:
        self.folder, self.tokenizer, self.questions, self.budget = folder, tokenizer, questions, budget
        self.read: list[Ids] = []

    def run(self, command: str, *words: str) -> None:
        self.read.clear()
        assert main([command, *words, "--model", str(self.folder / "model"), "--address", "none", "--quiet"]) == 0

    def ids(self, text: str) -> Ids:
        return tuple(self.tokenizer(text)["input_ids"])


@pytest.fixture(scope="module", params=SHAPES)
def case(request, shared_data: Path, tmp_path_factory) -> Iterator[Case]:
    name, config, each, budget = request.param
    tokenizer = published(shared_data, name)
    questions = [q for data_set in FILES for q in real_questions(shared_data, data_set, each)]
    folder = tmp_path_factory.mktemp("real")
    build(config, 0, tokenizer=tokenizer).save(folder / "model")
    pq.write_table(to_table(questions), folder / "questions.parquet")
    made = Case(folder, tokenizer, questions, budget)
    forward = LanguageModel.forward

    def noted(self, tokens, mask=None, **more):
        if more.get("state") is None:
            whole = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
            made.read += [tuple(row[seen].tolist()) for row, seen in zip(tokens, whole, strict=True)]
        return forward(self, tokens, mask, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "forward", noted)
        patch.setenv("MPLAT_CACHE", str(folder / "cache"))
        yield made


def digests(case: Case, text: str) -> tuple[str, str]:
    ids = json.dumps(case.ids(text), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest(), hashlib.sha256(ids.encode()).hexdigest()


@pytest.fixture(scope="module")
def texts(case: Case) -> dict[str, str]:
    """Question id -> the text that an evaluation recorded; what it read is compared with that on the way."""
    words = ["--questions", str(case.folder / "questions.parquet"), "--out", str(case.folder / "run")]
    words += ["--steering", "none", "--max-new-tokens", "2", "--batch-size", "1", "--fail-over", "1"]
    for setting in (f"max_prompt_tokens={case.budget}", "resamples=100", "price_limit=4"):
        words += ["--set", setting]
    case.run("eval", *words)
    prompts = {row["prompt_digest"]: row for row in pq.read_table(case.folder / "run" / "prompts.parquet").to_pylist()}
    found: dict[str, str] = {}
    for row in pq.read_table(case.folder / "run" / "items.parquet").to_pylist():
        assert row["status"] == "ok", row["reason"]
        text = prompts[row["prompt_digest"]]["text"]
        assert (row["prompt_digest"], row["ids_digest"]) == digests(case, text)
        assert row["n_prompt_tokens"] == len(case.ids(text)) <= case.budget
        found[row["question_id"]] = text
    asked = {case.ids(text) for text in found.values()}
    answered = {case.ids(f"{found[q.id]} {q.answers[0]}")[:-1] for q in case.questions}
    model = load(str(case.folder / "model"))
    told = {text.tokens for text in price_texts(model, case.questions, file=None, limit=len(case.questions)).texts}
    read = set(case.read)
    assert asked <= read and read <= asked | answered | told
    assert any(row["n_cut_tokens"] for row in pq.read_table(case.folder / "run" / "items.parquet").to_pylist())
    return found


@pytest.mark.slow
def test_an_evaluation_reads_the_tokens_of_the_texts_that_it_records(case: Case, texts: dict[str, str]) -> None:
    assert set(texts) == {q.id for q in case.questions}


def test_analyses_read_the_same_texts_and_the_answers_behind_them(case: Case, texts: dict[str, str]) -> None:
    words = ["--questions", str(case.folder / "questions.parquet"), "--steps", "attribution"]
    words += ["--set", f"max_tokens={case.budget}", "--set", "batch_size=1", "--out", str(case.folder / "interp")]
    case.run("interp", *words)
    for row in pq.read_table(case.folder / "interp" / "prompts.parquet").to_pylist():
        assert row["text"] == texts[row["question_id"]]
        assert (row["prompt_digest"], row["ids_digest"]) == digests(case, row["text"])
    expected = {case.ids(f"{texts[q.id]} {q.answers[0].strip()}")[:-1] for q in case.questions}
    assert set(case.read) == expected


@pytest.mark.slow
def test_a_trace_reads_the_tokens_of_its_prompt(case: Case, texts: dict[str, str]) -> None:
    question = min(case.questions, key=lambda q: len(texts[q.id]))
    text, subject = texts[question.id], question.question.split()[-1].strip("?")
    words = ["--prompt", text, "--subject", subject, "--answer", question.answers[0], "--samples", "1"]
    case.run("trace", *words, "--layers", "1", "--sites", "resid_post", "--out", str(case.folder / "trace"))
    assert set(case.read) == {case.ids(text)}


def test_perplexity_reads_the_tokens_of_its_texts(case: Case, texts: dict[str, str]) -> None:
    path = case.folder / "texts.jsonl"
    kept = list(texts.values())[:3]
    lines = [json.dumps({"text": text, "meta": {"pile_set_name": "Wikipedia (en)"}}) for text in kept]
    path.write_text("\n".join(lines) + "\n")
    case.run("perplexity", str(path), "--out", str(case.folder / "perplexity"))
    end = case.tokenizer.eos_token_id
    assert set(case.read) == {(end, *case.ids(text)[:-1]) for text in kept}
