"""From a question to the token ids that the model reads.

A question that brings its own prompt is given exactly that text. Any other is rendered by the template of its data set
(`templates`), the plain one where it has none, with the context cut from the left, token by token, until everything
fits the budget: what stands nearest to the question stays. Instructions and the question are never cut; where they
alone exceed the budget, or a ready-made prompt does, the answer is the status `too_long` and no text. Template and
prompt are recorded by their digests, because changing them changes every number.

Nothing is added that the tokenizer would not add: no BOS, no examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from ..datasets.gold import missing_gold
from ..datasets.records import Question
from .templates import Template, template_for
from .templates.registry import PLAIN

TEMPLATE_DIGEST = PLAIN.digest

Encode = Callable[[str], list[int]]


class Prompt(NamedTuple):
    """What the model reads for one question, or why there is nothing to read.

    status: ok, too_long or bad_input; reason says what is wrong in the last two. cut_tokens: context tokens left out.
    text: the prompt before anything was cut. template: digest of its template, "" for a ready-made prompt.
    """

    tokens: list[int]
    status: str
    reason: str = ""
    cut_tokens: int = 0
    text: str = ""
    template: str = ""

    @property
    def digest(self) -> str:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def pieces(question: Question, template: Template) -> tuple[str, str, str]:
    """(head, context, question) as `template` puts them; together they are the prompt."""
    context = template.context_text(question.context).strip()
    asked = template.question if context else template.alone
    told = template.context.format(context=context) if context else ""
    return template.head, told, asked.format(question=question.question.strip())


def prompt_text(question: Question, template: Template | None = None) -> str:
    """The whole prompt in words; `template` instead of that of its data set."""
    if question.prompt is not None:
        return question.prompt
    return "".join(pieces(question, template or template_for(question.dataset)))


def render(question: Question, encode: Encode, max_tokens: int, template: Template | None = None) -> Prompt:
    """The prompt of `question` in at most `max_tokens` tokens; `template` instead of that of its data set."""
    if question.prompt is not None:
        if not question.prompt.strip():
            return Prompt([], "bad_input", "the prompt is empty")
        tokens = encode(question.prompt)
        if len(tokens) > max_tokens:
            return Prompt([], "too_long", f"the prompt has {len(tokens)} tokens, the budget is {max_tokens}")
        return Prompt(tokens, "ok", text=question.prompt)
    if not question.question.strip():
        return Prompt([], "bad_input", "the question is empty")
    chosen = template or template_for(question.dataset)
    head, context, asked = pieces(question, chosen)
    first, told, last = (encode(text) if text else [] for text in (head, context, asked))
    room = max_tokens - len(first) - len(last)
    if room < 0:
        what = "the question alone has" if not first else "instructions and question alone have"
        return Prompt([], "too_long", f"{what} {len(first) + len(last)} tokens, the budget is {max_tokens}")
    kept = told[len(told) - room :] if len(told) > room else told
    tokens = first + kept + last
    return Prompt(tokens, "ok", "", len(told) - len(kept), head + context + asked, chosen.digest)


def unusable(question: Question, metrics: set[str]) -> str:
    """Why no prediction for `question` can be scored, or "" where it can."""
    if question.metric not in metrics:
        return f"no answer metric {question.metric!r}" if question.metric else "no answer metric is named"
    return missing_gold(question)
