"""Filler: sentences that are about something else, by which a prompt gets a number of tokens that is asked for.

They are of the prompts' own kind: what other prompts tell, or facts of the generated world. A sentence is not put into
a prompt that has one of its names or whose answer it holds, so that the answer stays the only one. A name is a phrase
of a given list, else a word that has a capital wherever it stands.

The same prompt gets the same sentences in the same order, the nearest to its own text first, at every length: a longer
one goes on farther away. The farthest sentence is one, or the end of one, by which the number of tokens comes out
exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import combinations, islice
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ...models.decoding.text import Encoded

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_CUE = re.compile(r"\s*\w+:")  # begins a line that asks or that is to be continued
_FURTHER = 30  # sentences of which one may be the farthest, or its end
_DROPPED = 3  # sentences that may be taken back, and as many taken instead, because no end fits before them
_TRIES = 20  # ends that are tried in the text


class Filled(NamedTuple):
    """A text with filler in it. encoded: None where it cannot have the length; status and reason then say why. added:
    how many characters were put in."""

    encoded: Encoded | None
    added: int = 0
    status: str = "ok"
    reason: str = ""


def told(text: str, answer: str, mark: str = ".") -> list[str]:
    """The sentences of a prompt that tell something: its lines but for those that ask (`Q: ...`). A prompt of a single
    line is what it says with its answer, and `mark` behind."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [f"{lines[0].rstrip()} {answer.strip()}{mark}"]
    return [s for line in lines if not _CUE.match(line) for s in _SENTENCE_END.split(line.strip()) if s]


class Filler:
    """Sentences to put into prompts. names: what two texts must not share; default: their words with a capital. read:
    a text in the tokens that are counted."""

    def __init__(
        self, sentences: Iterable[str], read: Callable[[str], Encoded], names: Collection[str] | None = None
    ) -> None:
        self._sentences = list(dict.fromkeys(s for sentence in sentences if (s := sentence.strip())))
        self._read = read
        self._names = frozenset(_capitalised(self._sentences) if names is None else names)
        self._about = [_phrases(sentence) & self._names for sentence in self._sentences]
        self._sizes: dict[str, int] = {}

    def bring(self, text: str, at: int, length: int, *, name: str, answers: Sequence[str]) -> Filled:
        """`text` with filler at character `at`, so that it has `length` tokens. name: of the prompt, which decides the
        order of the sentences."""
        own = self._read(text)
        missing = length - len(own.ids)
        if missing < 0:
            return Filled(None, 0, "too_long", f"{len(own.ids)} tokens, more than the length {length}")
        if missing == 0:
            return Filled(own)
        fitting = self._fitting(text, name, answers)
        chosen: list[str] = []
        tokens = 0
        further: list[str] = []  # those behind, of which one may fill what is left
        for sentence in fitting:
            if tokens + self._size(sentence) > missing:
                further = [sentence, *islice(fitting, _FURTHER)]
                break
            chosen.append(sentence)
            tokens += self._size(sentence)
        if not further and tokens < missing:
            there = f"the filler of its kind has {tokens} tokens, {missing} are missing"
            return Filled(None, 0, "too_short", f"{len(own.ids)} tokens; {there}")
        return self._exactly(text, at, length, chosen, further)

    def _fitting(self, text: str, name: str, answers: Sequence[str]) -> Iterator[str]:
        """Sentences that say nothing about what `text` names or is to be answered with, nor stand in it."""
        named = _phrases(text) & self._names
        asked = [re.compile(rf"(?<!\w){re.escape(a.strip())}(?!\w)") for a in answers if a.strip()]
        for number in Random(f"filler-{name}").sample(range(len(self._sentences)), len(self._sentences)):
            sentence = self._sentences[number]
            if not (self._about[number] & named or sentence in text or any(a.search(sentence) for a in asked)):
                yield sentence

    def _size(self, sentence: str) -> int:
        """Its tokens behind another one."""
        if sentence not in self._sizes:
            encoded = self._read(f" {sentence}")
            self._sizes[sentence] = len(encoded.ids) - encoded.added
        return self._sizes[sentence]

    def _exactly(self, text: str, at: int, length: int, chosen: list[str], further: Sequence[str]) -> Filled:
        """`text` with `chosen`, the nearest first, and before them the end of a further sentence, where one is needed
        for `length`: sentences need not have the tokens together that they have alone."""
        for whole_words in (True, False):
            for dropped in range(min(len(chosen), _DROPPED) + 1):
                kept = chosen[: len(chosen) - dropped]
                found = self._put(text, at, kept)
                left = length - len(found[0].ids)
                if left == 0:
                    return Filled(*found)
                behind = [*reversed(chosen[len(kept) :]), *further]
                for more in islice(self._sums(behind, left, whole_words), _TRIES):
                    found = self._put(text, at, [*kept, *more])
                    if len(found[0].ids) == length:
                        return Filled(*found)
        return Filled(None, 0, "no_length", f"no end of a sentence of filler gives exactly {length} tokens")

    def _sums(self, sentences: Sequence[str], tokens: int, whole_words: bool) -> Iterator[list[str]]:
        """Sentences, and behind them the end of another one, that have so many tokens together."""
        for count in range(_DROPPED + 1):
            for several in combinations(self._one_of_a_size(sentences, count), count):
                others = [sentence for sentence in sentences if sentence not in several]
                for end in self._ends(others, tokens - sum(map(self._size, several)), whole_words):
                    yield [*several, end]

    def _one_of_a_size(self, sentences: Sequence[str], count: int) -> list[str]:
        """Of the sentences of each size the first `count`: others would give the same sums."""
        there: dict[int, list[str]] = {}
        for sentence in sentences:
            there.setdefault(self._size(sentence), []).append(sentence)
        return [sentence for its in there.values() for sentence in its[:count]]

    def _ends(self, sentences: Sequence[str], tokens: int, whole_words: bool) -> Iterator[str]:
        """Ends of sentences of so many tokens that begin with a word, or within one."""
        for sentence in sentences if tokens > 0 else ():
            if self._size(sentence) >= tokens:
                for start, character in enumerate(sentence):
                    begins = not start or sentence[start - 1].isspace()
                    if begins == whole_words and not character.isspace() and self._size(sentence[start:]) == tokens:
                        yield sentence[start:]

    def _put(self, text: str, at: int, sentences: Sequence[str]) -> tuple[Encoded, int]:
        """`text` with the sentences, the nearest to its end first, and how many characters that adds."""
        if not sentences:
            return self._read(text), 0
        before, after = text[:at], text[at:]
        leads = not before[-1].isspace() if before else text[:1] == " "
        piece = (" " if leads else "") + " ".join(reversed(sentences)) + ("" if after[:1].isspace() else " ")
        return self._read(before + piece + after), len(piece)


def _phrases(text: str) -> set[str]:
    """Its words, and each two that stand side by side."""
    words = _WORD.findall(text)
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))}


def _capitalised(sentences: Sequence[str]) -> set[str]:
    words = {word for sentence in sentences for word in _WORD.findall(sentence)}
    return {word for word in words if word[0].isupper() and word.lower() not in words}
