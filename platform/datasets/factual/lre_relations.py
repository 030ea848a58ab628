"""Relations of subject and object with prompt templates (Hernandez et al., arXiv 2308.09124, "LRE"; MIT).

One record is a relation: {name, prompt_templates, prompt_templates_zs, samples: [{subject, object}], ...}. Each sample
is a prompt from the first template; the other templates give its paraphrases. A subject may have several objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data_set import BadRecord
from ..readers.fields import identifier, items_of, texts
from .factual_set import Entry, FactualSet, Unusable, factual
from .records import FactualPrompt, filled


@factual("lre_relations")
class LreRelations(FactualSet):
    """One prompt a sample."""

    title = "LRE relations"
    licence = "MIT"
    expects = "objects with name, prompt_templates and samples of subject and object, one for each relation"

    sample = ({
        "name": "home of", "prompt_templates": ["{} lives in", "The home of {} is"], "properties": {},
        "prompt_templates_zs": ["{} lives in", "Where does {} live? In"],
        "samples": [{"subject": "Ann", "object": "Rome"}, {"subject": "Bob", "object": "Oslo"}],
    },)  # fmt: skip

    def recognise(self, value: Any) -> bool:
        return isinstance(value, Mapping) and "prompt_templates" in value and "samples" in value

    def prompts(self, entries: Sequence[Entry]) -> Iterator[FactualPrompt | Unusable]:
        for where, value in entries:
            try:
                relation, samples = identifier(value, "name"), items_of(value, "samples")
                given = (*texts(value, "prompt_templates"), *texts(value, "prompt_templates_zs"))
                templates = tuple(dict.fromkeys(given))
                if not templates:
                    raise BadRecord("bad_template", f"relation {relation!r} has no template")
            except BadRecord as bad:
                yield Unusable(where, bad)
                continue
            for number, sample in enumerate(samples):
                try:
                    yield self._prompt(relation, number, sample, templates)
                except BadRecord as bad:
                    yield Unusable(f"{where}, sample {number + 1}", bad)

    def _prompt(self, relation: str, number: int, sample: Any, templates: Sequence[str]) -> FactualPrompt:
        subject = identifier(sample, "subject")
        return self.fact(
            f"{relation}/{number}",
            filled(templates[0], "{}", subject),
            subject,
            identifier(sample, "object"),
            relation=relation,
            paraphrases=tuple(filled(template, "{}", subject)[0] for template in templates[1:]),
        )
