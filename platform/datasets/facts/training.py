"""Training texts of the facts world, as text and as packed token batches.

A training text is one block of facts and several questions about it, each with its answer:

    " Velmor lives in Kartis. The boss of Belgon is Velmor.\\nQ: Where does the boss of Belgon live?\\nA: Kartis\\n..."

Several questions per block give several times the signal for the same number of context tokens. Texts open with a
space, so that the first name is made of the same tokens as the others; one in eight does without, as a reader would
type it.

`training_text` and `training_batch` are pure functions of their arguments. `training_batch` never tokenizes a whole
text: it looks up the tokens of the strings that a text is made of, all of which end at token boundaries. The cost is
about 5 ms for 32 rows of 256 tokens on one core. What it does not do: stop, save or count; the training loop does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path as FilePath
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError, UsageError
from .names import entities
from .relations import PATHS, RELATIONS, Path, questions, statements
from .world import chains, sample_facts

MAX_FACTS = 16
BARE_START = 0.125  # share of texts without the leading space
SKEW = 1.5  # > 1 draws small numbers of facts more often, so that easy blocks stay in the mix at every difficulty
UNPLANTED = 0.25  # share of a block's facts that are distractors rather than parts of planted chains
_TRAIN = entities("train")
_NAMES = frozenset(name for names in _TRAIN.values() for name in names)
_NOT_SHAPES = _NAMES | {name[1:] for name in _NAMES} | {"Q:", "\nA:", "\n", "."}


@dataclass(frozen=True)
class Difficulty:
    """How hard training texts are."""

    min_facts: int = 1
    max_facts: int = MAX_FACTS
    n_questions: int = 8  # at most; a small block has fewer distinct questions
    # relative frequency of 1-, 2- and 3-hop questions among those a block can still answer; measured shares at the
    # defaults are 0.55, 0.33 and 0.11, because short blocks have few chains
    hop_weights: tuple[float, float, float] = (0.45, 0.35, 0.2)
    # chance that the next planted chain repeats the relations of the last, so that only the name tells them apart
    repeat: float = 0.6
    # chance that, instead of a question, a fact is stated again in another shape, its object weighted as an answer:
    # key and value stand side by side there, which is the shortest way to learn to look a value up by its key
    restate: float = 0.1
    # chance that a statement is the bare pair of its names, and that a question is the bare name it asks about: the
    # shortest form in which a value is looked up by its key, and the first that a model learns
    bare: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_facts <= self.max_facts <= MAX_FACTS:
            raise UsageError(
                f"facts per text must satisfy 1 <= min_facts <= max_facts <= {MAX_FACTS}, "
                f"not {self.min_facts} and {self.max_facts}"
            )
        if self.n_questions < 1:
            raise UsageError(f"n_questions must be at least 1, not {self.n_questions}")
        if not (0.0 <= self.repeat <= 1.0 and 0.0 <= self.restate < 1.0 and 0.0 <= self.bare <= 1.0):
            raise UsageError(f"repeat, restate and bare are shares, not {self.repeat}, {self.restate}, {self.bare}")
        if len(self.hop_weights) != 3 or min(self.hop_weights) < 0 or not 0 < sum(self.hop_weights) < float("inf"):
            raise UsageError(f"hop_weights must be three numbers >= 0 with a positive sum, not {self.hop_weights}")

    @staticmethod
    def at(progress: float) -> Difficulty:
        """The curriculum; from 0.5 on it is at full difficulty.

        It opens with bare pairs of names, where looking up is learned. From 0.02 to 0.15 sentences take their place,
        one by one: next to a bare statement a whole question is one step away, and next to a bare question a whole
        statement. Then the largest block grows from 4 to 16 facts, and two and three hops come in. Small blocks stay
        in the mix throughout (`SKEW`).
        """
        if not 0.0 <= progress <= 1.0:
            raise UsageError(f"progress must lie in [0, 1], not {progress}")

        def rise(start: float, stop: float) -> float:
            return min(1.0, max(0.0, (progress - start) / (stop - start)))

        chained = rise(0.15, 0.4)
        return Difficulty(
            min_facts=2 - round(rise(0.0, 0.04)),
            max_facts=round(4 + (MAX_FACTS - 4) * rise(0.15, 0.5)),
            hop_weights=(1.0 - 0.55 * chained, 0.35 * chained, 0.2 * chained),
            bare=1.0 - rise(0.02, 0.15),
        )


class TrainingText(NamedTuple):
    """A text and the character spans of its answers: leading space, answer and newline."""

    text: str
    answer_spans: list[tuple[int, int]]


class TrainingBatch(NamedTuple):
    """Packed rows: B sequences that predict T tokens each."""

    tokens: NDArray[np.int64]  # (B, T+1)
    weights: NDArray[np.float32]  # (B, T), loss weight of the targets tokens[:, 1:]
    reset: NDArray[np.bool_]  # (B, T+1), True at the first token of each document


def _draw(rng: Random, weights: tuple[float, float, float], available: tuple[bool, bool, bool]) -> int:
    """An index drawn by weight among the available ones; -1 where none has weight."""
    live = [w if ok else 0.0 for w, ok in zip(weights, available, strict=True)]
    total = live[0] + live[1] + live[2]
    if total <= 0.0:
        return -1
    u = rng.random() * total
    if u < live[0]:
        return 0
    return 1 if u < live[0] + live[1] or not live[2] else 2


def _strings(rng: Random, difficulty: Difficulty) -> tuple[list[str], list[int]]:
    """A text as strings that end at token boundaries, and the indices of the answers among them.

    An answer's string is followed by a string of a newline alone; both belong to the answer.
    """
    rand = rng.random
    low, high = difficulty.min_facts, difficulty.max_facts
    n_facts = low + int((high - low + 1) * rand() ** SKEW)
    planted: list[Path] = []
    room = n_facts
    while room > 0 and (not planted or room > n_facts * UNPLANTED):
        # the longer of two draws, because a chain also answers several shorter questions
        fits = (True, room >= 2, room >= 3)
        hops = 1 + max(_draw(rng, difficulty.hop_weights, fits), _draw(rng, difficulty.hop_weights, fits), 0)
        paths = PATHS[hops]
        repeat = bool(planted) and len(planted[-1]) <= room and rand() < difficulty.repeat
        planted.append(planted[-1] if repeat else paths[int(rand() * len(paths))])
        room -= len(planted[-1])
    facts = sample_facts(rng, _TRAIN, planted, n_facts)
    rng.shuffle(facts)

    strings: list[str] = []
    # without words a pair has one reading only where its subject has one fact
    about = Counter(fact.subject for fact in facts) if difficulty.bare > 0 else {}
    for relation, subject, target in facts:
        if difficulty.bare > 0 and rand() < difficulty.bare and about[subject] == 1:
            strings += (subject, target, ".")
            continue
        shapes = statements(relation, "train")
        before, between, after, subject_first = shapes[int(rand() * len(shapes))]
        if before:
            strings.append(before)
        strings += (subject, between, target, after) if subject_first else (target, between, subject, after)
    if rand() < BARE_START:
        strings[0] = strings[0][1:]
    strings.append("\n")

    askable = chains(facts)
    answers: list[int] = []
    restatements = n_facts + 1
    for _ in range(difficulty.n_questions):
        bare = difficulty.bare > 0 and rand() < difficulty.bare
        if bare or (difficulty.restate > 0 and rand() < difficulty.restate):
            if restatements:
                restatements -= 1
                relation, subject, target = facts[int(rand() * n_facts)]
                if bare and about[subject] == 1:
                    strings += (subject, target, "\n")
                    answers.append(len(strings) - 2)
                    continue
                shapes = statements(relation, "train")
                before, between, _, _ = shapes[int(rand() * len(shapes))]
                strings += (before, subject, between, target, "\n") if before else (subject, between, target, "\n")
                answers.append(len(strings) - 2)
            continue
        i = _draw(rng, difficulty.hop_weights, (bool(askable[0]), bool(askable[1]), bool(askable[2])))
        if i < 0:
            if answers:
                break
            i = 0  # a block too small for the hops wanted still asks one question
        path, head, answer, _ = askable[i].pop(int(rand() * len(askable[i])))
        shapes = questions(path, "train")
        before, after = shapes[int(rand() * len(shapes))]
        strings.append("Q:")
        if before:
            strings.append(before)
        strings += (head, after, "\nA:", answer, "\n")
        answers.append(len(strings) - 2)
    return strings, answers


def training_text(seed: int, index: int, difficulty: Difficulty) -> TrainingText:
    """Text number `index` of the stream of `seed`; it uses training names and training sentence shapes only."""
    strings, answers = _strings(Random(f"facts-{seed}-{index}"), difficulty)
    ends: list[int] = []
    at = 0
    for s in strings:
        at += len(s)
        ends.append(at)
    return TrainingText("".join(strings), [(ends[i - 1], ends[i + 1]) for i in answers])


class _StringTokens(dict[str, list[int]]):
    """Tokens of the strings that texts are made of, encoded at first use."""

    def __init__(self, folder: FilePath) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a tokenizer folder as made by mplat.datasets.tokenizer")
        self._tokenizer = Tokenizer.from_file(str(path))
        end = self._tokenizer.token_to_id("<|endoftext|>")
        if end is None:
            raise InputError(f"{path}: has no token <|endoftext|>, which ends each training document")
        self.end_of_text: int = end

    @cached_property
    def marks(self) -> frozenset[int]:
        """The tokens of punctuation, which end sentences."""
        return frozenset(token for mark in (".", "?", "\n") for token in self[mark])

    @cached_property
    def words(self) -> tuple[int, ...]:
        """The tokens of the sentence shapes of training, without punctuation."""
        pieces = [p for r in RELATIONS for shape in statements(r, "train") for p in shape if isinstance(p, str)]
        pieces += [p for paths in PATHS.values() for path in paths for shape in questions(path, "train") for p in shape]
        return tuple(sorted({token for piece in pieces for token in self[piece]} - self.marks))

    def __missing__(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self[text] = ids
        return ids


@lru_cache(maxsize=4)
def _string_tokens(folder: str) -> _StringTokens:
    return _StringTokens(FilePath(folder))


class _ShapeNoise:
    """The tokens of strings, those of sentence shapes with noise; without noise nothing is drawn."""

    def __init__(self, rng: Random, share: float, table: _StringTokens) -> None:
        self._rng, self._share, self._table = rng, share, table

    def __call__(self, string: str) -> list[int]:
        tokens = self._table[string]
        if self._share == 0.0 or string in _NOT_SHAPES:
            return tokens
        noisy: list[int] = []
        for token in tokens:
            if self._rng.random() >= self._share or token in self._table.marks:
                noisy.append(token)
                continue
            kind = int(self._rng.random() * 3)
            if kind == 1:
                noisy.append(token)
            if kind > 0:
                noisy.append(self._rng.choice(self._table.words))
        return noisy


def training_batch(
    seed: int,
    step: int,
    batch_size: int,
    sequence_length: int,
    difficulty: Difficulty,
    tokenizer_folder: str | FilePath,
    answer_weight: float = 1.0,
    context_weight: float = 0.1,
    shape_noise: float = 0.0,
) -> TrainingBatch:
    """Batch number `step` of the stream of `seed`: texts packed into rows of `sequence_length + 1` tokens.

    Each document ends with `<|endoftext|>`; the last one of a row is cut where the row is full. Answer tokens (the
    newline after the answer included) weigh `answer_weight`, all others `context_weight`. A target that is the first
    token of a document weighs 0: nothing announces it.

    shape_noise: share of the tokens of sentence shapes (all but names, answers, punctuation and the cues of question
    and answer) that are left out, replaced by a random token or followed by one, each a third of the time. Who reads
    names wherever they stand has no trouble with sentence shapes that training does not have.
    """
    if not 0.0 <= shape_noise <= 1.0:
        raise UsageError(f"shape_noise is a share, not {shape_noise}")
    if batch_size < 1 or sequence_length < 1:
        raise UsageError(f"batch_size and sequence_length must be at least 1, not {batch_size} and {sequence_length}")
    table = _string_tokens(str(tokenizer_folder))
    width = sequence_length + 1
    all_tokens, all_weights, all_resets = [], [], np.zeros((batch_size, width), dtype=np.bool_)
    for row in range(batch_size):
        rng = Random(f"facts-{seed}-{step}-{row}")
        noise = _ShapeNoise(Random(f"noise-{seed}-{step}-{row}"), shape_noise, table)
        tokens: list[int] = []
        weighted: list[int] = []  # positions of answer tokens
        while len(tokens) < width:
            all_resets[row, len(tokens)] = True
            strings, answers = _strings(rng, difficulty)
            done = 0
            for i in answers:
                for s in strings[done:i]:
                    tokens += noise(s)
                start = len(tokens)
                tokens += table[strings[i]]
                tokens += table["\n"]
                weighted += range(start, len(tokens))
                done = i + 2
            for s in strings[done:]:
                tokens += noise(s)
            tokens.append(table.end_of_text)
        weights = np.full(len(tokens), context_weight, dtype=np.float32)
        weights[weighted] = answer_weight
        all_tokens.append(tokens[:width])
        all_weights.append(weights[:width])
    weights = np.stack(all_weights)
    weights[all_resets] = 0.0
    return TrainingBatch(np.array(all_tokens, dtype=np.int64), weights[:, 1:].copy(), all_resets)
