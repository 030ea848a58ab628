"""Sampling of a small world: a handful of facts around a chain of relations, each with exactly one reading.

Promises: a (subject, relation) pair is stated once; a thing has one owner; chains of bosses have no circle; no other
stated fact gives a second answer to a question about the chain. Facts beyond the chain are distractors: the first of
them repeats the relation that is asked about, with another subject, and most others repeat a relation of the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from .names import Entities
from .relations import PATHS, RELATIONS, Path

SAME_RELATION = 0.6  # share of distractors that repeat a relation of the chain
KNOWN_SUBJECT = 0.4  # share of distractors about somebody or something already mentioned
KNOWN_OBJECT = 0.2  # share of distractors that point to something already mentioned, where that is unambiguous

_KINDS = {name: (r.subject, r.object, r.exclusive) for name, r in RELATIONS.items()}
_NAMES = tuple(RELATIONS)


class Fact(NamedTuple):
    """`object` is the `relation` of `subject`; entities carry their leading space."""

    relation: str
    subject: str
    object: str


def sample_facts(rng: Random, names: Entities, paths: Sequence[Path], n_facts: int) -> list[Fact]:
    """The facts of the chains `paths`, in order, each with its own entities, then distractors up to `n_facts`.

    The distractors follow the first chain.
    """
    rand = rng.random
    stated: dict[str, list[str]] = {"person": [], "place": [], "thing": []}
    taken: set[tuple[str, str]] = set()  # (relation, entity) that may not be stated again
    facts: list[Fact] = []

    def fresh(kind: str) -> str:
        pool, seen = names[kind], stated[kind]
        name = pool[int(rand() * len(pool))]
        while name in seen:
            name = pool[int(rand() * len(pool))]
        seen.append(name)
        return name

    def state(relation: str, subject: str, target: str, exclusive: bool) -> None:
        facts.append(Fact(relation, subject, target))
        taken.add((relation, subject))
        if exclusive:
            taken.add((relation, target))

    for path in paths:
        subject = fresh(_KINDS[path[0]][0])
        for relation in path:
            _, object_kind, exclusive = _KINDS[relation]
            target = fresh(object_kind)
            state(relation, subject, target, exclusive)
            subject = target

    path = paths[0]
    n_planted = len(facts)
    while len(facts) < n_facts:
        if len(facts) == n_planted:
            relation = path[-1]
        elif rand() < SAME_RELATION:
            relation = path[int(rand() * len(path))]
        else:
            relation = _NAMES[int(rand() * len(_NAMES))]
        subject_kind, object_kind, exclusive = _KINDS[relation]
        known = stated[subject_kind]
        subject = ""
        if known and rand() < KNOWN_SUBJECT:
            subject = known[int(rand() * len(known))]
        if not subject or (relation, subject) in taken:
            subject = fresh(subject_kind)
        known = stated[object_kind]
        target = ""
        if not exclusive and known and rand() < KNOWN_OBJECT:
            target = known[int(rand() * len(known))]
        # an object that already has a boss could close a circle of bosses
        if not target or target == subject or (relation, target) in taken:
            target = fresh(object_kind)
        state(relation, subject, target, exclusive)
    return facts


class Chain(NamedTuple):
    """A question that the facts answer: follow `path` from `head` to `answer` over the facts at `evidence`."""

    path: Path
    head: str
    answer: str
    evidence: tuple[int, ...]


_VALID = {path for paths in PATHS.values() for path in paths}


def chains(facts: list[Fact], max_hops: int = 3) -> list[list[Chain]]:
    """All questions that `facts` answer, by hops: element 0 has the one-hop questions."""
    about: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        about.setdefault(fact.subject, []).append(i)
    found = [[Chain((f.relation,), f.subject, f.object, (i,)) for i, f in enumerate(facts)]]
    for _ in range(1, max_hops):
        longer = []
        for path, head, answer, evidence in found[-1]:
            for i in about.get(answer, ()):
                extended = (*path, facts[i].relation)
                if extended in _VALID:
                    longer.append(Chain(extended, head, facts[i].object, (*evidence, i)))
        found.append(longer)
    return found
