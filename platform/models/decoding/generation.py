"""Generating text: the prompts of the whole batch are read, then one token at a time from the carried state.

Prompts of any lengths share a batch; results equal those of batches of one. Greedy by default; sampling draws from a
generator of its own per row, so that a row's result depends neither on its neighbours nor on their number.
Negative positions of edits and captures count from the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ...core.errors import UsageError
from ..access.coverage import generating
from ..inputs import Readable, prompts_of
from .greedy import ahead, faster_in_loops
from .prefill import read_beginnings, read_rest
from .text import ContinuedText, decode, decode_continuation

if TYPE_CHECKING:
    from ..model import LanguageModel
    from ..state import ModelState

# How many steps a greedy decoder goes ahead before somebody looks whether texts have ended: 4, 8, then 16. Answers are
# short; steps after a text's end are wasted.
FIRST_STEPS_AHEAD, MOST_STEPS_AHEAD = 4, 16

StopReason = Literal["stop", "eos", "length", "nonfinite"]

#: is given each prompt's scores (B, V) for its first new token and the state there, a row per prompt
OnRead = Callable[[Tensor, "ModelState"], None]


class Generation(NamedTuple):
    """One continuation. text: what it adds to the text of the prompt, leading spaces included, without the stop string
    ("" for a model without tokenizer). tokens: all new ids except the one that ends a text. stop_reason: what ended it;
    "nonfinite" means that the model's scores were NaN or infinite."""

    text: str
    tokens: tuple[int, ...]
    stop_reason: StopReason


def encode(model: LanguageModel, prompts: Readable, *, state: ModelState | None = None) -> list[list[int]]:
    """Token ids of prompts; texts with what the tokenizer puts before a text, unless they continue the one in `state`.

    Raises InputError for an empty prompt or a text where there is no tokenizer.
    """
    return prompts_of(model, prompts, state)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Readable,
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    temperature: float = 0.0,
    seed: int = 0,
    state: ModelState | None = None,
    share_prefix: bool = True,
    on_read: OnRead | None = None,
) -> list[Generation]:
    """Continue every prompt until a stop string, a token that ends a text (`model.end_tokens`) or `max_new_tokens`.

    temperature 0 is greedy; above it, tokens are drawn from softmax(logits / temperature) with `seed`.
    state: what the model has already read before these prompts: one row per prompt, or a single row that all continue.
    share_prefix: read a beginning that several prompts have in common only once (see `prefill`).
    on_read: is called once, when the prompts are read and nothing is generated yet, to ask more of the same reading;
    the state that it is given goes on to change afterwards.
    Raises UsageError for bad arguments and InputError for an empty prompt.
    """
    if not _is_at_least(max_new_tokens, 1, int) or not _is_at_least(temperature, 0, (int, float)):
        raise UsageError(
            f"max_new_tokens must be an integer >= 1 and temperature a number >= 0, not {max_new_tokens!r} and "
            f"{temperature!r}"
        )
    if isinstance(prompts, str) and model.tokenizer is None:
        raise UsageError(f"model {model.name} has no tokenizer: prompts are lists of token ids")
    if isinstance(stop, str) or not all(isinstance(s, str) for s in stop):
        raise UsageError("stop is a list of texts; put a single text into one")
    if not isinstance(seed, int):
        raise UsageError(f"seed must be an integer, not {seed!r}")
    if any(not s for s in stop):
        raise UsageError("a stop string is empty: it would end every text at once")
    rows = encode(model, prompts, state=state)
    if not rows:
        return []
    before = [0] if state is None else state.position.tolist()
    before = before * len(rows) if len(before) == 1 else before
    if len(before) != len(rows):
        raise UsageError(f"a state of {len(before)} rows does not fit {len(rows)} prompts: give one row or all")
    with generating(model, before, [len(row) for row in rows], max_new_tokens):
        return _generated(model, rows, state, max_new_tokens, stop, temperature, seed, share_prefix, on_read)


def _generated(
    model: LanguageModel,
    rows: list[list[int]],
    state: ModelState | None,
    max_new_tokens: int,
    stop: Sequence[str],
    temperature: float,
    seed: int,
    share_prefix: bool,
    on_read: OnRead | None,
) -> list[Generation]:
    rest, begun = read_beginnings(model, rows, state, share_prefix)
    generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(len(rows))] if temperature else []
    following = _Following(model, rest, begun, temperature, generators, on_read)
    new: list[list[int]] = [[] for _ in rows]
    reasons: list[StopReason | None] = [None] * len(rows)
    watch = _Stops(model, rows, stop)
    alive = list(range(len(rows)))  # batch rows still running
    ends = frozenset(model.end_tokens)
    for step in range(max_new_tokens):
        chosen = following.tokens(max_new_tokens - step)
        still: list[int] = []
        for j, i in enumerate(alive):
            token = chosen[j]
            if token is None:
                reasons[i] = "nonfinite"
            elif token in ends:
                reasons[i] = "eos"
            else:
                new[i].append(token)
                if watch.ended(i, new[i]):
                    reasons[i] = "stop"
                elif step + 1 == max_new_tokens:
                    reasons[i] = "length"
                else:
                    still.append(j)
        if not still:
            break
        if len(still) < len(alive):  # finished rows leave the batch
            following.keep(still)
            alive = [alive[j] for j in still]
    return [Generation(watch.text(i, new[i]), tuple(new[i]), reasons[i] or "length") for i in range(len(rows))]


