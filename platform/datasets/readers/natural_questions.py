"""Natural Questions: what people asked a search engine, with answers that annotators found in a page, or did not.

Reads NQ-open and EfficientQA ({question, answer[]}, also Hugging Face's nq_open), the gold-paragraph files ({question,
answers, ctxs, ...}), full records in the original, the simplified and Hugging Face's columnwise schema, and long
documents with several questions each ({instructions, outputs, input}). Open questions have no context. A question that
the data set gives no id has one made from its content.

Of a full record `answers` are what the annotators marked as short answers, each annotator's spans joined by ", ", and
yes or no; a question without any is kept, without answers. `source_fields` keeps every annotation as spans of words
(see `nq_page`); markup, byte positions and candidates that nobody chose are not kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ..data_set import BadRecord, DataSet, HubCopy, LookAlike, dataset, first_object
from ..reading import content_id
from ..records import Question
from . import nq_full, nq_passages
from .fields import answers, bad_as_last, identifier, question_text, texts

_OTHER_SET = re.compile(
    r"(?<![a-z0-9])(trivia[a-z]*|web[-_ ]?q[a-z]*|popqa|squad|hotpot[a-z]*|curated[a-z]*)", re.IGNORECASE
)
_OWN_PATH = re.compile(r"natural[-_ ]?questions?|(?<![a-z0-9])nq(?![a-z0-9])|efficientqa", re.IGNORECASE)


class _Item(NamedTuple):
    kind: str
    record: Any
    number: int = 0  # of the question, where a record holds several


@dataset("natural_questions")
class NaturalQuestions(DataSet):
    """Natural Questions in every schema that it is passed around in."""

    title = "Natural Questions"
    metric = "nq_open"
    licence = "CC BY-SA 3.0"
    categories = ("long_context", "stress_test")
    annotated_supports = False
    hub_copies = (
        HubCopy("google-research-datasets/nq_open", "nq_open", "5dd9790a83002ad084ddeb7c420dc716852c6f28"),
        HubCopy("google-research-datasets/natural_questions", "dev", "e8103d566bef4154c2c12b17c6095ec5275840cc"),
    )
    expects = (
        "rows of question and answer[]; of question, answers, ctxs; records of question_text with document_tokens or "
        "document_text; rows of id, document, question, annotations; or documents of instructions, outputs, input"
    )
    path_hint = _OWN_PATH
    remarks = {"no_answer": "the test files of NQ-open have no answers"}
    sample = nq_full.SAMPLE

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the fields; open questions are shared with other sets, there the path may say no."""
        kind = _kind(first_object(sample))
        if kind == "long document" and not str(sample[0].get("source", "")).startswith("natural"):
            return None  # other sets of long documents have the same three fields
        if kind in ("NQ-open", "open domain"):
            own, other = _OWN_PATH.search(path.as_posix()), _OTHER_SET.search(path.as_posix())
            if other and not own:
                raise LookAlike(f"has open questions, but its name says {other[0]!r}, not Natural Questions")
            if kind == "open domain" and (other or not own):
                return None  # TriviaQA's, unless the path names this set alone
        return kind or None

    @bad_as_last
    def items(self, value: Any) -> Iterator[_Item]:
        """A value is a question, except for a long document, which has several."""
        kind = _kind(first_object([value]))
        if kind != "long document":
            yield _Item(kind, value)
            return
        asked, given = texts(value, "instructions"), texts(value, "outputs")
        if len(asked) != len(given):
            raise BadRecord("wrong_type", f"{len(asked)} questions but {len(given)} answers")
        yield from (_Item(kind, value, number) for number in range(len(asked)))

    def question(self, item: _Item, split: str, notes: Counter[str]) -> Question:
        """The question with whatever context its form brings."""
        record = item.record
        if item.kind in ("original", "simplified", "Hugging Face"):
            found = nq_full.parts(record, item.kind, notes)
        elif item.kind == "gold paragraph":
            found = nq_passages.gold_paragraph(record, self.name)
        elif item.kind == "long document":
            found = nq_passages.long_document(record, item.number)
        elif item.kind == "open domain":
            found = {
                "id": identifier(record, "id"),
                "question": question_text(record, "question"),
                "answers": answers(tuple(dict.fromkeys(texts(record, "golden_answers")))),
            }
        else:  # also what has no form at all: the first missing field is then the reason
            asked = question_text(record, "question")
            accepted = answers(texts(record, "answer"))
            found = {"id": content_id(self.name, asked), "question": asked, "answers": accepted}
        return Question(dataset=self.name, split=split, metric=self.metric, licence=self.licence, **found)

    def row(self, question: Question) -> dict[str, Any]:
        """The row of the schema that `row_kind` names: nq_open, natural_questions, or the fields of the original."""
        kind = self.row_kind(question)
        if kind == "open":
            return {"question": question.question, "answer": list(question.answers)}
        if kind == "named":
            return {"id": question.id, "question": question.question, "golden_answers": list(question.answers)}
        return {"gold": nq_passages.gold_row, "long": nq_passages.long_row, "page": nq_full.row}[kind](question)

    def row_kind(self, question: Question) -> str:
        """open (or named, where open questions have ids), gold, long or page."""
        own_id = question.id != content_id(self.name, question.question)
        return question.source().get("form", "named" if own_id else "open")


def _kind(record: Mapping[str, Any]) -> str:
    """Which form a record has; "" for none."""
    keys = record.keys()
    if {"question", "document", "annotations"} <= keys and isinstance(record["document"], Mapping):
        return "Hugging Face"
    if "question_text" in keys and ("document_tokens" in keys or "document_text" in keys):
        return "original" if "document_tokens" in keys else "simplified"
    if {"question", "answers", "ctxs"} <= keys:
        return "gold paragraph"
    if {"instructions", "outputs", "input"} <= keys:
        return "long document"
    if {"id", "question", "golden_answers"} <= keys:
        return "open domain"
    if {"question", "answer"} == keys and isinstance(record["answer"], list):
        return "NQ-open"
    return ""
