"""A contrast: positive texts and negative ones, which a direction is to separate. Where they come from is said in
`contrast_sources`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ...core.errors import InputError

Span = tuple[int, int]


@dataclass(frozen=True)
class Text:
    """A text as the model reads it. group: texts of one group are held out together. evidence: where the statements
    stand that it turns on, in characters (start, stop). asked: digest of the question it is, for who must not judge by
    questions that were used here (`datasets.prompting.asked_before`)."""

    text: str
    group: str
    evidence: tuple[Span, ...] = ()
    asked: str = ""


@dataclass(frozen=True)
class Contrast:
    """Positive and negative texts. paired: text i of both belongs together. source: where they come from, in words;
    left_out: what could not be used, a reason each.

    Raises InputError where either set is empty, a text is in both, or pairs are not two of a kind."""

    positive: tuple[Text, ...]
    negative: tuple[Text, ...]
    paired: bool
    source: str
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for label, texts in (("positive", self.positive), ("negative", self.negative)):
            if not texts:
                why = f"; the first left out: {self.left_out[0]}" if self.left_out else ""
                raise InputError(f"{self.source}: there is no {label} text{why}")
        both = {text.text for text in self.positive} & {text.text for text in self.negative}
        if both:
            raise InputError(f"{self.source}: a text is positive and negative at once: {min(both)[:60]!r}")
        if self.paired and len(self.positive) != len(self.negative):
            raise InputError(f"{self.source}: {len(self.positive)} positive and {len(self.negative)} negative texts "
                             "are no pairs")  # fmt: skip

    @property
    def digest(self) -> str:
        """sha256 of all texts with their labels, groups and evidence, in their order."""
        sets = (self.positive, self.negative)
        said = [[[t.text, t.group, [list(span) for span in t.evidence]] for t in texts] for texts in sets]
        content = json.dumps([said, self.paired], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def decided_on(self) -> tuple[str, ...]:
        """The digests of the questions that the texts are, sorted, each once."""
        return tuple(sorted({t.asked for t in (*self.positive, *self.negative) if t.asked}))
