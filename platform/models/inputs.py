"""What may stand where a model reads: texts, lists of token ids, tensors, and what a tokenizer returns.

    model("Sisgat lives in Karfen.");  model(["one text", "another"]);  model([[3, 4], [5]]);  model(tokenizer(texts))

Texts become tokens as everywhere (`text`), with BOS once; rows of different lengths are padded on the right under a
mask; a tokenizer's output brings its own mask. Raises UsageError, in one sentence, for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError
from .decoding.text import encode_text
from .state import ModelState

if TYPE_CHECKING:
    from .model import LanguageModel

#: what a model reads: a text, token ids, several of either, or a tokenizer's output
Readable = str | Tensor | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Any]

_INTEGERS = (torch.int16, torch.int32, torch.int64)
_FORMS = "give texts, lists of token ids, a tensor of ids (batch, time) or what the model's tokenizer returns"


def batch_of(
    model: LanguageModel, given: Readable, mask: Tensor | None, state: ModelState | None
) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, T) and mask (B, T) or None, for a forward pass. A tensor is taken as it is."""
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        return torch.as_tensor(given), mask
    if isinstance(given, Mapping) and isinstance(given.get("input_ids"), Tensor):
        if mask is not None:
            raise UsageError("a tokenizer's output brings its own mask: leave mask out, or give its input_ids")
        return cast(Tensor, given["input_ids"]), _attended(given)
    rows = prompts_of(model, given, state)
    if not rows:
        raise UsageError(f"there is nothing to read: {_FORMS}")
    width = max(map(len, rows))
    if min(map(len, rows)) == width:
        return torch.tensor(rows), mask
    if mask is not None:
        raise UsageError("texts or lists of different lengths make their own mask: leave mask out")
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return padded, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


def checked(
    model: LanguageModel, tokens: Readable, mask: Tensor | None, reset: Tensor | None, state: ModelState | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a forward pass was given as tokens (B, T), mask and reset (B, T) bool or None, on the model's device.

    Raises UsageError for wrong kinds and shapes, InputError for token ids outside the vocabulary.
    """
    tokens, mask = batch_of(model, tokens, mask, state)
    tokens = tokens.to(model.device)
    if tokens.ndim != 2 or tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.shape[1] == 0:
        raise UsageError(
            f"tokens must be integers of shape (batch, time >= 1), not {tokens.dtype} {tuple(tokens.shape)}"
        )
    if tokens.numel():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= model.config.vocab_size:
            raise InputError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {model.config.vocab_size}: "
                "the text was encoded with another model's tokenizer"
            )
    if state is not None and not isinstance(state, ModelState):
        raise UsageError(f"state is what return_state=True gave, not {type(state).__name__}")
    for name, value in (("mask", mask), ("reset", reset)):
        if value is not None and not isinstance(value, Tensor):
            raise UsageError(f"{name} is a tensor of the shape of tokens, not {type(value).__name__}")
        if value is not None and tuple(value.shape) != tuple(tokens.shape):
            raise UsageError(f"{name} has shape {tuple(value.shape)}, tokens {tuple(tokens.shape)}; they must agree")
    if state is not None and (len(state.layers) != model.n_layers or len(state.position) != len(tokens)):
        raise UsageError(
            f"state of {len(state.layers)} layers and {len(state.position)} rows does not fit a model of "
            f"{model.n_layers} layers and {len(tokens)} rows of tokens"
        )
    as_bool = [None if v is None else v.to(device=tokens.device, dtype=torch.bool) for v in (mask, reset)]
    return tokens.long(), as_bool[0], as_bool[1]


def prompts_of(model: LanguageModel, given: Readable, state: ModelState | None = None) -> list[list[int]]:
    """Token ids of each text or list, without padding; a single text or list is one of them.

    Texts that continue the one in `state` get no BOS. Raises InputError for an empty prompt or a text where there is no
    tokenizer.
    """
    if isinstance(given, Mapping):
        given = _unpadded(given)
    if hasattr(given, "__array__"):  # a tensor, or an array of numpy
        given = torch.as_tensor(given).tolist()
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise UsageError(f"a {type(given).__name__} is nothing to read; {_FORMS}")
    if given and all(_is_id(value) for value in given):
        given = cast("Sequence[Sequence[int]]", [given])
    read = [0] if state is None else state.position.tolist()
    return [_ids(model, prompt, i, bool(read[i % len(read)])) for i, prompt in enumerate(given)]


def _ids(model: LanguageModel, prompt: Any, i: int, continues: bool) -> list[int]:
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise InputError(f"model {model.name} has no tokenizer: give token ids, or load it with tokenizer=...")
        encoded = encode_text(model.tokenizer, prompt)
        ids = list(encoded.ids[encoded.added if continues else 0 :])
    else:
        ids = torch.as_tensor(prompt).tolist() if hasattr(prompt, "__array__") else prompt
        if not isinstance(ids, Sequence) or not all(_is_id(value) for value in ids):
            raise UsageError(f"prompt {i} is no text and no list of token ids, which are integers; {_FORMS}")
        ids = [int(value) for value in ids]
    if not ids:
        raise InputError(f"prompt {i} is empty")
    return ids


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _attended(given: Mapping[str, Any]) -> Tensor | None:
    mask = given.get("attention_mask")
    return None if mask is None else torch.as_tensor(mask).bool()


def _unpadded(given: Mapping[str, Any]) -> list[list[int]]:
    """The rows of a tokenizer's output without what its attention mask leaves out."""
    if "input_ids" not in given:
        raise UsageError(f"a {type(given).__name__} without input_ids is nothing to read; {_FORMS}")
    ids: Any = given["input_ids"]
    mask: Any = given.get("attention_mask")
    ids, mask = (value.tolist() if hasattr(value, "tolist") else value for value in (ids, mask))
    if isinstance(ids, Sequence) and ids and all(_is_id(value) for value in ids):
        ids, mask = [ids], None if mask is None else [mask]
    if mask is None:
        return list(ids)
    return [[t for t, real in zip(row, kept, strict=True) if real] for row, kept in zip(ids, mask, strict=True)]


def as_rows(rows: Tensor | Sequence[int] | None, n: int, device: torch.device) -> Tensor | None:
    """`rows` as a tensor (n,). Raises UsageError for anything else."""
    if rows is None:
        return None
    found = torch.as_tensor(rows, device=device)
    if tuple(found.shape) != (n,) or found.is_floating_point() or bool((found < 0).any()):
        raise UsageError(f"rows must name a row of the batch at its beginning for each of {n} rows, not {rows!r}")
    return found.long()


def as_columns(only: Tensor | None, tokens: Tensor, last_only: bool) -> Tensor | None:
    """`only` as columns (B, A) of tokens (B, T). Raises UsageError for anything else, and beside `last_only`."""
    if only is None:
        return None
    if last_only:
        raise UsageError("only and last_only both say whose logits are wanted: give one of them")
    rows, width = tokens.shape
    if not isinstance(only, Tensor) or only.ndim != 2 or len(only) != rows or only.dtype not in _INTEGERS:
        found = f"{only.dtype} {tuple(only.shape)}" if isinstance(only, Tensor) else type(only).__name__
        raise UsageError(f"only names columns as integers of shape ({rows}, how many), not {found}")
    if only.numel() and not (int(only.min()) >= 0 and int(only.max()) < width):
        raise UsageError(f"only names columns 0 to {width - 1} of tokens, not {int(only.min())} to {int(only.max())}")
    return only.to(tokens.device).long()
