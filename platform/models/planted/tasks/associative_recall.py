"""Associative recall: of pairs of a name and a colour, the colour of the name that is asked about.

    so anna red clara blue denis pink ? clara   ->  blue

    recall   writes code(colour_t) under name_{t-1}, reads under name_t, into `answer`

One block does it: the key is the token before, which the short convolution hands on, so that a coordinate of the state
holds the colour of each name. The block below is busy and adds nothing, except where an architecture needs it to see
the token before (`architectures`).
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, SIGNS, Memory, Plan, Read, Word, code, one_hot
from ..prompt import Prompt
from ..task import Task, planted

NAMES = ("anna", "boris", "clara", "denis", "elsa", "felix")
COLOURS = ("red", "blue", "green", "pink", "white", "black")
OPENINGS = ("so", "now", "well", "here")
QUERY = "?"


@planted("associative_recall")
class AssociativeRecall(Task):
    """The colour that stood behind a name: keys and values side by side in the text, found by the key."""

    places = ("value", "query")

    def plan(self, architecture: str) -> Plan:
        n = len(NAMES)
        words = [Word(name, {"name": one_hot(i, n)}) for i, name in enumerate(NAMES)]
        words += [Word(colour, {"code": code(i)}) for i, colour in enumerate(COLOURS)]
        words += [Word(word, {"filler": one_hot(i, len(OPENINGS))}) for i, word in enumerate(OPENINGS)]
        words.append(Word(QUERY, {}))
        key = Read("name", delay=1, at=("key",))
        recall = Memory(
            "recall", (key,), (Read("code"),), (Read("name"),), "answer", ("value",), ("query",), size=CODE_SIZE
        )
        return Plan(
            spaces={"name": n, "code": 4, "answer": 4, "filler": len(OPENINGS)},
            words=tuple(words),
            answers=dict(zip(COLOURS, SIGNS, strict=True)),
            blocks=((), (recall,)),
            asked_at=("query",),
            otherwise=COLOURS[-1],
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        names = rng.sample(NAMES, rng.randint(2, 4))
        rest = [colour for colour in COLOURS if colour not in (answer, opposite(answer))]
        colours = [answer, *rng.sample(rest, len(names) - 1)]
        pairs = list(zip(names, colours, strict=True))
        rng.shuffle(pairs)
        opening = rng.choices(OPENINGS, k=rng.randint(1, 3))
        return _asked([*opening, *(word for pair in pairs for word in pair), QUERY, names[0]])

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        words = list(prompt.words)
        if place == "value":
            words[prompt.at("value")] = opposite(prompt.answer)
        else:
            words[-1] = rng.choice([w for w in words[:-1] if w in NAMES and w != words[-1]])
        return _asked(words)


def opposite(colour: str) -> str:
    """The colour whose code differs in every sign."""
    return COLOURS[COLOURS.index(colour) ^ 1]


def _asked(words: list[str]) -> Prompt:
    key = words.index(words[-1])
    return Prompt(tuple(words), words[key + 1], {"key": key, "value": key + 1, "query": len(words) - 1})
