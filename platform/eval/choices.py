"""The answer of a question and what stands against it, as texts and as tokens behind its prompt.

Distractors are wrong answers that the question itself offers:

- the facts world: names of the kind that is asked for, such as other places, at most `MOST`. Those that the prompt
  states come first, then others of the world, so that chance is the same on every level;
- a prompt of one's own: the `choices` or `distractors` of its record, a list of texts (or an object with one under
  `text`, as data sets of multiple choice have it), without the accepted answers;
- other data sets offer none.

The answer is the first accepted one; where nothing answers the question, what its prompt asks to write then. What is
scored is the answer with the space before it and the stop string behind it, as the search scores it: with an end, the
probabilities of two answers are those of two different lines, whatever their lengths.

Pure functions of a question; which of several distractors are taken follows from its id alone.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InputError
from ..datasets.facts.names import SPLITS, entities
from ..datasets.prompting.prompts import Prompt
from ..datasets.readers.own_prompts import OWN
from ..datasets.records import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST = 4  # distractors of a question of the facts world
FIELDS = ("distractors", "choices")  # of a record of one's own

NO_ANSWER = "no_answer"  # nothing to score: no accepted answer is known
NO_TOKENS = "no_tokens"  # behind this prompt the answer has no tokens of its own


class Choices(NamedTuple):
    """What is scored behind one prompt. status: ok, or why nothing is. answer: token ids; n_bytes: of its text with
    the space and the end. distractors: token ids of each."""

    status: str
    answer: tuple[int, ...] = ()
    n_bytes: int = 0
    distractors: tuple[tuple[int, ...], ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens are fed: the last one of each is predicted and not read."""
        return sum(len(ids) - 1 for ids in (self.answer, *self.distractors) if ids)

    def fields(self) -> dict[str, Any]:
        """What an item carries of it."""
        return {"choices": [list(ids) for ids in (self.answer, *self.distractors)] if self.answer else []} | {
            "choices_status": self.status,
            "answer_bytes": self.n_bytes,
        }


def distractors(question: Question) -> tuple[str, ...]:
    """The wrong answers that `question` offers. Raises InputError for a record whose choices are no texts."""
    accepted = {answer.strip().casefold() for answer in question.answers}
    if question.dataset == "facts":
        found = _of_the_world(question)
    else:
        found = _of_the_record(question) if question.dataset == OWN else ()
    return tuple(dict.fromkeys(text for text in found if text.casefold() not in accepted))


def choices(
    question: Question, prompt: Prompt, tokenizer: PreTrainedTokenizerFast, stop: str, no_answer: str = ""
) -> Choices:
    """The answer and the distractors of `question` in tokens behind `prompt`, the text that the model reads.

    stop: what ends an answer. no_answer: what the prompt asks for where there is none. A distractor that has no tokens
    of its own behind the prompt is left out. Raises InputError as `distractors`.
    """
    from ..models.decoding.text import encode_behind

    gold = next((answer.strip() for answer in question.answers if answer.strip()), "")
    if not gold and question.answerable is False:
        gold = no_answer.strip()
    if not gold or question.control:
        return Choices(NO_ANSWER)
    if prompt.encoded is None:
        return Choices(NO_TOKENS)
    space = "" if prompt.text[-1:].isspace() else " "
    texts = [space + text + stop for text in (gold, *distractors(question))]
    answer, *others = encode_behind(tokenizer, prompt.encoded, texts)
    if not answer:
        return Choices(NO_TOKENS)
    return Choices("ok", answer, len(texts[0].encode()), tuple(ids for ids in others if ids and ids != answer))


def _of_the_world(question: Question) -> tuple[str, ...]:
    """`MOST` names of the kind of the answer, stated ones first; fewer where the world has not so many."""
    answer = question.answers[0].strip() if question.answers else ""
    names = next((names for names in _names() if answer in names), None)
    if names is None:
        return ()
    asked = f"{question.prompt or question.context_text()}\n{question.question}"
    stated = {name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", asked)}

    def place(name: str) -> tuple[bool, bytes]:
        return name not in stated, hashlib.sha256(f"{question.original}:{name}".encode()).digest()

    return tuple(sorted((name for name in names if name != answer), key=place)[:MOST])


@cache
def _names() -> tuple[frozenset[str], ...]:
    """The names of the world, a set for each split and kind; no name is in two of them."""
    return tuple(frozenset(n.strip() for n in names) for split in SPLITS for names in entities(split).values())


def _of_the_record(question: Question) -> tuple[str, ...]:
    source = question.source()
    found: list[str] = []
    for field in FIELDS:
        value = source.get(field)
        texts = value.get("text") if isinstance(value, dict) else value
        if texts is None:
            continue
        if not _are_texts(texts):
            raise InputError(f"question {question.id!r}: {field!r} must be a list of texts, wrong answers to score")
        found += [text.strip() for text in texts]
    return tuple(found)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
