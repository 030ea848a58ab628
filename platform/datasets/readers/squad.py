"""SQuAD v1.1: a Wikipedia paragraph, a question, and the spans that people marked as its answer.

Reads the original nesting (data > paragraphs > qas) and Hugging Face's flat rows. SQuAD v2 is another data set (its
unanswerable questions would be scored wrongly) and is recognised and refused; `version_two` says by what.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..data_set import HubCopy, LookAlike, dataset, first_object
from .fields import answers as some_answer
from .squad_records import SPANS, SquadRecords, first_paragraph, holds_nothing, is_flat, sample

_V2_PATH = re.compile(r"squad[-_ ]?v?2", re.IGNORECASE)
_V2_SHARE = 0.2  # of looked-at flat records without an answer: v1.1 has none, v2 a third to a half


@dataset("squad")
class Squad(SquadRecords):
    """SQuAD v1.1 in the original and in the Hugging Face schema."""

    title = "SQuAD v1.1"
    metric = "squad_v1"
    hub_copies = (HubCopy("rajpurkar/squad", "plain_text", "7b6d24c440a36b6815f21b70d25016731768db1f"),)
    expects = "data > paragraphs > qas, or rows of id, context, question, answers{text, answer_start}"
    path_hint = re.compile(r"squad(?![-_ ]?v?2)", re.IGNORECASE)
    sample = sample(
        "1.1",
        {"id": "s1", "question": " What is old?", "answers": SPANS},
        {"id": "s2", "question": "Dogs?", "answers": SPANS[1:]},
    )
    remarks = {"no_answer": "an empty answer list is how SQuAD v2 marks unanswerable questions, and v2 is not v1.1"}

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the nesting or the columns; `path` only tells a v2 file whose first records are all answerable."""
        schema = schema_of(sample)
        if schema is not None and (why := version_two(sample, path)):
            raise LookAlike(f"{why}, which is not SQuAD v1.1; v2 questions may have no answer")
        return schema

    def answerable(self, record: Mapping[str, Any], answers: tuple[str, ...], notes: Counter[str]) -> None:
        """Not said: every question must have an answer."""
        some_answer(answers)


def schema_of(sample: Sequence[Any]) -> str | None:
    """Which schema of SQuAD, of whatever version, the first values of a file have."""
    first = first_object(sample)
    if first_paragraph(first) is not None or holds_nothing(first):
        return "original"
    return "Hugging Face" if is_flat(first) else None


def version_two(sample: Sequence[Any], path: PurePath) -> str:
    """Why a file of a SQuAD schema is one of SQuAD v2, in words; "" where it is one of v1.1."""
    first = sample[0]
    if str(first.get("version", "")).lower().startswith(("v2", "2")):
        return f"has SQuAD v2 records (version {first['version']!r})"
    paragraph = first_paragraph(first)
    if paragraph is not None:
        qas = paragraph.get("qas")
        rows = [qa for qa in qas if isinstance(qa, Mapping)] if isinstance(qas, list) else []
    else:
        rows = [row for row in sample if isinstance(row, Mapping)]
        empty = sum(isinstance(row.get("answers"), Mapping) and row["answers"].get("text") == [] for row in rows)
        if empty > _V2_SHARE * len(rows):
            return f"has SQuAD v2 records ({empty} of the first {len(rows)} have no answer)"
    if any("is_impossible" in row for row in rows):
        return "has SQuAD v2 records (is_impossible)"
    return "lies under a name of SQuAD v2" if _V2_PATH.search(path.as_posix()) else ""
