"""The copy circuit twice, one pair of blocks above the other: either path alone suffices, and both say the same.

    first_a, second_a   in blocks 0 and 1: name -> "so" -> "?", over the space `relayed_a`
    first_b, second_b   in blocks 2 and 3: the same over `relayed_b`

They share the embeddings and the answer, and nothing between: no channel, no state and no space of the residual stream.
Without one path the answer is half as loud, which is loud enough; without both it is said no better than by chance.
"""

from __future__ import annotations

from random import Random

from ..plan import CODE_SIZE, Memory, Plan, Read
from ..prompt import Prompt
from ..task import Task, planted
from .copy import Copy

PATHS = ("a", "b")


@planted("redundant_path")
class RedundantPath(Task):
    """The copy circuit twice: no part of either copy is necessary, and both together are."""

    def plan(self, architecture: str) -> Plan:
        once = _COPY.plan(architecture)
        spaces = {name: width for name, width in once.spaces.items() if name != "relayed"}
        return Plan(
            spaces=spaces | {f"relayed_{path}": 4 for path in PATHS},
            words=once.words,
            answers=once.answers,
            blocks=tuple((memory,) for path in PATHS for memory in _copied(path)),
            asked_at=once.asked_at,
            otherwise=once.otherwise,
            d_model=32,
            state_size=8,
        )

    def sample(self, rng: Random, answer: str) -> Prompt:
        return _COPY.sample(rng, answer)

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        return _COPY.swapped(prompt, place, rng)


_COPY = Copy()


def _copied(path: str) -> tuple[Memory, Memory]:
    name, relay, query = (Read(flag) for flag in ("is_name", "is_relay", "is_query"))
    relayed = f"relayed_{path}"
    return (
        Memory(
            f"first_{path}", (name,), (Read("code"),), (relay,), relayed, ("value",), ("relay",),
            size=CODE_SIZE, path=path,
        ),
        Memory(
            f"second_{path}", (relay,), (Read(relayed),), (query,), "answer", ("relay",), ("query",),
            size=CODE_SIZE, path=path,
        ),
    )  # fmt: skip
