"""A name is kept over two legs: from the name to the relay "so" in one memory, from there to "?" in another one.

    the and anna with of so then was ?   ->  north

    first    writes code(name) at the name,        reads at "so",  into `relayed`
    second   writes `relayed` at "so",             reads at "?",   into `answer`

Each memory has a single key, so that it is one coordinate of the state for each channel of the code. An answer's logit
is the product of its signs with what `answer` holds.
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, SIGNS, Memory, Plan, Read, Word, code, one_hot
from ..prompt import Prompt
from ..task import Task, planted

NAMES = ("anna", "boris", "clara", "denis")
ANSWERS = ("north", "south", "east", "west")
FILLERS = ("the", "and", "of", "then", "with", "was")
RELAY, QUERY = "so", "?"


@planted("copy")
class Copy(Task):
    """A name is copied over a relay, through one state coordinate for each channel of its code."""

    def plan(self, architecture: str) -> Plan:
        words = [Word(name, {"code": code(i), "is_name": (1.0,)}) for i, name in enumerate(NAMES)]
        words += [Word(answer, {}) for answer in ANSWERS]
        words += [Word(filler, {"filler": one_hot(i, len(FILLERS))}) for i, filler in enumerate(FILLERS)]
        words += [Word(RELAY, {"is_relay": (1.0,)}), Word(QUERY, {"is_query": (1.0,)})]
        first = Memory(
            "first",
            (Read("is_name"),),
            (Read("code"),),
            (Read("is_relay"),),
            "relayed",
            ("value",),
            ("relay",),
            size=CODE_SIZE,
        )
        second = Memory(
            "second",
            (Read("is_relay"),),
            (Read("relayed"),),
            (Read("is_query"),),
            "answer",
            ("relay",),
            ("query",),
            size=CODE_SIZE,
        )
        return Plan(
            spaces={"code": 4, "is_name": 1, "is_relay": 1, "is_query": 1, "relayed": 4, "answer": 4, "filler": 6},
            words=tuple(words),
            answers=dict(zip(ANSWERS, SIGNS, strict=False)),
            blocks=((first,), (second,)),
            asked_at=("query",),
            d_model=24,
            state_size=8,
            otherwise=ANSWERS[-1],
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        before, between, behind = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
        return prompt(ANSWERS.index(answer), rng.choices(FILLERS, k=before + between + behind), before, between)

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        """The name whose code differs in every sign."""
        other = ANSWERS.index(prompt.answer) ^ 1
        words = list(prompt.words)
        words[prompt.at("value")] = NAMES[other]
        return Prompt(tuple(words), ANSWERS[other], prompt.places)


def prompt(name: int, fillers: list[str], before: int, between: int) -> Prompt:
    """A prompt about the name of this number; of the fillers so many stand before it, and before the relay."""
    first, second, last = fillers[:before], fillers[before : before + between], fillers[before + between :]
    words = [*first, NAMES[name], *second, RELAY, *last, QUERY]
    places = {"value": before, "relay": before + between + 1, "query": len(words) - 1}
    return Prompt(tuple(words), ANSWERS[name], places)