def _is_at_least(value: object, least: int, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value >= least  # type: ignore[operator]


class _Following:
    """The tokens that follow a batch, one per row and call; each call feeds the tokens of the one before."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        state: ModelState | None,
        temperature: float,
        generators: list[torch.Generator],
        on_read: OnRead | None = None,
    ) -> None:
        self._model, self._temperature, self._generators = model, temperature, generators
        self._decoded: list[list[int | None]] = []  # steps that the decoder is ahead
        self._steps = FIRST_STEPS_AHEAD
        self._scores: Tensor | None = None  # of the coming tokens, before the first call
        self._last: list[int | None] = []
        self._rows: Tensor | None = None  # of the prompts, once some have left the batch
        before = model.zero_state(len(prompts)) if state is None else state
        in_loops = not temperature and on_read is None and faster_in_loops(model, prompts)
        self._decoder = ahead(model, before) if in_loops else None
        if self._decoder is not None:
            self._decoder.read([prompt[:-1] for prompt in prompts])
            self._last = [prompt[-1] for prompt in prompts]
            return
        self._scores, self._state = read_rest(model, prompts, state)
        if on_read is not None:
            on_read(self._scores, self._state)
        self._anchor = self._state.position
        self._decoder = ahead(model, self._state) if not temperature else None

    def tokens(self, wanted: int) -> list[int | None]:
        """The next token of each row, None where its scores are not finite; `wanted` steps are wanted at most."""
        if self._scores is not None:
            self._last = _choose(self._scores, self._temperature, self._generators)
            self._scores = None
        elif self._decoder is not None:
            if not self._decoded:
                self._decoded = self._decoder.tokens(self._fed(), min(self._steps, wanted))
                self._steps = min(2 * self._steps, MOST_STEPS_AHEAD)
            self._last = self._decoded.pop(0)
        else:
            logits, self._state = self._model(
                torch.as_tensor(self._fed(), device=self._model.device)[:, None], state=self._state, return_state=True,
                phase="decode", anchor=self._anchor, overwrite_state=True, rows=self._rows,
            )  # fmt: skip
            self._last = _choose(logits[:, 0], self._temperature, self._generators)
        return self._last

    def _fed(self) -> list[int]:
        assert None not in self._last, "a row whose scores are not finite is to be dropped"
        return cast("list[int]", self._last)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the last call only."""
        self._last = [self._last[j] for j in rows]
        self._generators = [self._generators[j] for j in rows] if self._generators else []
        if self._decoder is not None:
            self._decoded = [[step[j] for j in rows] for step in self._decoded]
            self._decoder.keep(rows)
        else:
            index = torch.as_tensor(rows, device=self._anchor.device)
            self._state, self._anchor = self._state.rows(index), self._anchor[index]
            self._rows = index if self._rows is None else self._rows[index]


def _choose(scores: Tensor, temperature: float, generators: list[torch.Generator]) -> list[int | None]:
    """The next token of each row, None where the row's scores are not finite."""
    finite = torch.isfinite(scores).all(-1).tolist()
    if not temperature:
        best = scores.argmax(-1).tolist()
        return [t if ok else None for t, ok in zip(best, finite, strict=True)]
    chosen: list[int | None] = []
    for row, ok, generator in zip(scores, finite, generators, strict=True):
        weights = torch.softmax(row.double().cpu() / temperature, -1) if ok else row
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)) if ok else None)
    return chosen


class _Stops:
    """The texts of a batch as they grow, and the stop strings in them. A text is decoded, with the prompt before it,
    only after a token that may complete a stop string."""

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], stop: Sequence[str]) -> None:
        self._tokenizer, self._prompts, self._stop = model.tokenizer, prompts, stop
        self._last = {s[-1] for s in stop}
        self._may_end: dict[int, bool] = {}
        self._texts: dict[int, ContinuedText] = {}

    def ended(self, row: int, tokens: list[int]) -> bool:
        """Whether the text of `tokens`, all new ones of that row, has a stop string; it is asked after every token."""
        if self._tokenizer is None or not self._stop:
            return False
        token = tokens[-1]
        if token not in self._may_end:
            # A token that is not whole characters by itself may complete any character, and how a token is written may
            # depend on the one before.
            before = [*self._prompts[row], *tokens[:-1]]
            written = decode(self._tokenizer, [token]) + decode_continuation(self._tokenizer, before, [token])
            self._may_end[token] = "\ufffd" in written or " " in self._last or not self._last.isdisjoint(written)
        return self._may_end[token] and any(s in self._text(row, tokens) for s in self._stop)

    def text(self, row: int, tokens: list[int]) -> str:
        """The text of `tokens` up to the first stop string; "" without a tokenizer."""
        text = self._text(row, tokens)
        return text[: min((at for s in self._stop if (at := text.find(s)) >= 0), default=len(text))]

    def _text(self, row: int, tokens: list[int]) -> str:
        if self._tokenizer is None:
            return ""
        if row not in self._texts:
            self._texts[row] = ContinuedText(self._tokenizer, self._prompts[row])
        return self._texts[row](tokens)
