"""From a question to the token ids that the model reads.

A question that brings its own prompt is given exactly that text. Any other is rendered by the template of its data set
(`templates`), the plain one where it has none. Where that is too long, the context loses what holds no evidence first,
from the left (`layout.cut_order`); instructions and the question are never cut. Where they alone exceed the budget, or
a ready-made prompt does, the answer is the status `too_long` and no text.

Promises
- The ids are those of the text: it is cut in its characters, and what is left is encoded as a whole (`truncation`).
  What the tokenizer adds to a text (BOS) counts and is there once; nothing else is added, no examples.
- What is read depends on the question, the tokenizer, the budget and the template alone. Whoever asks a question
  (evaluation, analyses, the search for a recipe) renders it here.
- Text and ids are recorded by their digests, the template too, because changing it changes every number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ...runtime.plan import digest_of
from ..readers.own_prompts import evidence_in
from ..records import Question
from .context_layout import Layout, Span, cut_order, moved_by
from .gold import missing_gold
from .template import PLAIN
from .templates import Template, template_for
from .truncation import fit

if TYPE_CHECKING:
    from ...models.decoding.text import Encoded

TEMPLATE_DIGEST = PLAIN.digest

#: a text in tokens, such as `partial(models.text.encode_text, tokenizer)`. One that gives ids without their places is
#: taken to have tokens of equal length, which decides where a cut is tried first.
Encode = Callable[[str], "Encoded | Sequence[int]"]


class Prompt(NamedTuple):
    """What the model reads for one question, or why there is nothing to read.

    status: ok, too_long or bad_input; reason says what is wrong in the last two. text: what is read, whose tokens are
    `tokens`; encoded: the same with the place of every token. template: digest of its template, "" for a ready-made
    prompt.
    cut_tokens: tokens of the whole prompt that are not read. evidence: where the question's evidence stands in `text`,
    in the order of its supporting facts, what was lost left out. evidence_kept: whether all of it is read; None where
    the question names none.
    """

    tokens: list[int]
    status: str
    reason: str = ""
    cut_tokens: int = 0
    text: str = ""
    template: str = ""
    encoded: Encoded | None = None
    evidence: tuple[Span, ...] = ()
    evidence_kept: bool | None = None

    @property
    def digest(self) -> str:
        """sha256 of the text that is read."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def ids_digest(self) -> str:
        """sha256 of the ids that are read, as a JSON list without spaces."""
        return digest_of(self.tokens)


class Rendered(NamedTuple):
    """A whole prompt: its text and what stands where in it. context: what may be cut, with the words around it."""

    layout: Layout
    context: Span


def rendered(question: Question, template: Template) -> Rendered:
    """The whole prompt as `template` puts it."""
    context = template.laid_out(question.context).stripped()
    asked = (template.question if context.text else template.alone).format(question=question.question.strip())
    before, _, after = template.context.partition("{context}") if context.text else ("", "", "")
    before, after = before.format(), after.format()
    stop = len(template.head) + len(before) + len(context.text) + len(after)
    return Rendered(context.inside(template.head + before, after + asked), (len(template.head), stop))


def prompt_text(question: Question, template: Template | None = None) -> str:
    """The whole prompt in words; `template` instead of that of its data set."""
    if question.prompt is not None:
        return question.prompt
    return rendered(question, template or template_for(question.dataset)).layout.text


def render(question: Question, encode: Encode, max_tokens: int, template: Template | None = None) -> Prompt:
    """The prompt of `question` in at most `max_tokens` tokens; `template` instead of that of its data set."""
    read = partial(_read, encode)
    if question.prompt is not None:
        return _ready_made(question, question.prompt, read, max_tokens)
    if not question.question.strip():
        return Prompt([], "bad_input", "the question is empty")
    chosen = template or template_for(question.dataset)
    layout, context = rendered(question, chosen)
    places = [place for s in question.supporting_facts if (place := (s.paragraph, s.sentence)) in layout.sentences]
    whole = read(layout.text)
    found = fit(whole, cut_order(layout, context, places), max_tokens, read)
    if found is None:
        fixed = len(read(layout.text[: context[0]] + layout.text[context[1] :]).ids)
        what = "instructions and question alone have" if chosen.head else "the question alone has"
        return Prompt([], "too_long", f"{what} {fixed} tokens, the budget is {max_tokens}")
    there = [moved_by(layout.sentences[place], found.dropped) for place in places]
    return Prompt(
        list(found.encoded.ids),
        "ok",
        cut_tokens=len(whole.ids) - len(found.encoded.ids),
        text=found.encoded.text,
        template=chosen.digest,
        encoded=found.encoded,
        evidence=tuple(span for span in there if span is not None),
        evidence_kept=None not in there if there else None,
    )


def _ready_made(question: Question, text: str, read: Callable[[str], Encoded], max_tokens: int) -> Prompt:
    if not text.strip():
        return Prompt([], "bad_input", "the prompt is empty")
    found = read(text)
    if len(found.ids) > max_tokens:
        return Prompt([], "too_long", f"the prompt has {len(found.ids)} tokens, the budget is {max_tokens}")
    pieces = list(evidence_in(question))
    for support in question.supporting_facts:
        try:
            pieces.append(question.context[support.paragraph].sentences[support.sentence].strip())
        except IndexError:
            continue  # a data set's mistake, which its reader has counted
    starts = [(text.rfind(piece), piece) for piece in pieces if piece]
    evidence = [(start, start + len(piece)) for start, piece in starts if start >= 0]
    kept = True if pieces else None  # nothing is cut, whatever its author left out
    return Prompt(list(found.ids), "ok", text=text, encoded=found, evidence=tuple(evidence), evidence_kept=kept)


def _read(encode: Encode, text: str) -> Encoded:
    from ...models.decoding.text import Encoded  # here, because a report writes prompts out where no model can be

    found = encode(text)
    if isinstance(found, Encoded):
        return found
    n = max(len(found), 1)
    places = tuple((i * len(text) // n, (i + 1) * len(text) // n) for i in range(len(found)))
    return Encoded(text, tuple(int(i) for i in found), places, 0)


def unusable(question: Question, metrics: set[str]) -> str:
    """Why no prediction for `question` can be scored, or "" where it can."""
    if question.metric not in metrics:
        return f"no answer metric {question.metric!r}" if question.metric else "no answer metric is named"
    return missing_gold(question)
