"""SQuAD v2.0: the questions of v1.1 together with as many that look alike and that their paragraph does not answer.

Reads the original nesting and Hugging Face's flat rows. A question is answerable if its answer list is not empty; an
unanswerable one has no answers and no evidence, and nothing is its right answer. Plausible answers, which the original
lists for unanswerable questions and which are wrong, are counted and left out: Hugging Face's schema has no place for
them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..data_set import BadRecord, HubCopy, LookAlike, dataset
from .fields import answers as some_answer
from .squad import schema_of, version_two
from .squad_records import SPANS, SquadRecords, sample


@dataset("squad_v2")
class SquadV2(SquadRecords):
    """SQuAD v2.0 in the original and in the Hugging Face schema."""

    title = "SQuAD v2.0"
    metric = "squad_v2"
    hub_copies = (HubCopy("rajpurkar/squad_v2", "squad_v2", "3ffb306f725f7d2ce8394bc1873b24868140c412"),)
    expects = (
        "data > paragraphs > qas with is_impossible, or rows of id, context, question, answers, some of them empty"
    )
    path_hint = re.compile(r"squad[-_ ]?v?2", re.IGNORECASE)
    sample = sample(
        "v2.0",
        {"id": "v1", "question": "What is old?", "answers": SPANS, "is_impossible": False},
        {"id": "v2", "question": "Birds?", "answers": [], "is_impossible": True, "plausible_answers": SPANS[1:]},
    )
    remarks = {"no_answer": "questions without an answer must say is_impossible"}

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By what tells version 2 from version 1.1: `is_impossible`, the version, empty answer lists, or the path."""
        schema = schema_of(sample)
        if schema is not None and not version_two(sample, path):
            raise LookAlike("has SQuAD records that are all answerable, as those of v1.1 are, which is not SQuAD v2.0")
        return schema

    def answerable(self, record: Mapping[str, Any], answers: tuple[str, ...], notes: Counter[str]) -> bool:
        """Without answers the question must be marked as impossible, or be a flat row with empty columns."""
        impossible = record.get("is_impossible")
        if impossible is not None and not isinstance(impossible, bool):
            raise BadRecord("wrong_type", "'is_impossible' is not true or false")
        if answers:
            some_answer(answers)
            if impossible:
                raise BadRecord("contradiction", "is_impossible, but with answers")
        elif impossible is False or (impossible is None and isinstance(record["answers"], list)):
            raise BadRecord("no_answer", "no answer text, and not marked as impossible")
        if record.get("plausible_answers"):
            notes["plausible answers of unanswerable questions, left out"] += 1
        return bool(answers)
