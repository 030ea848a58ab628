"""MuSiQue: questions composed of two to four single ones, over twenty paragraphs of which some are needed.

Reads the original records; copies on the Hugging Face hub have the same fields, there perhaps as columns. The
number of hops is the length of the decomposition. People marked paragraphs, not sentences: of a supporting paragraph
the evidence is the first sentence in which the step's answer occurs, or its first sentence where none does.

In the full version a question comes twice under one id, once with a paragraph taken away that it needs. That one is
`answerable=False` and has "#unanswerable" behind its id; it keeps the answer that it would have.

Questions that end in the same single question, and so in the same paragraph, are a group. Those that only share an
earlier step are not: by all steps together most of a file would be one group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..data_set import BadRecord, DataSet, HubCopy, Sample, dataset, first_object
from ..records import Paragraph, Question, SubQuestion, Support
from .fields import answers, identifier, objects, optional_texts, question_text, text, truth, whole
from .occurrences import occurrences
from .sentences import EXAMPLE, split_sentences

_UNANSWERABLE = "#unanswerable"


_EXAMPLE = {
    "id": "2hop__1_2", "question": "How many dogs has the old city?", "answer": "3 dogs",
    "answer_aliases": ["3", "three dogs"], "answerable": True,
}  # fmt: skip


@dataset("musique")
class MuSiQue(DataSet):
    """MuSiQue-Ans and MuSiQue-Full in the original schema, which is that of the hub's copies."""

    title = "MuSiQue"
    metric = "musique"
    licence = "CC BY 4.0"
    categories = ("two_hop", "three_hop")
    annotated_supports = True
    annotated_hops = True
    hub_copies = (HubCopy("dgslibisey/MuSiQue", "default", "c8f4f8c9465fb69d31a8eae894c3fd509c4ca321"),)
    expects = "records of id, paragraphs, question, question_decomposition, answer and answer_aliases"
    path_hint = re.compile("musique", re.IGNORECASE)
    remarks = {"missing_field": "the test files of MuSiQue have neither answers nor decompositions"}
    sample = Sample(
        rows=[_EXAMPLE | {
            "paragraphs": {
                "idx": [0, 1, 2], "title": ["A", "B", "C"], "is_supporting": [True, False, True],
                "paragraph_text": [EXAMPLE, "Nothing. ", "Dogs bark. Rome has them."],
            },
            "question_decomposition": [
                {"id": 11, "question": "Which city is old?", "answer": "Rome", "paragraph_support_idx": 2},
                {"id": 12, "question": "#1 >> dogs", "answer": "3 dogs", "paragraph_support_idx": 0},
            ],
        }],
        original=[_EXAMPLE | {
            "paragraphs": [
                {"idx": 5, "title": "A", "paragraph_text": EXAMPLE, "is_supporting": True},
                {"idx": 7, "title": "B", "paragraph_text": "Nothing. ", "is_supporting": False},
                {"idx": 9, "title": "C", "paragraph_text": "Dogs bark. Rome has them.", "is_supporting": True},
            ],
            "question_decomposition": [
                {"id": 11, "question": "Which city is old?", "answer": "Rome", "paragraph_support_idx": 9},
                {"id": 12, "question": "#1 >> dogs", "answer": "3 dogs", "paragraph_support_idx": 5},
            ],
        }],
    )  # fmt: skip

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the decomposition or, in test files without one, by paragraphs of an idx and a text."""
        first = first_object(sample)
        if not {"id", "question", "paragraphs"} <= first.keys():
            return None
        paragraphs = first["paragraphs"]
        if isinstance(paragraphs, Mapping):
            return "Hugging Face" if "paragraph_text" in paragraphs else None
        one = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
        return "original" if isinstance(one, Mapping) and "paragraph_text" in one else None

    def question(self, item: Any, split: str, notes: Counter[str]) -> Question:
        """The question with its paragraphs in sentences, its decomposition, and the evidence for each step."""
        question_id = identifier(item, "id")
        question = question_text(item, "question")
        accepted = answers(tuple(dict.fromkeys((text(item, "answer"), *optional_texts(item, "answer_aliases")))))
        answerable = truth(item, "answerable") if item.get("answerable") is not None else None
        paragraphs = objects(item, "paragraphs")
        context = tuple(
            Paragraph(text(paragraph, "title"), split_sentences(text(paragraph, "paragraph_text")))
            for paragraph in paragraphs
        )
        place = {whole(paragraph, "idx"): number for number, paragraph in enumerate(paragraphs)}
        if len(place) < len(paragraphs):
            raise BadRecord("wrong_type", "two paragraphs have the same 'idx'")
        steps = tuple(_step(step, place) for step in objects(item, "question_decomposition"))
        if not steps:
            raise BadRecord("missing_field", "'question_decomposition' is empty")
        supporting = {number for number, paragraph in enumerate(paragraphs) if truth(paragraph, "is_supporting")}
        return self.asked(
            question_id + _UNANSWERABLE * (answerable is False),
            split,
            question,
            context=context,
            answers=accepted,
            answerable=answerable,
            supporting_facts=_evidence(context, steps, supporting, notes),
            hops=len(steps),
            decomposition=steps,
            group=_last(steps[-1]),
        )

    def row(self, question: Question) -> dict[str, Any]:
        """The fields of the original, paragraphs and steps as lists of objects."""
        supporting = {support.paragraph for support in question.supporting_facts}
        first, *aliases = question.answers
        return {
            "id": question.id.removesuffix(_UNANSWERABLE) if question.answerable is False else question.id,
            "paragraphs": [
                {
                    "idx": number,
                    "title": paragraph.title,
                    "paragraph_text": "".join(paragraph.sentences),
                    "is_supporting": number in supporting,
                }
                for number, paragraph in enumerate(question.context)
            ],
            "question": question.question,
            "question_decomposition": [
                {
                    "id": step.id,
                    "question": step.question,
                    "answer": step.answer,
                    "paragraph_support_idx": step.paragraph,
                }
                for step in question.decomposition
            ],
            "answer": first,
            "answer_aliases": aliases,
            "answerable": question.answerable,
        }


def _last(step: SubQuestion) -> str:
    """The single question that the data set made the last step from; what it asks, where it has no number."""
    return f"{step.question} {step.answer}" if step.id is None else f"single question {step.id}"


def _step(step: Mapping[str, Any], place: Mapping[int, int]) -> SubQuestion:
    paragraph = None
    if step.get("paragraph_support_idx") is not None:
        index = whole(step, "paragraph_support_idx")
        if index not in place:
            raise BadRecord("wrong_type", f"the decomposition points to paragraph {index}, which is not there")
        paragraph = place[index]
    number = whole(step, "id") if step.get("id") is not None else None
    return SubQuestion(text(step, "question"), text(step, "answer"), paragraph, number)


def _evidence(
    context: Sequence[Paragraph], steps: Sequence[SubQuestion], supporting: set[int], notes: Counter[str]
) -> tuple[Support, ...]:
    """One sentence for each step that has a paragraph, and for each further paragraph that is marked."""
    found: dict[Support, None] = {}
    for paragraph, answer in [(step.paragraph, step.answer) for step in steps] + [(p, "") for p in sorted(supporting)]:
        if paragraph is None or any(support.paragraph == paragraph for support in found) and not answer:
            continue
        if not context[paragraph].sentences:
            notes["supporting paragraphs without a text, left out"] += 1
            continue
        places = occurrences(context[paragraph : paragraph + 1], (answer,))
        if answer and not places:
            notes["steps whose answer is not in their paragraph: its first sentence is taken"] += 1
        found[Support(paragraph, places[0].sentence if places else 0)] = None
    return tuple(sorted(found))
