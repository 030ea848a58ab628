"""Induction: what followed an earlier occurrence of the last word follows it again (Olsson et al., arXiv 2209.11895).

    the oak elm fir ash elm   ->  fir

    before   out_t = one-hot(word_{t-1}), into `before`                      (previous-token part)
    match    writes code(word_t) under `before_t`, reads under word_t        (induction part), into `answer`

So what followed a word stands in the state under that word: a coordinate for each word, a channel for each sign of the
code. Only the last word of a prompt occurs twice.
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, SIGNS, Memory, Plan, Read, Shift, Word, code, one_hot
from ..prompt import Prompt
from ..task import Task, planted

TREES = ("oak", "elm", "fir", "ash", "yew", "box")
FILLERS = ("the", "and", "of", "then", "with", "was")


@planted("induction")
class Induction(Task):
    """What followed a word before follows it again: a previous-token part and a matching part in the block above."""

    places = ("value", "query")

    def plan(self, architecture: str) -> Plan:
        n = len(TREES)
        words = [Word(tree, {"word": one_hot(i, n), "code": code(i)}) for i, tree in enumerate(TREES)]
        words += [Word(filler, {"filler": one_hot(i, len(FILLERS))}) for i, filler in enumerate(FILLERS)]
        before = Shift("before", "word", "before", at=("value",), source_at=("key",))
        match = Memory(
            "match",
            (Read("before"),),
            (Read("code"),),
            (Read("word"),),
            "answer",
            ("value",),
            ("query",),
            size=CODE_SIZE,
        )
        return Plan(
            spaces={"word": n, "code": 4, "before": n, "answer": 4, "filler": len(FILLERS)},
            words=tuple(words),
            answers=dict(zip(TREES, SIGNS, strict=True)),
            blocks=((before,), (match,)),
            asked_at=("query",),
            otherwise=TREES[-1],
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        """Key and value among two or three other trees; the value's opposite is not among them, so that a pair can have
        it instead."""
        rest = [tree for tree in TREES if tree not in (answer, opposite(answer))]
        rng.shuffle(rest)
        key, others = rest[0], rest[1 : rng.randint(3, 4)]
        at = rng.randint(1, len(others))  # something stands before the key, so that another one can be asked for
        trees = [*others[:at], key, answer, *others[at:], key]
        return _asked([*rng.choices(FILLERS, k=rng.randint(1, 6)), *trees])

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        words = list(prompt.words)
        if place == "value":
            words[prompt.at("value")] = opposite(prompt.answer)
        else:
            asked = prompt.words[-1]
            others = [w for w in prompt.words[:-2] if w in TREES and w != asked]
            words[-1] = rng.choice(others)
        return _asked(words)


def opposite(tree: str) -> str:
    """The tree whose code differs in every sign."""
    return TREES[TREES.index(tree) ^ 1]


def _asked(words: list[str]) -> Prompt:
    key = words.index(words[-1])
    return Prompt(tuple(words), words[key + 1], {"key": key, "value": key + 1, "query": len(words) - 1})
