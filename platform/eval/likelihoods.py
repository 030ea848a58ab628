"""How likely the answer of each question is, and what stands against it: from the reading of its prompt to columns.

`generate` reads the prompts of a batch; `ChoiceScores` is called with what was read and scores answers and distractors
from there, so that no prompt is read twice. A distractor whose first token alone is less likely than another distractor
cannot be the likeliest one, and its other tokens are not looked at. The columns of a row:

- `answer_logprob`: log-likelihood of the answer and the end of its line, nats; `answer_logprob_per_byte`: the same over
  the UTF-8 bytes of both and of the space before them, which tokenizers cannot change;
- `distractor_logprob`: that of the likeliest distractor; `n_distractors`: of so many;
- `beats_distractors`: 1 where the answer is likelier than each of them, else 0;
- `likelihood_status`: `ok`, or why the others are null; null itself where likelihoods were not asked for.
- `likelihood_reason`: what failed, beside the status `scorer_error`.

A value that there is none of is null, never 0: a question without distractors has no best one and beats none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import UsageError
from .continuing import Ids, continued, first_tokens

if TYPE_CHECKING:
    from ..models import LanguageModel, ModelState

Item = Mapping[str, Any]
COLUMNS = (
    "answer_logprob", "answer_logprob_per_byte", "distractor_logprob", "n_distractors", "beats_distractors",
    "likelihood_status", "likelihood_reason",
)  # fmt: skip
TOGETHER = 160  # continuations that are fed in one pass: those of 32 questions, each with four distractors


def asks(items: Sequence[Item]) -> bool:
    """Whether anything of these items is to be scored."""
    return any(item.get("choices") for item in items)


class ChoiceScores:
    """What `generate` calls when it has read the prompts of `items`."""

    def __init__(self, model: LanguageModel, items: Sequence[Item]) -> None:
        self._model, self._items = model, items
        self._totals: list[list[float]] = [[] for _ in items]
        self._problem: str | None = None  # what failed, for a single item

    def __call__(self, scores: Tensor, state: ModelState) -> None:
        """Score all choices behind the prompts. What fails for a single item is its status; in a batch of several it
        is raised, so that they are tried one by one."""
        try:
            self._score(scores, state)
        except (UsageError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if len(self._items) > 1:
                raise
            self._problem = f"{type(error).__name__}: {error}"

    def _score(self, scores: Tensor, state: ModelState) -> None:
        """The answer and the most promising distractor of each, then what could still be likelier than that one."""
        every = [(row, tuple(ids)) for row, item in enumerate(self._items) for ids in item.get("choices", ())]
        bounds: list[list[tuple[float, Ids]]] = [[] for _ in self._items]
        for (row, ids), bound in zip(every, first_tokens(scores, every), strict=True):
            bounds[row].append((bound, ids))
        later = [sorted(of[1:], key=lambda one: -one[0]) for of in bounds]
        wanted = [(row, ids) for row, of in enumerate(bounds) for _, ids in (*of[:1], *later[row][:1])]
        self._add(scores, state, wanted)
        best = [max(of[1:], default=0.0) for of in self._totals]
        self._add(
            scores, state, [(row, ids) for row, of in enumerate(later) for bound, ids in of[1:] if bound > best[row]]
        )

    def _add(self, scores: Tensor, state: ModelState, wanted: list[tuple[int, Ids]]) -> None:
        found = continued(self._model, scores, state, wanted, TOGETHER) if wanted else []
        for (row, _), likelihood in zip(wanted, found, strict=True):
            self._totals[row].append(likelihood.total)

    def columns(self) -> list[dict[str, Any]]:
        """The columns of each item's row."""
        return [columns_of(item, totals, self._problem) for item, totals in zip(self._items, self._totals, strict=True)]


def columns_of(item: Item, totals: Sequence[float] = (), problem: str | None = None) -> dict[str, Any]:
    """The columns of one item. totals: of its answer and then of distractors, the likeliest one among them, nats; none
    where nothing was scored. problem: what failed, where the item itself could have been scored."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    if "choices_status" not in item:
        return row
    if item["choices_status"] != "ok":
        return row | {"likelihood_status": item["choices_status"]}
    if problem is not None:
        return row | {"likelihood_status": "scorer_error", "likelihood_reason": problem}
    if not all(map(math.isfinite, totals)):
        return row | {"likelihood_status": "model_nonfinite"}
    answer, *others = totals
    best = max(others, default=None)
    return row | {
        "answer_logprob": answer,
        "answer_logprob_per_byte": answer / item["answer_bytes"],
        "distractor_logprob": best,
        "n_distractors": len(item["choices"]) - 1,
        "beats_distractors": None if best is None else float(answer > best),
        "likelihood_status": "ok",
    }
