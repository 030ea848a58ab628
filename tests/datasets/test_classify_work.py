"""Questions are judged the same wherever they are judged, and tokens are those that a prompt spends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.classify import classify_work
from mplat.datasets.classify.classify_work import bundles
from mplat.datasets.classify.classifying import (
    Gathered,
    classify,
    classify_gathered,
    gather,
    summary_path,
    write,
)
from mplat.datasets.classify.token_counts import open_counter
from mplat.datasets.data_set import get, names
from mplat.datasets.prompting.prompts import render
from mplat.datasets.prompting.template import PLAIN
from mplat.datasets.records import Paragraph, Question, Support
from mplat.runtime import Session, open_session
from tokenizers import Tokenizer

SHIPPED = Path(classify_work.__file__).parents[2] / "models" / "tiny" / "tokenizer"
TOKENIZER = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


def asked(*paragraphs: tuple[str, ...], supports: tuple[tuple[int, int], ...] = (), **changes: object) -> Question:
    context = tuple(Paragraph("", sentences) for sentences in paragraphs)
    facts = tuple(Support(*place) for place in supports)
    return Question("q", "squad", "dev", "Who?", context, ("x",), supporting_facts=facts, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The samples of every data set, in their original schemas."""
    for name, sample in ((name, get(name).sample) for name in names()):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(value) + "\n" for value in sample.values)
        (tmp_path / name / f"{name}-dev{sample.suffix}").write_text(lines)
    return tmp_path


WORDS = st.lists(
    st.sampled_from(["Rome", "is", "old.", "na\u00efve", "\u4e2d\u6587", "3,000", "it's"]), min_size=1, max_size=6
)
SENTENCES = st.lists(WORDS.map(" ".join), min_size=1, max_size=3).map(tuple)


@given(st.lists(SENTENCES, min_size=1, max_size=3))
def test_the_tokens_behind_a_sentence_are_the_text_behind_it(paragraphs: list[tuple[str, ...]]) -> None:
    places = tuple((p, s) for p, sentences in enumerate(paragraphs) for s in range(len(sentences)))
    question = asked(*paragraphs, supports=places)
    done = classify(question, get("squad")).question
    ids = TOKENIZER.encode(" " + question.context_text(), add_special_tokens=False).ids
    assert done.context_tokens == len(ids)
    for (p, s), distance in zip(places, done.evidence_tokens, strict=True):
        rest = "".join(f" {text}" for text in paragraphs[p][s + 1 :])
        rest += "".join("\n" + " ".join(sentences) for sentences in paragraphs[p + 1 :])
        assert TOKENIZER.decode(ids[len(ids) - distance :]) == rest


def test_the_tokens_of_a_context_are_those_that_its_prompt_spends() -> None:
    question = asked((" \n Rome is old. ", "It is."), ("Milan.",), supports=((0, 0),))
    done = classify(question, get("squad")).question

    def encode(text: str) -> list[int]:
        return TOKENIZER.encode(text, add_special_tokens=False).ids

    spent = len(render(question, encode, 1000, PLAIN).tokens) - len(encode("\nQ: Who?\nA:"))
    assert done.context_tokens == spent
    assert done.evidence_tokens == (len(encode(" It is.\nMilan.")),)
    empty = classify(asked(), get("squad")).question
    assert (empty.context_tokens, empty.evidence_tokens) == (0, ())


def test_another_tokenizer_counts_otherwise_and_is_in_the_summary(tmp_path: Path, folder: Path) -> None:
    other = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    other.add_tokens(["Rome is old"])
    other.enable_truncation(3)  # as many published tokenizers have it
    other.save(str(tmp_path / "tokenizer.json"))
    gathered = gather(["squad"], folder / "squad")
    tiny, mine = (classify_gathered(gathered, tokenizer=name) for name in ("tiny", str(tmp_path)))
    counts = [result.questions[0].context_tokens or 0 for result in (mine, tiny)]
    assert 3 < counts[0] < counts[1]
    assert mine.summary["tokenizer"]["sha256"] != tiny.summary["tokenizer"]["sha256"]
    assert open_counter("tiny-mamba2").digest == open_counter().digest


