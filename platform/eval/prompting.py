"""From a question to the token ids that the model reads.

A question that brings its own prompt is given exactly that text. Any other is rendered by the one template below,
with the context cut from the left, token by token, until everything fits the budget: what stands nearest to the
question stays. The question itself is never cut; where it alone exceeds the budget, or a ready-made prompt does, the
answer is the status `too_long` and no text. The template is recorded by its digest, because changing it changes every
number.

Nothing is added that the tokenizer would not add: no BOS, no instructions, no examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from ..datasets.gold import missing_gold
from ..datasets.records import Question

# Context, a newline, the question, and the cue after which the answer is written; the blank before the first word gives
# it the same tokens as in the middle of a text.
CONTEXT_TEMPLATE = " {context}"
QUESTION_TEMPLATE = "\nQ: {question}\nA:"
NO_CONTEXT_TEMPLATE = "Q: {question}\nA:"
TEMPLATE_DIGEST = hashlib.sha256(
    "\0".join((CONTEXT_TEMPLATE, QUESTION_TEMPLATE, NO_CONTEXT_TEMPLATE)).encode()
).hexdigest()

Encode = Callable[[str], list[int]]


class Prompt(NamedTuple):
    """What the model reads for one question, or why there is nothing to read.

    status: ok, too_long or bad_input; reason says what is wrong in the last two. cut_tokens: context tokens left out.
    """

    tokens: list[int]
    status: str
    reason: str = ""
    cut_tokens: int = 0


def render(question: Question, encode: Encode, max_tokens: int) -> Prompt:
    """The prompt of `question` in at most `max_tokens` tokens."""
    if question.prompt is not None:
        if not question.prompt.strip():
            return Prompt([], "bad_input", "the prompt is empty")
        tokens = encode(question.prompt)
        if len(tokens) > max_tokens:
            return Prompt([], "too_long", f"the prompt has {len(tokens)} tokens, the budget is {max_tokens}")
        return Prompt(tokens, "ok")
    text = question.question.strip()
    if not text:
        return Prompt([], "bad_input", "the question is empty")
    context = question.context_text().strip()
    template = QUESTION_TEMPLATE if context else NO_CONTEXT_TEMPLATE
    asked = encode(template.format(question=text))
    if len(asked) > max_tokens:
        return Prompt([], "too_long", f"the question alone has {len(asked)} tokens, the budget is {max_tokens}")
    told = encode(CONTEXT_TEMPLATE.format(context=context)) if context else []
    room = max_tokens - len(asked)
    kept = told[len(told) - room :] if len(told) > room else told
    return Prompt(kept + asked, "ok", "", len(told) - len(kept))


def unusable(question: Question, metrics: set[str]) -> str:
    """Why no prediction for `question` can be scored, or "" where it can."""
    if question.metric not in metrics:
        return f"no answer metric {question.metric!r}" if question.metric else "no answer metric is named"
    return missing_gold(question)
