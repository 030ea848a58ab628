"""CounterFact: facts with a counterfactual object, paraphrases and neighbours (Meng et al., arXiv 2202.05262; MIT).

Reads the original nesting (requested_rewrite, paraphrase_prompts, neighborhood_prompts) and the flat form of EasyEdit
(prompt, subject, ground_truth, target_new, rephrase_prompt, locality_prompt), which leaves out the relation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..readers.fields import field, identifier, text, texts
from .factual_set import FactualSet, factual
from .records import FactualPrompt, filled, found_in


@factual("counterfact")
class CounterFact(FactualSet):
    """One prompt a record; `other_answer` is the counterfactual object."""

    title = "CounterFact"
    licence = "MIT"
    expects = "objects with case_id and requested_rewrite, or with case_id, prompt, subject, ground_truth, target_new"

    sample = (
        {
            "case_id": 3, "pararel_idx": 1, "paraphrase_prompts": ["Ann lives in"],
            "neighborhood_prompts": ["Bob lives in"],
            "requested_rewrite": {
                "prompt": "The home of {} is in", "relation_id": "P19", "subject": "Ann",
                "target_new": {"str": "Oslo", "id": "Q1"}, "target_true": {"str": "Rome", "id": "Q2"},
            },
        },
        {
            "case_id": 4, "prompt": "The home of Ann is in", "subject": "Ann", "ground_truth": "Rome",
            "target_new": "Oslo", "rephrase_prompt": "Ann lives in", "locality_prompt": "Bob lives in",
            "locality_ground_truth": "Rome",
        },
    )  # fmt: skip

    def recognise(self, value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and "case_id" in value
            and ("requested_rewrite" in value or "target_new" in value)
        )

    def prompt(self, value: Any) -> FactualPrompt:
        return self._nested(value) if "requested_rewrite" in value else self._flat(value)

    def _nested(self, value: Any) -> FactualPrompt:
        asked = field(value, "requested_rewrite")
        subject = identifier(asked, "subject")
        prompt = filled(text(asked, "prompt"), "{}", subject)
        return self.fact(
            str(field(value, "case_id")),
            prompt,
            subject,
            identifier(field(asked, "target_true"), "str").strip(),
            relation=text(asked, "relation_id"),
            other_answer=identifier(field(asked, "target_new"), "str").strip(),
            paraphrases=texts(value, "paraphrase_prompts"),
            neighbours=texts(value, "neighborhood_prompts"),
        )

    def _flat(self, value: Any) -> FactualPrompt:
        subject, prompt = identifier(value, "subject"), identifier(value, "prompt")
        return self.fact(
            str(field(value, "case_id")),
            (prompt, found_in(prompt, subject)),
            subject,
            identifier(value, "ground_truth").strip(),
            other_answer=identifier(value, "target_new").strip(),
            paraphrases=(text(value, "rephrase_prompt"),),
            neighbours=(text(value, "locality_prompt"),),
        )
