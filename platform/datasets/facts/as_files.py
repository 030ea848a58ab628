"""The facts world in the file formats of SQuAD v1.1 and HotpotQA, for trying the readers without a download.

`write_squad` makes one JSON document (data > paragraphs > qas, with the character at which the answer starts) of
one-hop questions; `write_hotpotqa` a JSON list of records with titled paragraphs and supporting facts, of two- and
three-hop ones. They hold invented people and places, say so in their titles, and are no part of either data set.

Promises: a pure function of the questions; every answer stands at its position in its evidence sentence; the readers in
`mplat.datasets` find every question, with its evidence. It classifies nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UsageError
from ...core.whole_files import publish_bytes
from ..records import Question

SENTENCES_PER_PARAGRAPH = 2  # of a HotpotQA context: evidence lies in different paragraphs, among others without any
TITLE = "Facts world"


def write_squad(questions: Sequence[Question], path: Path) -> None:
    """Write the one-hop questions of the facts world as a SQuAD v1.1 document."""
    paragraphs = [_squad_paragraph(question) for question in questions]
    _write({"version": "1.1", "data": [{"title": TITLE, "paragraphs": paragraphs}]}, path)


def write_hotpotqa(questions: Sequence[Question], path: Path) -> None:
    """Write questions of two or more hops as HotpotQA records."""
    _write([_hotpotqa_record(question) for question in questions], path)


def _squad_paragraph(question: Question) -> dict[str, Any]:
    sentences = _sentences(question)
    if len(question.supporting_facts) != 1:
        raise UsageError(
            f"{question.id}: SQuAD has questions with one piece of evidence, not {len(question.supporting_facts)}"
        )
    evidence, answer = question.supporting_facts[0].sentence, question.answers[0]
    before = sum(len(sentence) + 1 for sentence in sentences[:evidence])
    start = before + sentences[evidence].index(answer)
    return {
        "context": " ".join(sentences),
        "qas": [
            {"id": question.id, "question": question.question, "answers": [{"text": answer, "answer_start": start}]}
        ],
    }


def _hotpotqa_record(question: Question) -> dict[str, Any]:
    sentences = _sentences(question)
    if len(question.supporting_facts) < 2:
        raise UsageError(f"{question.id}: HotpotQA has questions with two or more pieces of evidence")
    size = SENTENCES_PER_PARAGRAPH
    # HotpotQA keeps the space between two sentences at the start of the second.
    paragraphs = [
        [
            f"{TITLE}, part {start // size + 1}",
            [("" if i == 0 else " ") + s for i, s in enumerate(sentences[start : start + size])],
        ]
        for start in range(0, len(sentences), size)
    ]
    return {
        "_id": question.id,
        "question": question.question,
        "answer": question.answers[0],
        "type": "bridge",
        "level": "easy",
        "supporting_facts": [
            [paragraphs[fact.sentence // size][0], fact.sentence % size] for fact in question.supporting_facts
        ],
        "context": paragraphs,
    }


def _sentences(question: Question) -> tuple[str, ...]:
    if question.dataset != "facts" or len(question.context) != 1 or not question.answers:
        raise UsageError(f"{question.id}: not a question of the facts world")
    return question.context[0].sentences


def _write(value: Any, path: Path) -> None:
    publish_bytes((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode(), path)
