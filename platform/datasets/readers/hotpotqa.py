"""HotpotQA: a question over titled paragraphs, with the supporting sentences that people marked.

Reads the original records and Hugging Face's columnwise ones. Sentences are kept as given, leading spaces included.
The number of hops is not annotated, so `hops` stays None; supporting paragraphs are always two. `source_fields` keeps
the type (bridge or comparison), the level of difficulty, and supporting facts that point outside the context. Questions
whose answer stands in the same supporting paragraph are a group; where none has it, the first in the alphabet counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..data_set import BadRecord, DataSet, HubCopy, LookAlike, Sample, dataset, first_object
from ..records import Paragraph, Question, Support, source_fields
from .fields import answers, field, identifier, items_of, optional_text, question_text, text, texts
from .occurrences import occurrences


@dataset("hotpotqa")
class HotpotQA(DataSet):
    """HotpotQA (distractor and full-wiki files) in the original and in the Hugging Face schema."""

    title = "HotpotQA"
    metric = "hotpotqa"
    licence = "CC BY-SA 4.0"
    categories = ("two_hop", "three_hop")
    annotated_supports = True
    hub_copies = (HubCopy("hotpotqa/hotpot_qa", "distractor", "1908d6afbbead072334abe2965f91bd2709910ab"),)
    expects = "records of _id (or id), question, answer, context and supporting_facts, as pairs or as columns"
    path_hint = re.compile("hotpot", re.IGNORECASE)
    remarks = {"no_answer": "the test files of HotpotQA have no answers"}
    sample = Sample(
        rows=[{
            "id": "h1", "question": "Which?", "answer": "Rome", "type": "bridge", "level": "hard",
            "supporting_facts": {"title": ["B", "A", "Elsewhere"], "sent_id": [1, 0, 4]},
            "context": {
                "title": ["A", "B", "C"],
                "sentences": [["Rome is old. ", " It is."], ["Milan.", " Not\u2028old."], []],
            },
        }],
        original=[{
            "_id": "h1", "question": "Which?", "answer": "Rome", "type": "bridge", "level": "hard",
            "supporting_facts": [["B", 1], ["A", 0], ["Elsewhere", 4]],
            "context": [["A", ["Rome is old. ", " It is."]], ["B", ["Milan.", " Not\u2028old."]], ["C", []]],
        }],
    )  # fmt: skip

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the pairs or columns of `context`."""
        first = first_object(sample)
        if not {"question", "context", "supporting_facts"} <= first.keys():
            return None
        context = first["context"]
        if isinstance(context, list) and "_id" in first and all(isinstance(pair, list) for pair in context):
            schema = "original"
        elif isinstance(context, Mapping) and {"title", "sentences"} <= context.keys():
            schema = "Hugging Face"
        else:
            return None
        if "evidences" in first:
            raise LookAlike("has 'evidences', as 2WikiMultihopQA does, which is not HotpotQA")
        return schema

    def question(self, item: Any, split: str, notes: Counter[str]) -> Question:
        """The question with its paragraphs; supporting facts become positions in them.

        A supporting fact that points outside the context (the original has such) is left out and counted.
        """
        question_id = identifier(item, "_id" if isinstance(item, Mapping) and "_id" in item else "id")
        question = question_text(item, "question")
        accepted = answers((text(item, "answer"),))
        pairs = _pairs(item, "context", "title", "sentences", list)
        context = tuple(Paragraph(title, texts({"sentences": sentences}, "sentences")) for title, sentences in pairs)
        place: dict[str, int] = {}
        for number, paragraph in enumerate(context):
            place.setdefault(paragraph.title, number)
        supports: dict[Support, None] = {}  # an ordered set
        outside: list[tuple[str, int]] = []
        for title, sentence in _pairs(item, "supporting_facts", "title", "sent_id", int):
            number = place.get(title)
            if number is None or not 0 <= sentence < len(context[number].sentences):
                notes["supporting facts that point outside the context, left out"] += 1
                outside.append((title, sentence))
            else:
                supports[Support(number, sentence)] = None
        if not supports:
            raise BadRecord("no_supporting_fact", "no supporting fact lies in the context")
        return self.asked(
            question_id,
            split,
            question,
            context=context,
            answers=accepted,
            supporting_facts=tuple(supports),
            source_fields=source_fields(
                type=optional_text(item, "type"), level=optional_text(item, "level"), facts_outside_context=outside
            ),
            group=_article([context[support.paragraph] for support in supports], accepted),
        )

    def row(self, question: Question) -> dict[str, Any]:
        """id, question, answer, type, level, and the columns of supporting_facts and context."""
        source = question.source()
        facts = [(question.context[fact.paragraph].title, fact.sentence) for fact in question.supporting_facts]
        facts += source.get("facts_outside_context", ())
        return {
            "id": question.id,
            "question": question.question,
            "answer": question.answers[0],
            "type": source.get("type", ""),
            "level": source.get("level", ""),
            "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [s for _, s in facts]},
            "context": {
                "title": [paragraph.title for paragraph in question.context],
                "sentences": [list(paragraph.sentences) for paragraph in question.context],
            },
        }


def _article(supporting: Sequence[Paragraph], accepted: tuple[str, ...]) -> str:
    """The title of the supporting paragraph in which the answer stands, else the first title in the alphabet."""
    by_title = sorted(supporting, key=lambda paragraph: paragraph.title)
    places = occurrences(by_title, accepted)
    return by_title[places[0].paragraph if places else 0].title


def _pairs(record: Mapping[str, Any], name: str, left: str, right: str, kind: type) -> Iterator[tuple[str, Any]]:
    """The (title, ...) pairs of a field in either schema."""
    value = field(record, name)
    if isinstance(value, Mapping):
        titles, others = items_of(value, left), items_of(value, right)
        if len(titles) != len(others):
            raise BadRecord("wrong_type", f"{name!r}: {len(titles)} {left} but {len(others)} {right}")
        pairs: list[Any] = [list(pair) for pair in zip(titles, others, strict=True)]
    else:
        pairs = items_of(record, name)
    for pair in pairs:
        good = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], kind)
        if not good or isinstance(pair[1], bool):
            raise BadRecord("wrong_type", f"{name!r} is not made of pairs of {left} and {right}")
        yield pair[0], pair[1]
