"""ParaRel: T-REx facts and cloze patterns that say the same relation in other words (Elazar et al., arXiv 2102.01017).

Two files belong together: facts {relation_id, sub_label, obj_label, uuid} and patterns {relation_id, pattern}, where
[X] is the subject and [Y] the object. A model that reads from left to right can use those patterns in which [X] stands
before [Y] and nothing but punctuation follows it: a fact's prompt is the first of them, the others are paraphrases. The
facts of two relations (P31, P527) have no pattern at all and are counted under "no_pattern".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data_set import BadRecord
from ..readers.fields import identifier
from .factual_set import Entry, FactualSet, Unusable, factual
from .records import FactualPrompt, filled

SUBJECT, OBJECT = "[X]", "[Y]"


@factual("pararel")
class ParaRel(FactualSet):
    """One prompt a fact."""

    title = "ParaRel"
    licence = "MIT"
    tolerated = frozenset({"no_pattern"})
    expects = "a file of relation_id, sub_label, obj_label, uuid and one of relation_id, pattern"

    sample = (
        {"relation_id": "P19", "sub_label": "Ann", "obj_label": "Rome", "uuid": "a"},
        {"relation_id": "P20", "sub_label": "Bob", "obj_label": "Oslo", "uuid": "b"},
        {"relation_id": "P19", "pattern": "[Y] is the home of [X]."},
        {"relation_id": "P19", "pattern": "[X] lives in [Y] ."},
        {"relation_id": "P19", "pattern": "The home of [X] is [Y]"},
        {"relation_id": "P19", "pattern": "[X] is a [Y]-born person."},
    )

    def recognise(self, value: Any) -> bool:
        return isinstance(value, Mapping) and "relation_id" in value and bool({"sub_label", "pattern"} & set(value))

    def prompts(self, entries: Sequence[Entry]) -> Iterator[FactualPrompt | Unusable]:
        patterns: dict[str, list[str]] = {}
        facts: list[Entry] = []
        for where, value in entries:
            if "pattern" in value:
                try:
                    known = patterns.setdefault(identifier(value, "relation_id"), [])
                    if (start := usable_start(identifier(value, "pattern"))) is not None:
                        known.append(start)
                except BadRecord as bad:
                    yield Unusable(where, bad)
            else:
                facts.append(Entry(where, value))
        for where, value in facts:
            try:
                yield self._prompt(value, patterns)
            except BadRecord as bad:
                yield Unusable(where, bad)

    def _prompt(self, value: Any, patterns: Mapping[str, Sequence[str]]) -> FactualPrompt:
        relation, subject = identifier(value, "relation_id"), identifier(value, "sub_label")
        starts = patterns.get(relation)
        if not starts:
            raise BadRecord("no_pattern", f"no pattern of relation {relation!r} ends with the object; read both files")
        return self.fact(
            identifier(value, "uuid"),
            filled(starts[0], SUBJECT, subject),
            subject,
            identifier(value, "obj_label"),
            relation=relation,
            paraphrases=tuple(dict.fromkeys(filled(start, SUBJECT, subject)[0] for start in starts[1:])),
        )


def usable_start(pattern: str) -> str | None:
    """What stands before the object, where the pattern ends with it; None where it does not.

    Raises BadRecord for a pattern without one subject and one object.
    """
    if pattern.count(SUBJECT) != 1 or pattern.count(OBJECT) != 1:
        raise BadRecord("bad_template", f"{pattern!r} does not have one {SUBJECT} and one {OBJECT}")
    before, after = pattern.split(OBJECT)
    if SUBJECT not in before or after.strip(" .,;:!?"):
        return None
    return before.rstrip()
