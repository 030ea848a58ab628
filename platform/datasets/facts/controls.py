"""Controls: questions of the same form that their text does not answer. Who answers one all the same is guessing.

    absent_entity    the last fact of the chain is stated of somebody or something else: the answer is still named, but
                     no longer as the answer
    absent_relation  the last fact of the chain is replaced by another one about the same subject, with the same object
                     where another relation joins the two kinds; a thing has one relation only, so that questions that
                     end in "kept_in" have no such control
    deleted          every sentence of the evidence is missing
    deleted_hop_N    only sentence N of the chain is missing; for chains of two and three hops

The gold of a control is "no answer". Its `answers` are therefore not right but what a guess would be: the original's
answer first, then every other name of the kind asked for that the text states. A match with any of them is a guess, a
match with the first names the original answer. `derived_from` is the id of the original.

Promises: nothing but the facts named above differs from the original, question and sentence shapes included; no chain
of stated facts answers the question; the same seed gives the same controls, whichever others are made. A kind of
control is one function under `@control(name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from ...core.errors import UsageError
from ...core.registry import Registry
from .asked import Asked, Stated
from .names import Entities
from .relations import RELATIONS, statements
from .world import Fact, chains

#: the changed question, or None where a question has no such control
Control = Callable[[Asked, Entities, Random], Asked | None]
CONTROLS: Registry[Control] = Registry("control", "control", __name__)
control, control_names = CONTROLS.itself, CONTROLS.names


def controls_of(original: Asked, kinds: Sequence[str], names: Entities, seed: int) -> Iterator[Asked]:
    """The controls of `original` of those `kinds` that it has. Raises UsageError for an unknown kind."""
    for kind in kinds:
        changed = CONTROLS.get(kind)(original, names, Random(f"facts-control-{kind}-{seed}-{original.id}"))
        if changed is None:
            continue
        facts = [s.fact for s in changed.stated]
        found = chains(facts)[len(original.path) - 1]
        assert all((c.path, c.head) != (original.path, original.head) for c in found), (
            f"{original.id}-{kind} has an answer"
        )
        yield changed._replace(
            id=f"{original.id}-{kind}",
            evidence=(),
            control=kind,
            derived_from=original.derived_from or original.id,
            note=f"control={kind} a match is a guess; {original.note}",
        )


@control("absent_entity")
def absent_entity(asked: Asked, names: Entities, rng: Random) -> Asked:
    """The last fact of the chain, stated of an entity that is named nowhere else."""
    at = asked.evidence[-1]
    relation, _, target = asked.stated[at].fact
    subject = _unnamed(asked, names[RELATIONS[relation].subject], rng)
    return _with(asked, at, Stated(Fact(relation, subject, target), asked.stated[at].shape))


@control("absent_relation")
def absent_relation(asked: Asked, names: Entities, rng: Random) -> Asked | None:
    """Another relation in place of the last of the chain."""
    at = asked.evidence[-1]
    relation, subject, target = asked.stated[at].fact
    kind = RELATIONS[relation]
    stated = {(s.fact.relation, entity) for s in asked.stated for entity in (s.fact.subject, s.fact.object)}
    free = [r for r in RELATIONS.values() if r.subject == kind.subject and (r.name, subject) not in stated]
    keeping = [r for r in free if r.object == kind.object and not (r.exclusive and (r.name, target) in stated)]
    if not free:
        return None
    other = rng.choice(keeping or free)
    if not keeping:
        target = _unnamed(asked, names[other.object], rng)
    return _with(asked, at, Stated(Fact(other.name, subject, target), rng.choice(statements(other.name, asked.split))))


@control("deleted")
def deleted(asked: Asked, names: Entities, rng: Random) -> Asked:
    """Without any of the evidence."""
    return _without(asked, asked.evidence)


def _deleted_hop(hop: int) -> Control:
    def delete(asked: Asked, names: Entities, rng: Random) -> Asked | None:
        chain = len(asked.path)
        return _without(asked, asked.evidence[hop - 1 : hop]) if 1 < chain >= hop else None

    return delete


for _hop in (1, 2, 3):
    control(f"deleted_hop_{_hop}")(_deleted_hop(_hop))


def _with(asked: Asked, at: int, instead: Stated) -> Asked:
    return asked._replace(stated=(*asked.stated[:at], instead, *asked.stated[at + 1 :]))


def _without(asked: Asked, positions: Sequence[int]) -> Asked:
    return asked._replace(stated=tuple(s for i, s in enumerate(asked.stated) if i not in positions))


def _unnamed(asked: Asked, pool: Sequence[str], rng: Random) -> str:
    """An entity of `pool` that the prompt does not name."""
    named = {asked.head, *(name for s in asked.stated for name in (s.fact.subject, s.fact.object))}
    free = [name for name in pool if name not in named]
    if not free:
        raise UsageError("every name of the facts world is in the text, none is left for a control; use fewer facts")
    return rng.choice(free)
