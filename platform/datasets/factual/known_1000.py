"""known_1000: facts that GPT-2 XL completes correctly (Meng et al., arXiv 2202.05262; MIT), 1,209 in the original file.

One record is {known_id, subject, attribute, template, prediction, prompt, relation_id}. The prompt is the template with
the subject in it, sometimes a few words longer; " " + attribute continues it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..readers.fields import field, identifier, text
from .factual_set import FactualSet, factual
from .records import FactualPrompt, filled, found_in


@factual("known_1000")
class Known1000(FactualSet):
    """One prompt a record."""

    title = "known_1000"
    licence = "MIT"
    expects = "a list of objects with known_id, subject, attribute, template and prompt"

    sample = ({
        "known_id": 7, "subject": "{Ab} 100%", "attribute": "Rome", "template": "{} lies in", "prediction": " Rome.",
        "prompt": "{Ab} 100% lies in the city of", "relation_id": "P17",
    },)  # fmt: skip

    def recognise(self, value: Any) -> bool:
        return isinstance(value, Mapping) and "known_id" in value and "attribute" in value

    def prompt(self, value: Any) -> FactualPrompt:
        subject, prompt = identifier(value, "subject"), identifier(value, "prompt")
        start, span = filled(text(value, "template"), "{}", subject)
        if not prompt.startswith(start.rstrip()):  # the prompt counts; its template may be worded otherwise
            span = found_in(prompt, subject)
        return self.fact(
            str(field(value, "known_id")),
            (prompt, span),
            subject,
            identifier(value, "attribute"),
            relation=text(value, "relation_id"),
        )
