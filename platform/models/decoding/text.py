"""Between texts and token ids: the one place where a text becomes what a model reads, and new tokens become text.

Promises, for every fast tokenizer:

- A text is encoded whole, with what the tokenizer itself puts before it (BOS) exactly once, also where the text already
  begins with that token. What a tokenizer appends (EOS, SEP) is left out: a prompt is read in order to be continued.
- The tokens of a continuation are those of the text prompt + continuation, never those of the continuation alone.
- New tokens are decoded with the tokens before them, so that a leading space is kept and characters whose bytes are
  spread over several tokens come out whole.

Not here: stop strings and end tokens (`generation`), templates (`eval.prompting`).
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
CONTEXT_TOKENS = 16  # tokens before a continuation that it is decoded with
_BYTES = 4  # of a character, at most
_BROKEN = "\ufffd"
_SPACES = ("Ġ", "▁", " ")  # how vocabularies write a space at the beginning of a token


class Encoded(NamedTuple):
    """A text in tokens. offsets: (start, stop) in characters of the text for each token, (0, 0) for those that the
    tokenizer puts before it. added: how many of those there are, also where the text itself begins with them."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    added: int

    def tokens_of(self, start: int, stop: int) -> Span:
        """(first, last + 1) of the tokens that hold any of the characters start to stop; (0, 0) where none does."""
        inside = [i for i, (a, b) in enumerate(self.offsets) if i >= self.added and a < stop and b > start]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)


class Continued(NamedTuple):
    """A prompt and what follows it, in the tokens of both together.

    merged: the end of the prompt and the beginning of the continuation share a token, which counts as the
    continuation's first; `prompt` is then not how the prompt alone is encoded.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    merged: bool


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> Encoded:
    """`text` in tokens; see the module. Raises UsageError for a tokenizer that cannot say where its tokens stand,
    InputError for a text with words that it has no token for."""
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"{type(tokenizer).__name__} cannot say where its tokens stand; use a fast tokenizer")
    try:
        found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    except Exception as error:  # the tokenizers library raises bare Exception where a vocabulary lacks a word
        raise InputError(f"the tokenizer cannot read {text[:60]!r} ({error}); use words that it knows") from error
    ids = [int(t) for t in found["input_ids"]]  # type: ignore[union-attr]
    mask = [int(m) for m in found["special_tokens_mask"]]  # type: ignore[union-attr]
    offsets = _untrimmed(tokenizer, ids, [(int(a), int(b)) for a, b in found["offset_mapping"]])  # type: ignore
    added = next((i for i, m in enumerate(mask) if not m), len(mask))
    behind = next((i for i, m in enumerate(reversed(mask)) if not m), 0)
    stop = len(ids) - behind
    if added == len(ids):  # an empty text: what stands before and behind it cannot be distinguished, BOS is known by id
        stop = added = 1 if ids and ids[0] == tokenizer.bos_token_id else 0
    elif added and ids[added : 2 * added] == ids[:added]:  # the text says it already
        ids, offsets, stop = ids[added:], offsets[added:], stop - added
    return Encoded(text, tuple(ids[:stop]), tuple(offsets[:stop]), added)


def added_before(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The tokens that the tokenizer itself puts before every text: BOS, or none."""
    encoded = encode_text(tokenizer, "a")
    return encoded.ids[: encoded.added]


def _untrimmed(tokenizer: PreTrainedTokenizerFast, ids: list[int], offsets: list[Span]) -> list[Span]:
    """Offsets with the space that a token begins with: some tokenizers leave it out of them ("trim_offsets")."""
    whole: list[Span] = []
    last = 0
    for token, (start, stop) in zip(tokenizer.convert_ids_to_tokens(ids), offsets, strict=True):
        if start > last and token[:1] in _SPACES:
            start = last
        whole.append((start, stop))
        last = max(last, stop)
    return whole


