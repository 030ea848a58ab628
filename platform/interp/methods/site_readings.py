"""What stands at sites of a model at one token of each question, and which way the answer would have it: read in
batches, of the model as it is and of copies with shuffled weights; and the model's answers with something else put
there.

Both functions are for `Job.map`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.access.edits import Add, Replace
from ...models.shuffled import shuffled
from ...runtime.plan import digest_of
from ..engine.answers import AnswerScores, score_answers
from ..engine.batches import AnsweredBatch, Batch, Item
from .typed_tensors import floats, nested

if TYPE_CHECKING:
    from ...models import LanguageModel

#: the last token of the prompt, or the last of those that state the answer
Position = Literal["last", "fact"]

READINGS = pa.schema([
    ("id", pa.string()), ("draw", pa.int32()), ("site", pa.string()), ("values", pa.list_(pa.float64())),
    ("gradient", pa.list_(pa.float64())), ("logprob", pa.float64()), ("correct", pa.bool_()),
])  # fmt: skip
STAND_INS = pa.schema(
    [("id", pa.string()), ("stand_in", pa.int32()), ("logprob", pa.float64()), ("correct", pa.bool_())]
)


class Readings(NamedTuple):
    """What was read of one model: by site and draw, rows of `READINGS` by the id of their question."""

    rows: Mapping[tuple[str, int], Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, table: pa.Table) -> Readings:
        """From the rows of all batches."""
        rows: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
        for row in table.to_pylist():
            rows.setdefault((row["site"], row["draw"]), {})[row["id"]] = row
        return cls(rows)

    def ids(self, site: str, draw: int = -1) -> set[str]:
        """Questions with a reading there."""
        return set(self.rows.get((site, draw), ()))

    def of_questions(self, ids: Sequence[str], site: str, name: str, draw: int = -1) -> NDArray[np.float64]:
        """A column of the rows of these questions, (n,) or (n, C)."""
        here = self.rows[site, draw]
        return np.array([here[id_][name] for id_ in ids], np.float64)


def token_of(item: Item, position: Position) -> int | None:
    """The token that is looked at; None where the prompt has none such."""
    if position == "last":
        return len(item.prompt) - 1
    return None if item.fact is None else item.fact[1] - 1


def batch_readings(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of `READINGS` for each question, draw and site; draw -1 is the model as it is, with the derivative of the
    answer's log-probability by what stands there and the answer's scores. What is not finite has no row.

    arguments: sites, names in full; position; shuffled, seeds of copies with shuffled weights.
    """
    kept = _having_token(batch, arguments["position"])
    if not kept.items:
        return READINGS.empty_table()
    answered = kept.answered()
    at = _tokens(kept, arguments["position"])
    values, gradients, scores = _read(model, answered, at, arguments["sites"])
    rows: list[dict[str, Any]] = []
    for site, value, gradient in zip(arguments["sites"], values, gradients, strict=True):
        finite = nested(scores.finite & value.isfinite().all(1) & gradient.isfinite().all(1))
        rows += [
            {"id": item.id, "draw": -1, "site": site, "values": floats(value[i]), "gradient": floats(gradient[i]),
             "logprob": float(scores.logprob[i]), "correct": bool(scores.correct[i])}
            for i, item in enumerate(kept.items) if finite[i]
        ]  # fmt: skip
    for draw, seed in enumerate(arguments["shuffled"]):
        seen = _values(shuffled(model, seed), answered, at, arguments["sites"])
        for site, value in zip(arguments["sites"], seen, strict=True):
            finite = nested(value.isfinite().all(1))
            rows += [
                {"id": item.id, "draw": draw, "site": site, "values": floats(value[i])}
                for i, item in enumerate(kept.items) if finite[i]
            ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=READINGS)


