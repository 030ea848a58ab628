"""Where contrasts come from: pairs in a file, two subsets of a questions file by a column, the facts world, and the
answers of an evaluation.

    pairs.jsonl:  {"positive": "The film was a delight.", "negative": "The film was a bore.", "group": "film"}
    columns:      category=two_hop against category=simple_recall
    facts world:  the text that states the answer against the same text without it
    items.parquet of `mplat eval`:  em=1 against em=0, the answers of the model without steering
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ...core.errors import InputError, UsageError, suggest
from ...datasets.records import Question
from .contrast import Contrast, Span, Text

if TYPE_CHECKING:
    from ...models import LanguageModel

PAIRS_FORM = (
    'a file of contrast pairs is .jsonl with {"positive": text, "negative": text} in every line and, where wanted, '
    '"group" (held out together) and "evidence" (words that stand in both texts)'
)
_KEYS = ("positive", "negative", "group", "evidence")
STREAM = "vectors"
"""Names the draw of facts-world questions: none of them is asked by `mplat eval` or `mplat interp`."""


class Condition(NamedTuple):
    """`category=two_hop`: rows whose column has this value."""

    column: str
    value: str

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has the value; 1 is 1.0, true is 1, and null has the value "none"."""
        found = row.get(self.column)
        if found is None:
            return self.value.lower() == "none"
        try:
            return float(found) == float(self.value)
        except (TypeError, ValueError):
            return str(found) == self.value or str(found).lower() == self.value.lower() == "true"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`COLUMN=VALUE`; UsageError for anything else."""
        column, equals, value = (part.strip() for part in text.partition("="))
        if not column or not equals or not value:
            raise UsageError(f"{text!r} names no rows; write COLUMN=VALUE, such as category=two_hop")
        return cls(column, value)


def read_pairs(path: str | Path) -> Contrast:
    """The pairs of a file. Raises InputError, with the line, for one that is not as PAIRS_FORM says."""
    from ...datasets.prompting.asked_before import question_digest
    from ...datasets.sources.own_files import check_kind, rows

    path = Path(path)
    if check_kind(path, PAIRS_FORM) not in (".jsonl", ".ndjson", ".json"):
        raise InputError(f"{path}: {PAIRS_FORM}")
    positive: list[Text] = []
    negative: list[Text] = []
    for entry in rows(path):
        where = f"{path}, {entry.where}"
        row: Any = entry.value
        if entry.problem or not isinstance(row, dict):
            raise InputError(f"{where}: cannot be read ({entry.problem or 'no object'}); {PAIRS_FORM}")
        fields = cast("dict[str, Any]", row)
        for name, value in fields.items():
            if name not in _KEYS:
                raise InputError(f"{where}: unknown field {name!r}; {suggest(name, _KEYS)}")
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{where}: {name!r} must be a text that is not blank; {PAIRS_FORM}")
        if "positive" not in fields or "negative" not in fields:
            raise InputError(f"{where}: lacks 'positive' or 'negative'; {PAIRS_FORM}")
        group = fields.get("group", entry.where)
        for label, texts in (("positive", positive), ("negative", negative)):
            text = fields[label]
            spans = _spans(text, [fields["evidence"]] if "evidence" in fields else [])
            if "evidence" in fields and not spans:
                raise InputError(
                    f"{where}: the evidence {fields['evidence']!r} is not in the {label} text word for word"
                )
            asked = question_digest(Question("", "own", "", "", prompt=text))
            texts.append(Text(text, group, spans, asked))
    return Contrast(tuple(positive), tuple(negative), True, str(path))


def of_columns(
    model: LanguageModel, path: str | Path, positive: str, negative: str, *, max_tokens: int | None = None
) -> Contrast:
    """Two subsets of a questions file (`mplat classify`, `mplat prompts`, own prompts), such as "category=two_hop" and
    "category=simple_recall", as the prompts that `model` would read. Every column that the file has can be named.

    Raises UsageError for a condition or column that is none, InputError for a file that is not readable as questions,
    and as `Contrast`.
    """
    from ...datasets.readers.own_prompts import read_questions

    questions = read_questions(path)
    return _of_rows(model, questions, [_row(q) for q in questions], positive, negative, str(path), max_tokens)


def of_answers(path: str | Path, positive: str, negative: str, *, condition: str = "unsteered") -> Contrast:
    """Two subsets of the answers of an evaluation, such as "em=1" and "em=0": what the model was asked where it was
    right and where it was not. path: its items.parquet, beside which prompts.parquet lies. condition: of the run.

    Raises UsageError for a condition or column that is none, InputError for files that are no evaluation's, and as
    `Contrast`.
    """
    from ...core.whole_files import read_table

    path = Path(path)
    items: list[dict[str, Any]] = read_table(path).to_pylist()
    beside = path.with_name("prompts.parquet")
    texts = {row["prompt_digest"]: row["text"] for row in read_table(beside).to_pylist()}
    conditions = {str(item["condition"]) for item in items}
    if condition not in conditions:
        raise UsageError(f"{path}: there is no condition {condition!r}; {suggest(condition, conditions)}")
    chosen = [item for item in items if item["condition"] == condition and item["status"] == "ok"]
    if any(item["prompt_digest"] not in texts for item in chosen):
        raise InputError(f"{beside}: lacks prompts that {path.name} names; both must be of one run")
    from ...datasets.prompting.asked_before import question_digest

    def text(item: Mapping[str, Any]) -> Text:
        said = str(texts[item["prompt_digest"]])
        group = item["group"] or item["derived_from"] or item["question_id"]
        return Text(said, str(group), asked=question_digest(Question("", "own", "", "", prompt=said)))

    first, second = (Condition.parse(part) for part in (positive, negative))
    _check_columns((first, second), chosen, str(path))
    sets = [tuple(text(item) for item in chosen if one.holds(item)) for one in (first, second)]
    return Contrast(sets[0], sets[1], False, f"{path}: {positive} against {negative}, {condition}")


def of_facts(
    model: LanguageModel, *, per_level: int = 20, seed: int = 0, control: str = "deleted", max_tokens: int | None = None
) -> Contrast:
    """Questions of the facts world whose text states the answer, against the same without it: their `control` of that
    kind (`datasets.facts.control_names`). A question that has no such control is left out. Texts whose evidence is
    deleted are shorter, which a direction may pick up as well; those of absent_entity state as many facts.

    Raises UsageError as `datasets.facts.prompts`, and as `Contrast`.
    """
    from ...datasets import facts

    made = facts.prompts(per_level, seed, controls=[control], stream=STREAM)
    controls = {q.derived_from: q for q in made if q.control}
    pairs = [(q, controls[q.id]) for q in made if not q.control and q.id in controls]
    positive: list[Text] = []
    negative: list[Text] = []
    left_out: list[str] = []
    for pair in pairs:
        found = [_text(model, q, max_tokens) for q in pair]
        if isinstance(found[0], Text) and isinstance(found[1], Text):
            positive.append(found[0])
            negative.append(found[1])
        else:
            left_out.append(next(why for why in found if isinstance(why, str)))
    source = f"facts world, {per_level} a level, seed {seed}: answerable against {control}"
    return Contrast(tuple(positive), tuple(negative), True, source, tuple(left_out))


def _of_rows(
    model: LanguageModel,
    questions: Sequence[Question],
    rows: Sequence[Mapping[str, Any]],
    positive: str,
    negative: str,
    source: str,
    max_tokens: int | None,
) -> Contrast:
    first, second = Condition.parse(positive), Condition.parse(negative)
    _check_columns((first, second), rows, source)
    left_out: list[str] = []
    sets: list[tuple[Text, ...]] = []
    for condition in (first, second):
        found = [_text(model, q, max_tokens) for q, row in zip(questions, rows, strict=True) if condition.holds(row)]
        left_out += [why for why in found if isinstance(why, str)]
        sets.append(tuple(text for text in found if isinstance(text, Text)))
    said = f"{source}: {positive} against {negative}"
    return Contrast(sets[0], sets[1], False, said, tuple(left_out))


def _row(question: Question) -> dict[str, Any]:
    """The plain columns of a question, and those of its own that are kept beside them."""
    plain = {name: value for name, value in vars(question).items() if isinstance(value, str | int | float | None)}
    own = {name: value for name, value in question.source().items() if isinstance(value, str | int | float | None)}
    return {**own, **plain}


def _check_columns(conditions: Iterable[Condition], rows: Sequence[Mapping[str, Any]], source: str) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    for condition in conditions:
        if condition.column not in columns:
            near = suggest(condition.column, columns, limit=40)
            raise UsageError(f"{source}: there is no column {condition.column!r}; {near}")


def _text(model: LanguageModel, question: Question, max_tokens: int | None) -> Text | str:
    """The prompt that the model would read, or why there is none."""
    from ...datasets.prompting.asked_before import question_digest
    from ...datasets.prompting.prompts import render
    from ...datasets.prompting.truncation import MAX_PROMPT_TOKENS
    from ...models.decoding.text import encode_text

    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the questions; name one with --tokenizer")
    prompt = render(question, partial(encode_text, model.tokenizer), max_tokens or MAX_PROMPT_TOKENS)
    if prompt.status != "ok":
        return f"question {question.id!r}: {prompt.reason}"
    return Text(prompt.text, question.origin, tuple(prompt.evidence), question_digest(question))


def _spans(text: str, pieces: Iterable[str]) -> tuple[Span, ...]:
    starts = [(text.rfind(piece), len(piece)) for piece in pieces]
    return tuple((start, start + length) for start, length in starts if start >= 0)
