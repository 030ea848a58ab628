"""Prompts of one length: questions and factual prompts with filler put into them, each in the tokens of a model.

Filler stands in front of all that a prompt tells, behind the instructions of a template; or between the statement of
the answer (of factual prompts: the subject) and the question, at the first end of a line behind it. Of the facts world
it is further facts of it; of other sets what their other prompts tell (`datasets.prompting.filler`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from ...core.errors import InputError
from ...datasets.facts.names import entities
from ...datasets.facts.prompts import draw
from ...datasets.prompting.filler import Filled, Filler, told
from ...models.decoding.text import encode_text
from ..methods.evidence import stated_at
from .step import Excluded

if TYPE_CHECKING:
    from ...datasets.factual import FactualPrompt
    from ...datasets.prompting.prompts import Prompt
    from ...datasets.prompting.template import Template
    from ...datasets.records import Question
    from ...models.decoding.text import Encoded

Where = Literal["front", "between"]
Read = Callable[[str], "Encoded"]
UNBOUNDED = 2**31  # tokens: a prompt that is to have a length is not cut before
_WORLDS = ("facts", "facts_world")  # data sets of the generated world
_PER_LEVEL = 100  # questions of each level whose facts are filler: about 28,000 tokens


class Length(NamedTuple):
    """tokens: of every prompt. where: of the filler."""

    tokens: int
    where: Where = "front"


class Lengthening:
    """Brings the prompts of one kind to a length. Texts are counted in the tokens of `tokenizer`."""

    def __init__(
        self, length: Length, tokenizer: object, prompts: Sequence[Question] | Sequence[FactualPrompt]
    ) -> None:
        self._length = length
        read: Read = partial(encode_text, tokenizer)  # type: ignore[arg-type]
        worlds = {split for prompt in prompts if (split := _world(prompt)) is not None}
        self._of_world = {split: _world_filler(split, read) for split in sorted(worlds)}
        mark = _mark(read)
        others = [prompt for prompt in prompts if _world(prompt) is None]
        self._of_others = Filler((s for prompt in others for s in _tells(prompt, mark)), read)

    def question(self, question: Question, prompt: Prompt, template: Template | None) -> Prompt | Excluded:
        """`prompt` of `question`, rendered with `template`, with filler."""
        at = _front(question, template) if self._length.where == "front" else _behind_statement(question, prompt)
        if at is None:
            return Excluded(question.id, "no_place", "no line ends between a statement of the answer and the question")
        filled = self._bring(question, prompt.text, at, question.answers)
        if filled.encoded is None:
            return Excluded(question.id, filled.status, filled.reason)
        evidence = tuple(_moved(span, at, filled.added) for span in prompt.evidence)
        encoded = filled.encoded
        return prompt._replace(tokens=list(encoded.ids), text=encoded.text, encoded=encoded, evidence=evidence)

    def fact(self, prompt: FactualPrompt) -> FactualPrompt | Excluded:
        """`prompt` with filler."""
        behind = prompt.prompt.find("\n", prompt.subject_span[1])
        at = 0 if self._length.where == "front" else behind
        if at < 0:
            return Excluded(prompt.id, "no_place", "no line ends between the subject and the end of the prompt")
        filled = self._bring(prompt, prompt.prompt, at, [prompt.answer])
        if filled.encoded is None:
            return Excluded(prompt.id, filled.status, filled.reason)
        span = _moved(prompt.subject_span, at, filled.added)
        return dataclasses.replace(prompt, prompt=filled.encoded.text, subject_span=span)

    def _bring(self, prompt: Question | FactualPrompt, text: str, at: int, answers: Sequence[str]) -> Filled:
        world = _world(prompt)
        filler = self._of_others if world is None else self._of_world[world]
        return filler.bring(text, at, self._length.tokens, name=prompt.id, answers=answers)


def _world(prompt: Question | FactualPrompt) -> str | None:
    """The split of the generated world that a prompt is of; None for one of another data set."""
    if prompt.dataset not in _WORLDS:
        return None
    split = getattr(prompt, "split", "") or prompt.id.split("-")[1]
    return split if split in ("eval", "train") else None


def _world_filler(split: str, read: Read) -> Filler:
    names = entities(split)
    asked = draw(_PER_LEVEL, 0, split, names, "filler")
    sentences = (stated.sentence for one in asked for stated in one.stated)
    return Filler(sentences, read, {name.strip() for pool in names.values() for name in pool})


def _tells(prompt: Question | FactualPrompt, mark: str) -> Iterator[str]:
    """What a prompt tells without its question."""
    if hasattr(prompt, "subject"):
        yield from told(prompt.prompt or "", prompt.answer, mark)  # type: ignore[union-attr]
    elif prompt.prompt is not None:
        yield from told(prompt.prompt, prompt.answers[0] if prompt.answers else "", mark)  # type: ignore[union-attr]
    else:
        for paragraph in prompt.context:  # type: ignore[union-attr]
            yield from paragraph.sentences


def _mark(read: Read) -> str:
    """What ends a sentence; nothing in a vocabulary that has no word for it."""
    try:
        read(".")
    except InputError:
        return ""
    return "."


def _front(question: Question, template: Template | None) -> int:
    """The character of the rendered prompt before which filler stands."""
    from ...datasets.prompting.templates import template_for

    if question.prompt is not None:
        return 0
    chosen = template or template_for(question.dataset)
    context = chosen.laid_out(question.context).stripped().text
    return len(chosen.head) + (len(chosen.context.partition("{context}")[0].format()) if context else 0)


def _behind_statement(question: Question, prompt: Prompt) -> int | None:
    stated = stated_at(prompt, question.answers[0]) if question.answers else None
    if stated is None or prompt.encoded is None:
        return None
    end = prompt.text.find("\n", prompt.encoded.offsets[stated[1] - 1][1])
    return None if end < 0 else end


def _moved(span: tuple[int, int], at: int, added: int) -> tuple[int, int]:
    return (span[0] + added, span[1] + added) if span[0] >= at else span
