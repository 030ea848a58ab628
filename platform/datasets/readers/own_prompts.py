"""Questions from a file of the user's own: tables of questions, or prompts in whatever way they were written down.

    capital.jsonl:  {"prompt": "The capital of France is", "answers": ["Paris"], "category": "geography"}

`read_questions` takes a .parquet that `mplat classify` or `mplat prompts` wrote, or a file of prompts as FORM says. A
prompt is given to models exactly as it stands. Prompts of one `group` have something in common: they fall on one side
of a split, and intervals and tests take the group as one. `evidence` is the part of the prompt that holds the answer,
`subject` what the prompt is about (`mplat trace` corrupts it). Other fields are kept in `Question.source_fields`.

Nothing is passed over or converted: the first record that is not as FORM says is an InputError with its place.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from ...core.errors import InputError
from ...core.json_files import strict
from ..data_set import LookAlike, get, names
from ..reading import content_id, numbered
from ..records import Question, from_table, source_fields
from ..sources.files import Value
from ..sources.own_files import DELIMITERS, TEXT, check_kind, kind, rows, whole_text

OWN = "own"
METRIC = "squad_v1"
_TEXTS = ("id", "category", "group", "subject")
_LISTS = ("answers", "evidence")
FIELDS = ("prompt", *_LISTS, *_TEXTS)
FORM = (
    "a file of prompts is .txt with one prompt a line, or .jsonl, .json, .csv, .tsv or .parquet with a `prompt` in "
    "every record and, where known, `answers` and `evidence` (each a text or a list of texts), `category`, `group`, "
    "`subject` and `id`"
)
_TABLE = frozenset({"id", "dataset", "question", "context"})  # columns that only a table of questions has together


def read_questions(path: Path | str) -> list[Question]:
    """The questions of a file, in its order. Raises InputError for one that holds none or is not as FORM says."""
    path = Path(path)
    if check_kind(path, FORM) == ".parquet":
        from ...core.whole_files import read_table

        table = read_table(path, advice=FORM)
        if set(table.column_names) >= _TABLE:
            return _some(path, from_table(table, source=str(path)))
    seen: Counter[str] = Counter()
    return _some(path, [_question(path, entry, seen) for entry in _entries(path)])


def _some(path: Path, questions: list[Question]) -> list[Question]:
    if not questions:
        raise InputError(
            f"{path}: holds no question; make some with `mplat classify` or `mplat prompts`, or give {FORM}"
        )
    return questions


def _entries(path: Path) -> Iterator[Value]:
    if kind(path) != TEXT:
        yield from rows(path)
        return
    for number, line in enumerate(whole_text(path).split("\n"), 1):
        if line.strip():
            yield Value(f"line {number}", {"prompt": line.removesuffix("\r")})


def _question(path: Path, entry: Value, seen: Counter[str]) -> Question:
    where = f"{path}, {entry.where}"
    if entry.problem:
        raise InputError(f"{where}: cannot be read ({entry.problem}); {FORM}")
    record = entry.value
    if not isinstance(record, Mapping) or "prompt" not in record:
        has = ", ".join(map(repr, list(record)[:8])) if isinstance(record, Mapping) else f"a {type(record).__name__}"
        raise InputError(f"{where}: no 'prompt' here, only {has or 'nothing'}{_data_set(path, record)}; {FORM}")
    record = {name: value for name, value in record.items() if value is not None}
    for name in set(record) - set(FIELDS):
        if near := difflib.get_close_matches(str(name), FIELDS, n=1, cutoff=0.8):
            raise InputError(f"{where}: unknown field {name!r}, did you mean {near[0]!r}? {FORM}")
    prompt = _text(where, "prompt", record.get("prompt"))
    texts = {name: _text(where, name, record[name]) for name in _TEXTS if name in record}
    lists = {name: _texts(where, name, record[name], kind(path) in DELIMITERS) for name in _LISTS if name in record}
    for piece in (*lists.get("evidence", ()), *((texts["subject"],) if "subject" in texts else ())):
        if piece not in prompt:
            raise InputError(f"{where}: {piece!r} is not in the prompt word for word, as evidence and subject must be")
    more = {str(name): value for name, value in record.items() if name not in FIELDS}
    try:
        kept = source_fields(evidence=list(lists.get("evidence", ())), subject=texts.get("subject", ""), **more)
    except TypeError as error:
        raise InputError(f"{where}: a field holds what JSON cannot ({error}); leave it out") from error
    return Question(
        id=texts.get("id") or numbered(content_id(OWN, prompt), seen),
        dataset=OWN,
        split="",
        question="",
        answers=lists.get("answers", ()),
        metric=METRIC,
        source_fields=kept,
        category=texts.get("category", ""),
        group=texts.get("group", ""),
        evidence_distance=tuple(len(prompt[prompt.rindex(e) + len(e) :].split()) for e in lists.get("evidence", ())),
        prompt=prompt,
    )


def evidence_in(question: Question) -> tuple[str, ...]:
    """The `evidence` of a prompt of one's own, word for word as it stands there; none of other questions."""
    return tuple(question.source().get("evidence", ())) if question.dataset == OWN else ()


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is {_shown(value)} and must be a text; write it in quotes")
    if not value.strip():
        raise InputError(f"{where}: {name!r} is blank; {FORM}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: character {error.start} of {name!r} is half a surrogate pair") from error
    return value


def _texts(where: str, name: str, value: Any, in_cell: bool) -> tuple[str, ...]:
    """One text or a list of them; in a cell of a delimited file a list is written as in JSON."""
    if in_cell and isinstance(value, str) and value.startswith("["):
        try:
            value = strict(value)
        except ValueError:
            pass  # a text that begins with a bracket
    return tuple(_text(where, name, one) for one in (value if isinstance(value, list) else [value]))


def _shown(value: Any) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"


def _data_set(path: Path, record: Any) -> str:
    """A clause for a file that is not one's own but a known data set's."""
    for name in names():
        try:
            known = get(name).recognise([record], PurePath(path.name)) is not None
        except LookAlike:
            continue
        if known:
            return f"; this is a file of {get(name).title}, of which `mplat classify --datasets {name}` makes questions"
    return ""
