"""TriviaQA: questions without a context, with every accepted name of the answer.

Reads the official 1.0 files, Hugging Face's snake-case rows, and open-domain records {id, question, golden_answers}.
`answers` are the readable aliases, chosen so that the set of their normalised forms is exactly what the official
metric compares with: an alias it would not accept is left out, a normalised one without a readable form is kept as is.
Evidence documents are not read: the questions are queries. Those of which the first Wikipedia page is the same are a
group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ...scoring.metrics.triviaqa import normalise_trivia
from ..data_set import DataSet, HubCopy, LookAlike, Sample, dataset, first_object
from ..records import Question
from .fields import answers, bad_as_last, field, identifier, items_of, question_text, texts

# Other open-domain sets are passed around in the same three fields; only the name tells them apart.
_OTHER_SET = re.compile(
    r"(?<![a-z0-9])(nq|natural[-_ ]?questions|popqa|web[-_ ]?q[a-z]*|hotpot[a-z]*|musique|2wiki[a-z]*|squad|bamboogle)"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)


class _Item(NamedTuple):
    record: Any
    split: str


class _Names(NamedTuple):
    """The field names of one schema: of a question, and of its answer object."""

    id: str
    question: str
    answer: str
    value: str
    aliases: str
    normalised: str
    human: str
    pages: str
    title: str


_OFFICIAL = _Names(
    "QuestionId", "Question", "Answer", "Value", "Aliases", "NormalizedAliases", "HumanAnswers", "EntityPages", "Title"
)
_SNAKE = _Names(
    "question_id",
    "question",
    "answer",
    "value",
    "aliases",
    "normalized_aliases",
    "human_answers",
    "entity_pages",
    "title",
)


@dataset("triviaqa")
class TriviaQA(DataSet):
    """TriviaQA in the official, the Hugging Face and the open-domain schema."""

    title = "TriviaQA"
    metric = "triviaqa"
    licence = "Apache-2.0"
    categories = ("query_dataset",)
    annotated_supports = False
    hub_copies = (HubCopy("mandarjoshi/trivia_qa", "rc.nocontext", "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f"),)
    expects = (
        "Data[] of QuestionId, Question, Answer; or question_id, question, answer; or id, question, golden_answers"
    )
    path_hint = re.compile("trivia", re.IGNORECASE)
    remarks = {"no_answer": "the test files of TriviaQA have no answers"}
    sample = Sample(
        rows=[{
            "question_id": "t1", "question": "Which city?", "question_source": "", "entity_pages": {"title": []},
            "search_results": {"title": []},
            "answer": {
                "value": "Rome", "aliases": ["Roma", "Rome."], "normalized_aliases": ["rome", "roma", "urbs"],
                "normalized_value": "rome",
            },
        }],
        original=[{
            "Data": [{
                "QuestionId": "t1", "Question": "Which city?",
                "Answer": {
                    "Value": "Rome", "Aliases": ["Roma", "Rome."], "NormalizedAliases": ["rome", "roma", "urbs"]
                },
            }],
            "Domain": "Wikipedia", "Split": "dev", "VerifiedEval": False, "Version": 1.0,
        }],
        suffix=".json",
    )  # fmt: skip

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        """By the answer object; the open-domain fields are shared with other sets, there the path may say no."""
        first = first_object(sample)
        if isinstance(first.get("Data"), list):
            first = next((datum for datum in first["Data"] if isinstance(datum, Mapping)), {})
        if {"QuestionId", "Question"} <= first.keys():
            return "official"
        answer = first.get("answer")
        if {"question_id", "question"} <= first.keys() and isinstance(answer, Mapping):
            return "Hugging Face" if {"aliases", "normalized_aliases"} & answer.keys() else None
        if {"id", "question", "golden_answers"} <= first.keys():
            other = _OTHER_SET.search(path.as_posix())
            if other and not self.path_hint.search(path.as_posix()):
                raise LookAlike(f"has open-domain questions, but its name says {other[0]!r}, not TriviaQA")
            return "open domain"
        return None

    @bad_as_last
    def items(self, value: Any) -> Iterator[_Item]:
        """One item for each element of an official file, or the value itself."""
        if isinstance(value, Mapping) and "Data" in value:
            split = value.get("Split")
            for datum in items_of(value, "Data"):
                yield _Item(datum, split if isinstance(split, str) else "")
        else:
            yield _Item(value, "")

    def question(self, item: _Item, split: str, notes: Counter[str]) -> Question:
        """The question with its accepted answers."""
        record = item.record
        schema = next((names for names in (_OFFICIAL, _SNAKE) if names.id in first_object([record])), None)
        if schema is not None:
            question_id, question = identifier(record, schema.id), question_text(record, schema.question)
            accepted, group = _accepted(field(record, schema.answer), schema), _page(record, schema)
        else:
            question_id, question = identifier(record, "id"), question_text(record, "question")
            accepted = tuple(dict.fromkeys(texts(record, "golden_answers")))
            prefix, group = question_id.partition("_")[0], ""
            split = prefix if prefix in ("train", "dev", "test") else split
        return self.asked(question_id, item.split or split, question, answers=answers(accepted), group=group)

    def row(self, question: Question) -> dict[str, Any]:
        """question, question_id, and the answer object with its aliases; of evidence documents one title, or none."""
        first, *_ = question.answers
        return {
            "question": question.question,
            "question_id": question.id,
            "question_source": "",
            "entity_pages": {
                name: ([question.group if name == "title" else ""] if question.group else [])
                for name in ("doc_source", "filename", "title", "wiki_context")
            },
            "search_results": {
                name: [] for name in ("description", "filename", "rank", "title", "url", "search_context")
            },
            "answer": {
                "value": first,
                "aliases": list(question.answers),
                "normalized_aliases": list(dict.fromkeys(normalise_trivia(answer) for answer in question.answers)),
                "matched_wiki_entity_name": "",
                "normalized_matched_wiki_entity_name": "",
                "normalized_value": normalise_trivia(first),
                "type": "",
            },
        }


def _page(record: Mapping[str, Any], names: _Names) -> str:
    """The title of the first page, which several questions may share; "" where a record has none."""
    pages = record.get(names.pages)
    titles: Any = pages.get(names.title) if isinstance(pages, Mapping) else pages
    first = titles[0] if isinstance(titles, list) and titles else ""
    title = first.get(names.title) if isinstance(first, Mapping) else first
    return title if isinstance(title, str) else ""


def _accepted(answer: Any, names: _Names) -> tuple[str, ...]:
    """Readable texts whose normalised forms are those of the normalised aliases and the human answers."""
    normalised = texts(answer, names.normalised)
    human = texts(answer, names.human) if answer.get(names.human) else ()
    value = answer.get(names.value)
    readable = (value,) if isinstance(value, str) else ()
    readable += texts(answer, names.aliases) if answer.get(names.aliases) else ()
    wanted = {normalise_trivia(name) for name in (*normalised, *human)}
    chosen = [name for name in readable if normalise_trivia(name) in wanted]
    covered = {normalise_trivia(name) for name in chosen}
    for name in (*human, *normalised):
        if normalise_trivia(name) not in covered:
            covered.add(normalise_trivia(name))
            chosen.append(name)
    return tuple(dict.fromkeys(chosen))
