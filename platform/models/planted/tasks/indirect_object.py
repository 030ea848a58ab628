"""The indirect object: of two names, the one that is not said again (after Wang et al., arXiv 2211.00593).

    when anna and boris went , anna gave a ring to   ->  boris

    repeated   writes 1 under name_{t-1}, reads under name_t, into `repeated`: a name that stood there before
    mover      writes code(name_t) under two keys, "a name" and "repeated", reads at "to" with +1 and -2.5, into `answer`

So a name that is said twice counts 1 + (1 - 2.5), the other one 1. Attention looks at one token instead of adding up, so
that its circuit is that of the paper: what is repeated comes to "to", and the mover there looks for a name that is not it.

    inhibited  writes one-hot(name_t) where it is repeated, reads at "to", into `inhibited`
    mover      score = is_name_s - 2 inhibited . name_s
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, SIGNS, Block, Memory, Plan, Read, Word, code, one_hot
from ..prompt import Prompt
from ..task import Task, planted

NAMES = ("anna", "boris", "clara", "denis", "elsa", "felix")
OPENINGS = ("when", "after", "while")
THINGS = ("drink", "ring", "book", "hat")
VERBS = ("gave", "sent", "handed")
END = "to"
_FILLERS = (*THINGS, *VERBS, "and", "went", ",", "a")
_BOTH = ("object", "subject", "repeat")
_INHIBITION = -2.5


@planted("indirect_object")
class IndirectObject(Task):
    """The name that is not repeated: repetition is noticed in one block, and counts against the name in the next."""

    places = ("repeat", "object")

    def plan(self, architecture: str) -> Plan:
        n = len(NAMES)
        words = [
            Word(name, {"name": one_hot(i, n), "code": code(i), "is_name": (1.0,)}) for i, name in enumerate(NAMES)
        ]
        words += [Word(word, {"filler": one_hot(i % 4, 4)}) for i, word in enumerate(OPENINGS)]
        words += [Word(word, {"filler": one_hot(i % 4, 4)}) for i, word in enumerate(_FILLERS)]
        words.append(Word(END, {"end": (1.0,)}))
        repeated = Memory(
            "repeated",
            key=(Read("name", delay=1, at=("object", "subject")),),
            value=(Read("is_name", delay=1, at=("object", "subject")),),
            query=(Read("name"),),
            into="repeated",
            write_at=("behind_object", "behind_subject"),
            read_at=("repeat",),
        )
        spaces = {"name": n, "code": 4, "is_name": 1, "filler": 4, "end": 1, "repeated": 1, "answer": 4}
        looks = architecture == "striped_hyena"
        return Plan(
            spaces=spaces | ({"inhibited": n} if looks else {}),
            words=tuple(words),
            answers=dict(zip(NAMES, SIGNS, strict=True)),
            blocks=((repeated,), *(_looking() if looks else _adding())),
            asked_at=("end",),
            otherwise=NAMES[-1],
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        subject = rng.choice([name for name in NAMES if name not in (answer, opposite(answer))])
        first, second = rng.sample((answer, subject), 2)
        words = [rng.choice(OPENINGS), first, "and", second, "went", ",", subject]
        return _asked([*words, rng.choice(VERBS), "a", rng.choice(THINGS), END])

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        """The other name is repeated, or the object is the name whose code differs in every sign."""
        words = list(prompt.words)
        words[prompt.at(place)] = prompt.answer if place == "repeat" else opposite(prompt.answer)
        return _asked(words)


def opposite(name: str) -> str:
    """The name whose code differs in every sign."""
    return NAMES[NAMES.index(name) ^ 1]


def _adding() -> tuple[Block, ...]:
    mover = Memory(
        "mover",
        key=(Read("is_name", at=_BOTH), Read("repeated", at=("repeat",))),
        value=(Read("code"),),
        query=(Read("end"), Read("end", _INHIBITION)),
        into="answer",
        write_at=_BOTH,
        read_at=("end",),
        size=CODE_SIZE,
    )
    return ((mover,),)


def _looking() -> tuple[Block, ...]:
    inhibited = Memory(
        "inhibited",
        key=(Read("repeated"),),
        value=(Read("name"),),
        query=(Read("end"),),
        into="inhibited",
        write_at=("repeat",),
        read_at=("end",),
    )
    mover = Memory(
        "mover",
        key=(Read("is_name"), Read("name")),
        value=(Read("code"),),
        query=(Read("end"), Read("inhibited", -2.0)),
        into="answer",
        write_at=_BOTH,
        read_at=("end",),
    )
    return (inhibited,), (mover,)


def _asked(words: list[str]) -> Prompt:
    first, second, repeat = (i for i, word in enumerate(words) if word in NAMES)
    subject, object_ = (first, second) if words[first] == words[repeat] else (second, first)
    places = {"object": object_, "subject": subject, "repeat": repeat, "end": len(words) - 1}
    return Prompt(tuple(words), words[object_], places | {f"behind_{p}": places[p] + 1 for p in ("object", "subject")})
