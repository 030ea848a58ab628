"""The facts world in the formats of SQuAD v1.1 and HotpotQA: what is written there is what the readers find."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.facts.as_files import write_hotpotqa, write_squad
from mplat.datasets.readers.hotpotqa import HotpotQA
from mplat.datasets.readers.squad import Squad
from mplat.datasets.records import Question

ALL = facts.prompts(per_level=6, seed=3)
ONE_HOP = [q for q in ALL if q.hops == 1]
MORE_HOPS = [q for q in ALL if (q.hops or 0) > 1]


def test_every_answer_of_the_squad_file_stands_where_the_file_says(tmp_path: Path) -> None:
    write_squad(ONE_HOP, tmp_path / "squad.json")
    document = json.loads((tmp_path / "squad.json").read_text(encoding="utf-8"))
    found = 0
    for paragraph in document["data"][0]["paragraphs"]:
        for qa in paragraph["qas"]:
            answer = qa["answers"][0]
            assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
            found += 1
    assert found == len(ONE_HOP) > 0


def test_the_squad_reader_finds_the_same_questions_sentences_and_evidence(tmp_path: Path) -> None:
    write_squad(ONE_HOP, tmp_path / "squad.json")
    document = json.loads((tmp_path / "squad.json").read_text(encoding="utf-8"))
    reader = Squad()
    assert reader.recognise([document], tmp_path / "squad.json") == "original"
    _assert_same(ONE_HOP, [reader.question(item, "dev", Counter()) for item in reader.items(document)])


def test_the_hotpotqa_reader_finds_the_same_questions_and_evidence(tmp_path: Path) -> None:
    write_hotpotqa(MORE_HOPS, tmp_path / "hotpotqa.json")
    records = json.loads((tmp_path / "hotpotqa.json").read_text(encoding="utf-8"))
    reader = HotpotQA()
    assert reader.recognise(records, tmp_path / "hotpotqa.json") == "original"
    _assert_same(MORE_HOPS, [reader.question(record, "dev", Counter()) for record in records])


def test_the_same_questions_give_the_same_bytes(tmp_path: Path) -> None:
    write_squad(ONE_HOP, tmp_path / "a.json")
    write_squad(facts_again(), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_questions_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one piece of evidence"):
        write_squad(MORE_HOPS[:1], tmp_path / "a.json")
    with pytest.raises(UsageError, match="two or more"):
        write_hotpotqa(ONE_HOP[:1], tmp_path / "a.json")
    with pytest.raises(UsageError, match="not a question of the facts world"):
        write_squad([Question(id="x", dataset="squad", split="dev", question="Who?")], tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def facts_again() -> list[Question]:
    return [q for q in facts.prompts(per_level=6, seed=3) if q.hops == 1]


def _assert_same(written: list[Question], read: list[Question]) -> None:
    assert [q.question for q in read] == [q.question for q in written]
    assert [q.answers for q in read] == [q.answers for q in written]
    for before, after in zip(written, read, strict=True):
        told = [s.strip() for paragraph in after.context for s in paragraph.sentences]
        assert told == list(before.context[0].sentences)
        evidence = {after.context[s.paragraph].sentences[s.sentence].strip() for s in after.supporting_facts}
        assert evidence == {before.context[0].sentences[s.sentence] for s in before.supporting_facts}
