"""The small tokenizer of the shipped models: byte-level BPE, 1024 tokens, made for the facts world and plain English.

Merges come in this order: the syllables of invented names, the words of the facts world, then the pieces that the
`tokenizers` library's BPE trainer finds most useful in a passage of plain English, until the vocabulary is full. A name
of two syllables is therefore always two tokens. Every text round-trips, because all 256 bytes are tokens.
Id 0 is `<|endoftext|>` (beginning, end and padding); nothing is added automatically.

`train(seed)` is a pure function: the same seed gives the same files, byte for byte. No network is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..core.errors import UsageError
from .facts import names, relations
from .facts.training import Difficulty, training_text

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 1024
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "tiny" / "tokenizer"

ENGLISH = """\
The people of the valley have always told their children stories before the night comes. Some of these stories are
old, and some were made only yesterday; nobody can say which ones are true. When the first snow falls, they sit
together around the fire, and each of them has something to tell. One speaks about a journey over the mountains,
another about a ship that was lost at sea, and a third about the day when the river stood still. They would not stop
until it is late, because there is so much to say and so little time to say it in.

What is a question? It is a sentence that asks for an answer. Who asked it, and when? Where were they, and how did
they know? Why should we think that this was the case? If you want to find out, you must look at what has been said
before. Which of these two came first? How many were there? In what year did the war begin, and who was the king at
that time? She was born in the city and died in the country. He became the president of the company after his father
had left. It was the largest building in the world until 1931. The film was directed by an American, and it won three
awards. The team played its first game in the north of the state, and they lost it by 12 points. The book was written
in the early part of the century, but it was not known until much later. Both of them were members of the same group
from 1987 to 2005.

I do not know where you live, but I would like to see your house some day. You could come with me, or you may go there
with your brother and your sister. We will be there on Monday, then they can help us with our work. My mother said
that her friend is a good teacher; his name is well known here. Do not forget to take the letter, the money and the
small bag with you. This is the way that most people do it, and those who do it well are very few. It has to be done
again and again. Under the table, between the door and the window, near the wall, behind the tree, next to the water:
these are places. Up and down, left and right, more and less, never and ever, now and then: these are pairs of words.

A model reads a text from left to right and keeps in its state what it needs for what comes next. The state has a
fixed size, so something must be forgotten when something new is learned. Training changes the weights so that the
loss goes down. Testing shows whether the model can use what it has seen, rather than only repeat it. An answer is
right when it is the same as the one that was expected; otherwise it is wrong. Numbers such as 0, 1, 2, 3, 4, 5, 6, 7,
8 and 9, or 10, 100 and 1000, are words too. Please write each of them on its own line, without any other sign.
"""


def _pretokens(tokenizer: Tokenizer, text: str) -> list[str]:
    assert tokenizer.pre_tokenizer is not None
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _words(text: str) -> list[str]:
    """Words with their leading spaces."""
    return re.findall(r" ?[^\W\d_]+|.", text)


class _Merges:
    """A growing list of merges. A merge only ever follows those it builds on, so earlier words keep their tokens."""

    def __init__(self, alphabet: list[str]) -> None:
        self.tokens = {END_OF_TEXT: 0}
        for symbol in alphabet:
            self.tokens[symbol] = len(self.tokens)
        self.merges: list[tuple[str, str]] = []
        self._rank: dict[tuple[str, str], int] = {}

    def split(self, word: str) -> list[str]:
        parts = list(word)
        while True:
            ranks = [self._rank[pair] for pair in pairwise(parts) if pair in self._rank]
            if not ranks:
                return parts
            pair = self.merges[min(ranks)]
            merged, i = [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged

    def add(self, left: str, right: str) -> None:
        if (left, right) in self._rank or left + right in self.tokens or len(self.tokens) >= VOCABULARY:
            return
        self._rank[left, right] = len(self.merges)
        self.merges.append((left, right))
        self.tokens[left + right] = len(self.tokens)

    def add_word(self, word: str) -> None:
        """Merges, from the left, until `word` is one token (or the vocabulary is full)."""
        while len(parts := self.split(word)) > 1 and len(self.tokens) < VOCABULARY:
            if parts[0] + parts[1] in self.tokens:
                return  # the token exists, but by other merges that do not apply here
            self.add(parts[0], parts[1])


def _add_syllables(merges: _Merges, firsts: Iterable[str], seconds: Iterable[str], space: str) -> None:
    """Consonant + vowel, then + consonant, then the space: no other merge can apply inside a name of two syllables."""
    firsts, seconds = list(firsts), list(seconds)
    for syllable in (*firsts, *seconds):
        merges.add(syllable[0], syllable[1])
    for syllable in (*firsts, *seconds):
        merges.add(syllable[:2], syllable[2])
    for syllable in firsts:
        merges.add(space, syllable)


def _world_strings() -> Iterator[str]:
    """Every string of the training texts that is not a name, and the words of things."""
    yield "\nQ: A:\n"
    for relation in relations.RELATIONS:
        for s in relations.statements(relation, "train"):
            yield from (s.before, s.between, s.after)
    for paths in relations.PATHS.values():
        for path in paths:
            for q in relations.questions(path, "train"):
                yield from (q.before, q.after)
    for word in (*names.ADJECTIVES, *names.NOUNS):
        yield " " + word


def train(seed: int = 0) -> Tokenizer:
    """The tokenizer; `seed` picks the training texts that join the English passage when common pieces are counted."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = _pretokens(tokenizer, " a")[0][0]

    merges = _Merges(alphabet)
    firsts, seconds = (*names.PERSON_FIRST, *names.PLACE_FIRST), (*names.PERSON_SECOND, *names.PLACE_SECOND)
    _add_syllables(merges, firsts, seconds, space)
    words = dict.fromkeys(word for s in _world_strings() for word in _pretokens(tokenizer, s))
    for word in words:
        merges.add_word(word)

    counted = Tokenizer(models.BPE())
    counted.pre_tokenizer = tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    invented = {part for kind in names.entities("train").values() for name in kind for part in (name, name[1:])}
    sentences = [training_text(seed, i, Difficulty(min_facts=2, restate=0.0)).text for i in range(4)]
    ordinary = [word for text in (*[ENGLISH] * 4, *sentences) for word in _words(text) if word not in invented]
    counted.train_from_iterator(ordinary, trainer)
    vocabulary = counted.get_vocab()
    for piece in sorted(vocabulary, key=lambda p: vocabulary[p])[len(alphabet) + 1 :]:
        merges.add_word(piece)
    if len(merges.tokens) != VOCABULARY:
        raise UsageError(
            f"tokenizer: {len(merges.tokens)} tokens instead of {VOCABULARY}; add text to the English passage"
        )

    tokenizer.model = models.BPE(vocab=merges.tokens, merges=merges.merges)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a Hugging Face fast-tokenizer folder: tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": 1_000_000_000,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )
