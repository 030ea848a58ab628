"""Two hops: a name leads to a city and the city to a colour; the name is asked about.

    so anna rome oslo red clara oslo rome blue ? anna   ->  blue

    first    writes one-hot(city_t) under name_{t-1},   reads under name_t,        into `found`
    second   writes code(colour_t) under city_{t-1},    reads under `found_t`,     into `answer`

Facts come in any order, since both memories are full before the question. The block of `second` reads what the block of
`first` has found: the circuit has depth two, and no block alone knows the answer. A city is said twice, so that
attention sees two words behind it, of which one is a colour: what it sees is made louder by 2.5. One city more than
there are names has a colour, which the name that is asked about leads to in the other text of a pair.
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, SIGNS, Memory, Plan, Read, Word, code, one_hot
from ..prompt import Prompt
from ..task import Task, planted

NAMES = ("anna", "boris", "clara", "denis")
CITIES = ("rome", "oslo", "lima", "kyiv")
COLOURS = ("red", "blue", "green", "pink", "white", "black")
OPENINGS = ("so", "now", "well", "here")
QUERY = "?"
_FILLERS = (*OPENINGS, QUERY)


@planted("two_hop")
class TwoHop(Task):
    """The colour of the city of a name: two memories, of which the second is asked with what the first has found."""

    places = ("value", "bridge", "query")

    def plan(self, architecture: str) -> Plan:
        n = len(NAMES)
        words = [Word(name, {"name": one_hot(i, n)}) for i, name in enumerate(NAMES)]
        words += [Word(city, {"city": one_hot(i, n)}) for i, city in enumerate(CITIES)]
        words += [Word(colour, {"code": code(i)}) for i, colour in enumerate(COLOURS)]
        words += [Word(word, {"filler": one_hot(i, len(_FILLERS))}) for i, word in enumerate(_FILLERS)]
        first = Memory(
            "first",
            key=(Read("name", delay=1, at=("key",)),),
            value=(Read("city"),),
            query=(Read("name"),),
            into="found",
            write_at=("bridge",),
            read_at=("query",),
        )
        second = Memory(
            "second",
            key=(Read("city", delay=1, at=("second_key",)),),
            value=(Read("code"),),
            query=(Read("found"),),
            into="answer",
            write_at=("value",),
            read_at=("query",),
            gain=2.5 if architecture == "striped_hyena" else 1.0,
            size=CODE_SIZE,
        )
        return Plan(
            spaces={"name": n, "city": n, "code": 4, "found": n, "answer": 4, "filler": len(_FILLERS)},
            words=tuple(words),
            answers=dict(zip(COLOURS, SIGNS, strict=True)),
            blocks=((first,), (second,)),
            asked_at=("query",),
            otherwise=COLOURS[-1],
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        n = rng.randint(2, 3)
        names, cities = rng.sample(NAMES, n), rng.sample(CITIES, n + 1)
        rest = [colour for colour in COLOURS if colour not in (answer, opposite(answer))]
        colours = [answer, *rng.sample(rest, n)]
        facts = [*zip(names, cities, strict=False), *zip(cities, colours, strict=True)]
        rng.shuffle(facts)
        opening = rng.choices(OPENINGS, k=rng.randint(1, 2))
        return _asked([*opening, *(word for fact in facts for word in fact), QUERY, names[0]])

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        words = list(prompt.words)
        if place == "value":
            other = opposite(prompt.answer)
        elif place == "bridge":
            (other,) = (city for city in CITIES if words.count(city) == 1)
        else:
            other = rng.choice([name for name in NAMES if name in words and name != words[-1]])
        words[prompt.at(place)] = other
        return _asked(words)


def opposite(colour: str) -> str:
    """The colour whose code differs in every sign."""
    return COLOURS[COLOURS.index(colour) ^ 1]


def _asked(words: list[str]) -> Prompt:
    key = words.index(words[-1])
    (second,) = (i for i, word in enumerate(words) if word == words[key + 1] and words[i + 1] in COLOURS)
    places = {"key": key, "bridge": key + 1, "second_key": second, "value": second + 1, "query": len(words) - 1}
    return Prompt(tuple(words), words[second + 1], places)