@torch.no_grad()
def batch_stand_ins(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of `STAND_INS` for each question that `values` names and each stand-in.

    arguments: position; sites, the name in full of each stand-in's site; widths, its channels; values, id -> what
    stands in, one stand-in after the other, see `packed`."""
    named = Batch([item for item in batch.items if item.id in arguments["values"]], batch.device)
    if not named.items:
        return STAND_INS.empty_table()
    answered = named.answered()
    where = torch.zeros_like(answered.mask)
    where[torch.arange(len(named.items)), _tokens(named, arguments["position"])] = True
    values = torch.stack([_unpacked(arguments["values"][item.id]) for item in named.items])
    rows: list[dict[str, Any]] = []
    ends = np.cumsum(arguments["widths"]).tolist()
    parts = [values[:, end - width : end] for end, width in zip(ends, arguments["widths"], strict=True)]
    for number, (site, value) in enumerate(zip(arguments["sites"], parts, strict=True)):
        with model.edit(Replace(site, value[:, None].to(batch.device), where=where)):
            scores = answers_of(model, answered)
        for i, item in enumerate(named.items):
            row: dict[str, Any] = {"id": item.id, "stand_in": number}
            if scores.finite[i]:
                row |= {"logprob": float(scores.logprob[i]), "correct": bool(scores.correct[i])}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=STAND_INS)


def weight_seeds(seed: int, draws: int) -> list[int]:
    """A seed for each of so many copies with shuffled weights."""
    return [int(digest_of([seed, "shuffled weights", draw])[:15], 16) for draw in range(draws)]


def packed(values: np.ndarray) -> str:
    """Numbers as plain text, in float32: arguments of a batch function are JSON, in which they would be four times as
    long."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


def answers_of(model: LanguageModel, answered: AnsweredBatch) -> AnswerScores:
    """`score_answers`, with the head computed for the tokens that predict the answer alone."""
    logits = model(answered.tokens, answered.mask, only=answered.columns)
    here = torch.arange(answered.columns.shape[1], device=logits.device).expand_as(answered.columns)
    return score_answers(logits, answered._replace(columns=here))


def _unpacked(text: str) -> Tensor:
    return torch.tensor(np.frombuffer(base64.b64decode(text), "<f4"), dtype=torch.float32)


def _having_token(batch: Batch, position: Position) -> Batch:
    return Batch([item for item in batch.items if token_of(item, position) is not None], batch.device)


def _tokens(batch: Batch, position: Position) -> Tensor:
    return torch.tensor([token_of(item, position) for item in batch.items], device=batch.device)


@torch.enable_grad()
def _read(
    model: LanguageModel, answered: AnsweredBatch, at: Tensor, sites: list[str]
) -> tuple[list[Tensor], list[Tensor], AnswerScores]:
    """Values and gradients (B, C) at token `at` (B,) of each site."""
    rows = torch.arange(len(at), device=at.device)
    where = torch.zeros_like(answered.mask)
    where[rows, at] = True
    width = {site.name: int(site.axes[0]) for site in model.sites() if site.name in sites}
    options: dict[str, Any] = {"dtype": model.dtype, "device": model.device, "requires_grad": True}
    shifts = [torch.zeros(len(at), 1, width[site], **options) for site in sites]
    with (
        model.capture(*sites) as seen,
        model.edit(*[Add(site, shift, where=where) for site, shift in zip(sites, shifts, strict=True)]),
    ):
        scores = answers_of(model, answered)
    gradients = torch.autograd.grad(scores.logprob.sum(), shifts)
    values = [seen[site][rows, at].double().cpu() for site in sites]
    detached = AnswerScores(scores.logprob.detach().cpu(), scores.correct.cpu(), scores.finite.cpu())
    return values, [gradient[:, 0].double().cpu() for gradient in gradients], detached


@torch.no_grad()
def _values(model: LanguageModel, answered: AnsweredBatch, at: Tensor, sites: list[str]) -> list[Tensor]:
    rows = torch.arange(len(at), device=at.device)
    with model.capture(*sites) as seen:
        model(answered.tokens, answered.mask, last_only=True)
    return [seen[site][rows, at].double().cpu() for site in sites]