def encode_continued(tokenizer: PreTrainedTokenizerFast, prompt: str, continuation: str) -> Continued:
    """The tokens of prompt + continuation, cut where the first character of the continuation stands.

    Raises InputError where no token holds a character of the continuation.
    """
    whole = encode_text(tokenizer, prompt + continuation)
    ends = len(prompt)
    # a token stands in the prompt where it ends there; bytes of one character have that character's offsets
    first = next((i for i, (_, stop) in enumerate(whole.offsets) if i >= whole.added and stop > ends), len(whole.ids))
    if first == len(whole.ids):
        raise InputError(f"the tokenizer has no token for {continuation!r} behind the prompt")
    merged = whole.offsets[first][0] < ends
    return Continued(whole.ids[:first], whole.ids[first:], merged)


def encode_behind(tokenizer: PreTrainedTokenizerFast, prompt: Encoded, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each of `texts` behind `prompt`, as `encode_continued` gives them, several at once; none where a
    token of the prompt is another one there (the two share one), or the text has no token."""
    if not texts:
        return []
    both = [prompt.text + text for text in texts]
    whole = tokenizer(both, return_special_tokens_mask=True, return_attention_mask=False, verbose=False)
    found: list[tuple[int, ...]] = []
    for ids, mask in zip(whole["input_ids"], whole["special_tokens_mask"], strict=True):  # type: ignore[arg-type]
        behind = next((i for i, m in enumerate(reversed(mask)) if not m), 0)
        tokens = tuple(int(t) for t in ids[: len(ids) - behind])
        if prompt.added and tokens[prompt.added : 2 * prompt.added] == tokens[: prompt.added]:
            tokens = tokens[prompt.added :]  # the text says it already
        same = tokens[: len(prompt.ids)] == prompt.ids
        found.append(tokens[len(prompt.ids) :] if same else ())
    return found


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of `ids` from the beginning of a text, special tokens written out, no space tidied away."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


class ContinuedText:
    """What new tokens say behind the tokens `before`: called with all of them so far, as they grow."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context, self._readable = _context(tokenizer, before)
        self._whole = decode(tokenizer, self._context)

    def __call__(self, new: Sequence[int]) -> str:
        """The text that `new` adds. A character that only begins before it belongs to it; one whose last bytes are
        missing is U+FFFD."""
        if not new:
            return ""
        text = self._text(new)
        for before in (self._whole, self._readable):
            if text.startswith(before):
                return text[len(before) :]
        same = len(os.path.commonprefix([self._readable, text]))
        if text[same : same + 1] != _BROKEN:
            return text[same:]  # the new tokens change how the end of the text before is written
        # with some tokenizers, bytes that are no character make the characters next to them unreadable, too
        for missing in range(1, min(_BYTES, len(new) + 1)) if text.endswith(_BROKEN) else ():
            if (text := self._text(new[:-missing])).startswith(self._readable):
                return text[len(self._readable) :] + _BROKEN
        return decode(self._tokenizer, new)

    def _text(self, new: Sequence[int]) -> str:
        return decode(self._tokenizer, [*self._context, *new])


def _context(tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> tuple[list[int], str]:
    """The last tokens of `before`, from the beginning of a character on, and the text of their whole characters."""
    context: list[int] = []
    whole = ""
    for more in range(_BYTES):
        context = list(before[-CONTEXT_TOKENS - more :])
        text = decode(tokenizer, context)
        # tokens of a character that is not whole yet can make those before them unreadable
        cuts = range(1, min(_BYTES, len(context) + 1)) if text.endswith(_BROKEN) else ()
        texts = [text, *(decode(tokenizer, context[:-cut]) for cut in cuts)]
        whole = max((t.rstrip(_BROKEN) for t in texts), key=len)
        if not whole.startswith(_BROKEN) and (whole or not context):
            break
    return context, whole


def decode_continuation(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], new: Sequence[int]) -> str:
    """What `new` adds to the text of `before`."""
    return ContinuedText(tokenizer, before)(new)
