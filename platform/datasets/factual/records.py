"""The one record type that every set of factual prompts is read into."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError
from ..data_set import BadRecord


@dataclass(frozen=True)
class FactualPrompt:
    """A text that ends where `answer` should follow, and where in it the subject of the fact stands.

    id: unique within `dataset`. subject_span: characters [start, end) of `prompt` that are `subject`. answer: without
    the space before it. relation: id or name as in the data set, "" where it names none. other_answer: an object of the
    same kind that is false (CounterFact's new target), or None. paraphrases: other prompts with the same answer.
    neighbours: prompts about other subjects with the same relation and answer. licence: of the data.
    """

    id: str
    dataset: str
    prompt: str
    subject: str
    subject_span: tuple[int, int]
    answer: str
    relation: str = ""
    other_answer: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    licence: str = ""

    def __post_init__(self) -> None:
        start, end = self.subject_span
        if not 0 <= start < end or self.prompt[start:end] != self.subject:
            raise BadRecord("subject_not_in_prompt", f"{self.subject!r} is not at characters {start} to {end}")
        for name in ("id", "dataset", "answer"):
            if not getattr(self, name).strip():
                raise BadRecord("missing_field", f"{name!r} is blank")

    def with_subject(self, subject: str) -> FactualPrompt:
        """The same prompt about another subject; its answer is then no longer true."""
        start, end = self.subject_span
        text = self.prompt[:start] + subject + self.prompt[end:]
        return dataclasses.replace(self, prompt=text, subject=subject, subject_span=(start, start + len(subject)))

    def to_json(self) -> dict[str, Any]:
        """As a worker receives it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FactualPrompt:
        """The inverse of `to_json`. Raises InputError for fields that are missing or of another form."""
        try:
            lists = {k: tuple(value[k]) for k in ("subject_span", "paraphrases", "neighbours")}
            return cls(**{**value, **lists})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a factual prompt as `to_json` writes it: {error}") from error


def filled(template: str, slot: str, subject: str) -> tuple[str, tuple[int, int]]:
    """A template with the subject in its one slot, and where that stands. Raises BadRecord for another number of slots.

    Not `str.format`: subjects and templates of real data hold braces and percent signs of their own.
    """
    if template.count(slot) != 1:
        raise BadRecord("bad_template", f"{template!r} has {template.count(slot)} places {slot} for the subject, not 1")
    start = template.index(slot)
    return template.replace(slot, subject), (start, start + len(subject))


def found_in(prompt: str, subject: str) -> tuple[int, int]:
    """Where `subject` stands in `prompt`: first as whole words, else anywhere. Raises BadRecord where it does not."""
    whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    start = whole.start() if whole else prompt.find(subject)
    if start < 0 or not subject:
        raise BadRecord("subject_not_in_prompt", f"{subject!r} is not in {prompt!r}")
    return start, start + len(subject)
