"""Questions with their gold answers in tokens, and how a model under edits answers them by teacher forcing.

One forward pass over prompt and answer says both how probable the answer is and whether greedy generation would give
it: every token of it, and the end of the line behind it, has to be the most probable one after those before it. So a
search needs no generation. It is stricter than generation by what a metric forgives: articles, case, further accepted
answers.

Batches are decided by the data alone: like lengths together, the longest first. Nothing here chooses anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError
from ..datasets.prompting.prompts import render
from ..models.decoding.prefill import pad
from ..models.decoding.text import encode_continued, encode_text

if TYPE_CHECKING:
    from ..datasets.prompting.templates import Template
    from ..datasets.records import Question
    from ..models import Edit, LanguageModel
    from ..models.entering import Entry

BATCH_ROWS = 32
FLOOR = 0.05  # a probability that counts as hopeless


class Asked(NamedTuple):
    """A question in tokens. origin: questions of one origin count as one. answer: its tokens and the end of the line,
    in the tokens of prompt and answer together."""

    id: str
    origin: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that a teacher-forced pass reads: the last one of the answer is predicted and not read."""
        return len(self.prompt) + len(self.answer) - 1


class Batch(NamedTuple):
    """Prompts with their answers as tensors, right-padded.

    rows (B,): places of the rows in the list that was cut into batches. tokens, mask (B, T). columns, targets (B, A):
    where answer token a is predicted, and that token. counts (B, A) bool: False behind the end of a shorter answer.
    """

    rows: Tensor
    tokens: Tensor
    mask: Tensor
    columns: Tensor
    targets: Tensor
    counts: Tensor


class Answers(NamedTuple):
    """logprob (n,): of the whole answer, nats. exact (n,) bool: whether greedy generation gives exactly it. finite (n,)
    bool: whether the scores behind both are; where it is False they mean nothing."""

    logprob: Tensor
    exact: Tensor
    finite: Tensor


def ask(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    max_tokens: int = 2048,
    template: Template | None = None,
    header: str = "",
    stop: str = "\n",
) -> list[Asked]:
    """The questions that can be used, in the order given, rendered as an evaluation renders them.

    max_tokens: of a prompt, its header counted. template: instead of that of a question's data set. header: text before
    every prompt. stop: what ends an answer. Left out are questions without a gold answer, controls that their text does
    not answer, and prompts that are too long. Raises InputError where none is left or the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the questions; name one with --tokenizer")
    found: list[Asked] = []
    for question in questions:
        gold = question.answers[0].strip() if question.answers and not question.control else ""
        prompt = render(question, partial(encode_text, model.tokenizer), max_tokens, template)
        if not gold or prompt.status != "ok":
            continue
        space = "" if prompt.text[-1:].isspace() else " "
        read = encode_continued(model.tokenizer, header + prompt.text, space + gold + stop)
        if read.prompt and (not header or len(read.prompt) <= max_tokens):
            found.append(Asked(question.id, question.origin, read.prompt, read.continuation))
    if not found:
        raise InputError(
            f"none of the {len(questions)} development questions can be used: each needs an answer and a prompt of at "
            f"most {max_tokens} tokens"
        )
    return found


def batches(items: Sequence[Asked], rows: int = BATCH_ROWS, device: torch.device | None = None) -> list[Batch]:
    """The items in batches of at most `rows`, the longest first. Raises UsageError where rows is below 1."""
    if rows < 1:
        raise UsageError(f"a batch has at least 1 row, not {rows}")
    order = sorted(range(len(items)), key=lambda i: (-items[i].length, items[i].id))
    made: list[Batch] = []
    for start in range(0, len(order), rows):
        index = order[start : start + rows]
        tokens, mask = pad([items[i].prompt + items[i].answer[:-1] for i in index])
        targets, counts = pad([items[i].answer for i in index])
        first = torch.tensor([len(items[i].prompt) - 1 for i in index])
        columns = (first[:, None] + torch.arange(targets.shape[1])).clamp(max=tokens.shape[1] - 1)
        made.append(Batch(*(t.to(device) for t in (torch.tensor(index), tokens, mask, columns, targets, counts))))
    return made


def score_batch(model: LanguageModel, batch: Batch, edits: Sequence[Edit] = (), enter: Entry | None = None) -> Answers:
    """Answers of one batch under `edits`; logprob is differentiable. enter: where the pass begins, as in `forward`."""
    with model.edit(*edits):
        # (B, A, V): where an answer token is predicted
        scores = model(batch.tokens, batch.mask, only=batch.columns, enter=enter)
    chosen = torch.log_softmax(scores, -1).gather(-1, batch.targets[..., None])[..., 0]
    finite = (torch.isfinite(scores).all(-1) | ~batch.counts).all(1)
    exact = ((scores.argmax(-1) == batch.targets) | ~batch.counts).all(1)
    return Answers(torch.where(batch.counts, chosen, 0.0).sum(1), exact & finite, finite)


def bounded(logprob: Tensor) -> Tensor:
    """log((p + FLOOR) / (1 + FLOOR)) of log p: what log p is where an answer is likely, and never below
    log(FLOOR / (1 + FLOOR)), so that its mean is not that of a few hopeless questions."""
    return torch.log((logprob.exp() + FLOOR) / (1 + FLOOR))


@torch.no_grad()
def score_all(
    model: LanguageModel,
    asked: Sequence[Batch],
    edits: Sequence[Edit] = (),
    enter: Callable[[Batch], Entry | None] = lambda batch: None,
) -> Answers:
    """Answers of all batches under `edits`, in the order of the items; on the CPU, logprob in float64. enter: where the
    pass over a batch begins."""
    n = sum(len(batch.rows) for batch in asked)
    logprob, exact = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.bool)
    finite = torch.zeros(n, dtype=torch.bool)
    for batch in asked:
        part, index = score_batch(model, batch, edits, enter(batch)), batch.rows.cpu()
        logprob[index], exact[index] = part.logprob.double().cpu(), part.exact.cpu()
        finite[index] = part.finite.cpu()
    return Answers(logprob, exact, finite)


def tokens_of(items: Sequence[Asked]) -> int:
    """Tokens that one forward pass over the items reads."""
    return sum(item.length for item in items)
