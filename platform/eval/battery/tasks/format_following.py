"""Following a format: an instruction about the form of the answer, which a program checks.

Each prompt has one worked example of the same instruction with another topic and value. What the answer says is not
judged, only whether it keeps the rule (`scoring.metrics.checkable_rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ....datasets.records import Question
from ..task import Task, task

TOPICS = ("a garden", "the rain", "a long road", "an old house", "the moon", "a market", "a small boat", "the winter")


class Form(NamedTuple):
    """rule: the name of the checkable rule. says: the instruction. values: what the rule may ask for, the first in the
    worked example alone; () for a rule without a value. example: what keeps the rule about the sea."""

    rule: str
    says: str
    values: tuple[str, ...]
    example: str


FORMS = (
    Form("words", "Write exactly {value} words about {topic}.", ("2", "3", "4", "5"), "Blue waves"),
    Form("items", "Name {value} things about {topic}, with commas between them.", ("2", "3", "4"), "fish, salt"),
    Form("upper", "Write one word about {topic} in capital letters.", (), "WAVES"),
    Form("lower", "Write one word about {topic} in small letters.", (), "waves"),
    Form("number", "How many words does a good poem about {topic} have? Write a number in digits.", (), "40"),
    Form("quoted", "Write a title for a story about {topic} in double quotes.", (), '"The Waves"'),
    Form(
        "starts_with",
        "Write a sentence about {topic} that begins with the word {value}.",
        ("Here", "Now", "Once", "We"),
        "Here are waves.",
    ),
    Form(
        "ends_with",
        "Write a sentence about {topic} that ends with the word {value}.",
        ("far", "again", "now", "here"),
        "It goes far.",
    ),
    Form(
        "contains",
        "Write a sentence about {topic} with the word {value} in it.",
        ("deep", "old", "never", "with"),
        "It is deep and cold.",
    ),
    Form("without", "Write a sentence about {topic} without the letter {value}.", ("z", "e", "a", "o"), "It is wide."),
    Form(
        "json",
        "Write a JSON object about {topic} with the key {value}.",
        ("size", "name", "kind", "place"),
        '{"size": "large"}',
    ),
)


@task("format_following")
class FormatFollowing(Task):
    """Categories: format_words, format_upper and so on, one for each rule."""

    asks = "answers of a form that an instruction names"
    max_new_tokens = 24

    def questions(self, count: int, seed: int, file: Path | None = None) -> Sequence[Question]:
        """With topics and values drawn anew for each."""
        return [self._question(form, number, seed) for form in FORMS for number in range(count)]

    def _question(self, form: Form, number: int, seed: int) -> Question:
        rng = self.rng(seed, form.rule, number)
        topic, value = rng.choice(TOPICS), rng.choice(form.values[1:]) if form.values else ""
        asked = form.says.format(topic=topic, value=value)
        return Question(
            id=f"{form.rule}-{number:04d}",
            dataset="",
            split="eval",
            question=asked,
            answers=(f"{form.rule} {value}".strip(),),
            metric="checkable_rules",
            category=f"format_{form.rule}",
            prompt=f"{worked(form)}Q: {asked}\nA:",
        )


def worked(form: Form) -> str:
    """The worked example of a form, with its line end."""
    asked = form.says.format(topic="the sea", value=form.values[0] if form.values else "")
    return f"Q: {asked}\nA: {form.example}\n"