@pytest.mark.parametrize("name", ["nowhere", "no/such-model", "~/x"])
def test_a_tokenizer_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match=f"tokenizer {name}: "):
        open_counter(name)


def test_a_damaged_or_changed_tokenizer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        open_counter(str(tmp_path))
    with pytest.raises(InputError, match="not the file that this run began with"):
        open_counter("tiny", digest="0" * 64)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=30))
def test_bundles_hold_every_question_once_in_order_and_share_contexts(sizes: list[tuple[int, int]]) -> None:
    questions = [
        dataclasses.replace(asked(("x" * length,)), context=(Paragraph("", (str(context) * length,)),))
        for context, length in sizes
    ]
    limit, classify_work.BUNDLE_CHARACTERS = classify_work.BUNDLE_CHARACTERS, 500
    try:
        items = bundles(questions)
    finally:
        classify_work.BUNDLE_CHARACTERS = limit
    groups = [group for item in items for group in item["groups"]]
    found = [(entry["position"], group["context"]) for group in groups for entry in group["questions"]]
    assert found == [(n, [list(question.context[0].sentences)]) for n, question in enumerate(questions)]
    for item in items:
        characters = [len(group["context"][0][0]) for group in item["groups"]]
        assert len(characters) == 1 or sum(characters) <= 500
    assert json.loads(json.dumps(items)) == items


def table(gathered: Gathered, out: Path, **session: object) -> tuple[bytes, bytes]:
    with open_session(**session) as opened:
        result = classify_gathered(gathered, per_dataset=0, per_category=0, session=opened)
    write(result, out / "questions.parquet")
    return (out / "questions.parquet").read_bytes(), summary_path(out / "questions.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.ray
def test_one_worker_two_workers_and_this_process_make_the_same_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_workers: Callable[[int], Session]
) -> None:
    monkeypatch.setattr(classify_work, "BUNDLE_CHARACTERS", 100)
    gathered = gather(names(), folder)
    assert len(gathered.items) >= 5
    here = table(gathered, tmp_path / "here", address="none")
    for actors in (1, 2):
        result = classify_gathered(gathered, per_dataset=0, per_category=0, session=ray_workers(actors))
        out = tmp_path / str(actors) / "questions.parquet"
        write(result, out)
        assert (out.read_bytes(), summary_path(out).read_bytes()) == here


def test_one_by_one_is_as_all_together(folder: Path) -> None:
    gathered = gather(names(), folder)
    together = classify_gathered(gathered, per_dataset=0, per_category=0).questions
    alone = [classify(question, get(question.dataset)).question for question in gathered.questions]
    assert sorted(together, key=lambda q: (q.dataset, q.id)) == sorted(alone, key=lambda q: (q.dataset, q.id))
    for question in together:
        assert question.reason and question.n_facts is not None and question.context_tokens is not None
        assert len(question.evidence_tokens) == len(question.supporting_facts)


def test_an_interrupted_run_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify_work, "BUNDLE_CHARACTERS", 100)
    gathered = gather(names(), folder)
    expected = classify_gathered(gathered, per_dataset=0, per_category=0).questions
    real, judged = classify_work.judged, []

    def counting(question: Question, *rest: object) -> dict:
        if len(judged) == 6:
            raise KeyboardInterrupt
        judged.append(question)
        return real(question, *rest)

    monkeypatch.setattr(classify_work, "judged", counting)
    with pytest.raises(KeyboardInterrupt):
        classify_gathered(gathered, per_dataset=0, per_category=0, work=tmp_path / "work")
    monkeypatch.setattr(
        classify_work, "judged", lambda question, *rest: judged.append(question) or real(question, *rest)
    )
    before = len(judged)
    again = classify_gathered(gathered, per_dataset=0, per_category=0, work=tmp_path / "work")
    assert again.questions == expected and len(judged) - before < len(expected)
