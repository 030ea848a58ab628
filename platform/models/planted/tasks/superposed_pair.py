"""Two features in one dimension: hot and cold things, of which a text has one at most (Elhage et al., arXiv 2209.10652).

    the flame and then so was ?  ->  hot        the stone and then so was ?  ->  mild

    thing    writes (is hot, is cold) at the thing, reads at "so", into `mixed` = hot - cold       one dimension
    answer   writes (silu(4 mixed), silu(-4 mixed)) / 4 at "so", reads at "?", into `answer`

In `mixed` the features are an antipodal pair, 1 and -1: each is read with the other in its way, and they can be told
apart because they never meet. silu lets little of the other through, silu(-4) = -0.07.
"""

from __future__ import annotations

from random import Random

from ..plan import Memory, Plan, Read, Word, one_hot
from ..prompt import Prompt
from ..task import Task, planted
from .copy import FILLERS, QUERY, RELAY

THINGS = {"hot": ("flame", "ember"), "cold": ("frost", "snow"), "mild": ("stone", "leaf")}
_HOLDS = {"hot": (1.0, 0.0), "cold": (0.0, 1.0), "mild": (0.0, 0.0)}
_SHARP = 4.0


@planted("superposed_pair")
class SuperposedPair(Task):
    """Two features share one dimension of the residual stream, as an antipodal pair."""

    def plan(self, architecture: str) -> Plan:
        words = [
            Word(thing, {"kind": _HOLDS[answer], "is_thing": (1.0,)})
            for answer, things in THINGS.items()
            for thing in things
        ]
        words += [Word(answer, {}) for answer in THINGS]
        words += [Word(filler, {"filler": one_hot(i, len(FILLERS))}) for i, filler in enumerate(FILLERS)]
        words += [Word(RELAY, {"is_relay": (1.0,)}), Word(QUERY, {"is_query": (1.0,)})]
        thing = Memory(
            "thing",
            key=(Read("is_thing"),),
            value=(Read("kind"),),
            query=(Read("is_relay"),),
            into="mixed",
            write_at=("value",),
            read_at=("relay",),
            matrix=((1.0, -1.0),),
        )
        answer = Memory(
            "answer",
            key=(Read("is_relay"),),
            value=(Read("mixed", _SHARP), Read("mixed", -_SHARP)),
            query=(Read("is_query"),),
            into="answer",
            write_at=("relay",),
            read_at=("query",),
            gain=1.0 / _SHARP,
            size=_SHARP,
        )
        return Plan(
            spaces={
                "kind": 2, "is_thing": 1, "is_relay": 1, "is_query": 1, "mixed": 1, "answer": 2,
                "filler": len(FILLERS),
            },
            words=tuple(words),
            answers={"hot": (1.0, -1.0), "cold": (-1.0, 1.0), "mild": (0.0, 0.0)},
            blocks=((thing,), (answer,)),
            asked_at=("query",),
            otherwise="mild",
            features=(("hot", "mixed", (1.0,)), ("cold", "mixed", (-1.0,))),
            d_model=24,
            state_size=8,
        )  # fmt: skip

    def sample(self, rng: Random, answer: str) -> Prompt:
        before, between, behind = (rng.choices(FILLERS, k=rng.randint(1, 3)) for _ in range(3))
        words = [*before, rng.choice(THINGS[answer]), *between, RELAY, *behind, QUERY]
        places = {"value": len(before), "relay": words.index(RELAY), "query": len(words) - 1}
        return Prompt(tuple(words), answer, places)

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        """A thing with the other feature; with either where it had none."""
        other = {"hot": "cold", "cold": "hot", "mild": rng.choice(("hot", "cold"))}[prompt.answer]
        words = list(prompt.words)
        words[prompt.at(place)] = rng.choice(THINGS[other])
        return Prompt(tuple(words), other, prompt.places)
