"""Questions as token ids.

Prompts are rendered where the evaluation renders them (`datasets.prompting`). A question that cannot be used (no
prompt, no answer, too long) is left out with a status and a reason, never silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from ...core.errors import InputError, UsageError
from ...datasets.prompting.asked_before import question_digests
from ...runtime.plan import digest_of
from ..methods.evidence import stated_at
from .batches import Item
from .encoded import Encoded
from .lengths import UNBOUNDED, Length, Lengthening
from .step import Excluded

if TYPE_CHECKING:
    from ...datasets.prompting.prompts import Prompt
    from ...datasets.records import Question
    from ...models import LanguageModel

#: what is read of every question before its answer
PROMPT_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("prompt_digest", pa.string(), nullable=False),  # sha256 of the text
        pa.field("ids_digest", pa.string(), nullable=False),  # sha256 of the ids, written as a JSON list without spaces
        pa.field("template", pa.string(), nullable=False),  # digest of the template; "" for a ready-made prompt
        pa.field("text", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("n_cut_tokens", pa.int32(), nullable=False),
        pa.field("evidence_kept", pa.bool_()),  # null where no evidence is known
    ]
)


def prompt_table(data: Encoded) -> pa.Table:
    """The prompts of `data` in `PROMPT_SCHEMA`; ids and their number are those that the model gets."""
    rows = [
        {
            "question_id": item.id, "prompt_digest": prompt.digest, "ids_digest": digest_of(list(item.prompt)),
            "template": prompt.template, "text": prompt.text, "n_tokens": len(item.prompt),
            "n_cut_tokens": prompt.cut_tokens, "evidence_kept": prompt.evidence_kept,
        }
        for item, prompt in zip(data.items, data.prompts, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)


def kind_of(question: Question) -> str | None:
    """The sort of question, within which prompts are compared: category and number of hops, as far as known."""
    hops = None if question.hops is None else f"{question.hops} hop{'' if question.hops == 1 else 's'}"
    return ", ".join(part for part in (question.category, hops) if part) or None


def encode(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    max_tokens: int,
    template: str | None = None,
    length: Length | None = None,
) -> Encoded:
    """Token ids of `questions`, rendered as an evaluation with the same `max_tokens` (its `max_prompt_tokens`) and
    `template` (default: that of a question's data set) renders them.

    The answer's tokens are those of the text prompt + answer; where they share one with the prompt's end, that one is
    the answer's first. length: that every prompt gets by filler, in place of `max_tokens`. Raises InputError where
    there are no questions, none that can be used, two with one id, or no tokenizer; UsageError where `max_tokens` is
    below 1, and for an unknown template.
    """
    from ...datasets.prompting.prompts import render
    from ...datasets.prompting.templates import find
    from ...models.decoding.text import encode_continued, encode_text

    if max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1")
    if not questions:
        raise InputError("there are no questions; an analysis needs at least one (make some with `mplat prompts`)")
    twice = [id_ for id_, count in Counter(q.id for q in questions).items() if count > 1]
    if twice:
        raise InputError(f"{len(twice)} question ids occur more than once, {twice[0]!r} for one; ids must be unique")
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the questions; name one with --tokenizer")
    tokenizer = model.tokenizer
    chosen = None if template is None else find(template)
    longer = None if length is None else Lengthening(length, tokenizer, questions)
    items: list[Item] = []
    excluded: list[Excluded] = []
    prompts: list[Prompt] = []
    used: list[Question] = []
    for question in questions:
        prompt = render(question, partial(encode_text, tokenizer), max_tokens if longer is None else UNBOUNDED, chosen)
        text = question.answers[0].strip() if question.answers else ""
        if prompt.status != "ok":
            excluded.append(Excluded(question.id, prompt.status, prompt.reason))
            continue
        if not text:
            excluded.append(Excluded(question.id, "bad_input", "no answer is given"))
            continue
        if longer is not None:
            brought = longer.question(question, prompt, chosen)
            if isinstance(brought, Excluded):
                excluded.append(brought)
                continue
            prompt = brought
        try:
            space = "" if prompt.text[-1:].isspace() else " "
            read = encode_continued(tokenizer, prompt.text, space + text)
        except InputError as error:
            excluded.append(Excluded(question.id, "bad_input", str(error)))
            continue
        if length is not None and len(read.prompt) != length.tokens:
            excluded.append(Excluded(question.id, "no_length", "the answer shares a token with the end of the prompt"))
            continue
        prompts.append(prompt)
        used.append(question)
        fact, about = stated_at(prompt, text), (question.category or None, question.hops, question.origin)
        items.append(Item(question.id, read.prompt, read.continuation, fact, kind_of(question), *about))
    if not items:
        first = excluded[0]
        raise InputError(f"none of the {len(questions)} questions can be used; the first, {first.id!r}: {first.reason}")
    return Encoded(tuple(items), tuple(excluded), tuple(prompts), question_digests(used))
