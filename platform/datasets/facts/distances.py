"""Distance sweeps: the same question and evidence, with the evidence nearer to the question or further from it.

All texts of one question hold the same sentences: its evidence, as one block, and filler facts about other entities.
Only the place of the block differs, so that distance is not mixed with the length of the text. A distance is what
stands between the block and the question, in tokens of the shipped tokenizer or in facts; sentences are chosen so that
the tokens come out exactly, or as near as sentences can come (nothing lies between 0 and the shortest sentence, and
little just above it). `distance_tokens` is counted on the finished text.

Promises: fillers name no entity of the evidence or the question and repeat its relations as often as other distractors
do; no (subject, relation) is stated twice; the same seed and distances give the same texts. Raises UsageError where
the world has not enough names for the longest distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from random import Random

from ...core.errors import UsageError, suggest
from .asked import Asked, Stated
from .names import Entities, entities
from .relations import RELATIONS, Statement, statements
from .world import SAME_RELATION, Fact

UNITS = ("tokens", "facts")
LEVELS_SWEPT = (1, 2, 3)  # levels 4-6 are the same questions among more facts, which is what a sweep varies itself
MAX_DISTANCE = 100_000
_TAIL = 150  # tokens from which on sentences are chosen by what is left; larger numbers are sums of sentences anyway


def check_distances(distances: Sequence[int], unit: str) -> None:
    """Raises UsageError for distances that cannot be asked for."""
    if unit not in UNITS:
        raise UsageError(f"distances are counted in tokens or in facts, not in {unit!r}; {suggest(unit, UNITS)}")
    if not distances or any(not 0 <= d <= MAX_DISTANCE for d in distances) or len(set(distances)) != len(distances):
        raise UsageError(f"give at least one distance from 0 to {MAX_DISTANCE}, none twice, not {list(distances)}")


def sweep(original: Asked, distances: Sequence[int], unit: str, names: Entities, seed: int) -> list[Asked]:
    """`original` at each of `distances`, in their order."""
    fillers = Fillers(original, names, Random(f"facts-distance-{seed}-{original.id}"))
    segments: list[list[Stated]] = []  # the one nearest to the question first
    reached = 0
    for near, far in pairwise([0, *sorted(distances)]):
        segment = fillers.facts(far - near) if unit == "facts" else fillers.tokens(far - reached)
        segments.append(segment)
        reached += sum(map(tokens_of, segment))
    order = sorted(original.evidence)
    block = [original.stated[i] for i in order]
    at_end = {distance: i + 1 for i, distance in enumerate(sorted(distances))}
    made = []
    for distance in distances:
        behind = [s for segment in reversed(segments[: at_end[distance]]) for s in segment]
        before = [s for segment in reversed(segments[at_end[distance] :]) for s in segment]
        stated = (*before, *block, *behind)
        evidence = tuple(len(before) + order.index(i) for i in original.evidence)
        text = " " + " ".join(s.sentence for s in stated)
        up_to_block = " " + " ".join(s.sentence for s in (*before, *block))
        tokens = count_tokens(text) - count_tokens(up_to_block)
        made.append(
            original._replace(
                id=f"{original.id}-{'d' if unit == 'tokens' else 'f'}{distance:05d}",
                stated=stated,
                evidence=evidence,
                derived_from=original.id,
                distance_target=distance,
                distance_tokens=tokens,
                note=f"distance={distance} {unit}, {tokens} tokens and {len(behind)} facts between; ",
            )
        )
    return made


@cache
def _tokenizer() -> Callable[[str], int]:
    from tokenizers import Tokenizer

    from ..tokenizer import SHIPPED

    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def count_tokens(text: str) -> int:
    """Tokens of `text` in the tokenizer that the shipped models share."""
    return _tokenizer()(text)


def tokens_of(stated: Stated) -> int:
    """Tokens of a sentence with the space before it."""
    return count_tokens(" " + stated.sentence)


class Fillers:
    """Facts that say nothing about the question, each entity in each relation once."""

    def __init__(self, asked: Asked, names: Entities, rng: Random) -> None:
        self._rng, self._asked = rng, asked
        chain = {asked.head, *(n for i in asked.evidence for n in asked.stated[i].fact[1:])}
        others = {kind: [name for name in pool if name not in chain] for kind, pool in names.items()}
        # one name of each kind stays unnamed, for controls
        self._pool = {kind: rng.sample(pool, len(pool))[1:] for kind, pool in others.items()}
        self._subjects = {r.name: self._shuffled(r.subject) for r in RELATIONS.values()}
        self._things = self._shuffled("thing")  # each has one owner
        self._boss: dict[str, str] = {}
        self._stated = 0

    def _shuffled(self, kind: str) -> list[str]:
        return self._rng.sample(self._pool[kind], len(self._pool[kind]))

    def facts(self, wanted: int) -> list[Stated]:
        """`wanted` filler facts."""
        made = []
        for _ in range(wanted):
            relation = self._relation(set(RELATIONS))
            made.append(self._state(relation, self._rng.choice(statements(relation, self._asked.split))))
        return made

    def tokens(self, wanted: int) -> list[Stated]:
        """Filler facts of `wanted` tokens, or of the reachable number next to it."""
        sizes = _shape_tokens(self._asked.split)
        made: list[Stated] = []
        left = wanted
        while left > 0:
            fitting = set(sizes)
            if left <= _TAIL:
                there = {key: n for key, n in sizes.items() if self._is_left(key[0])}
                sums = _sums(frozenset(there.values()))
                left = min(sums, key=lambda n: (abs(n - left), n))  # changes it only where it cannot be reached
                if left == 0:
                    break
                fitting = {key for key, n in there.items() if left - n in sums}
            relation = self._relation({name for name, _ in fitting})
            shapes = [shape for shape in statements(relation, self._asked.split) if (relation, shape) in fitting]
            made.append(self._state(relation, self._rng.choice(shapes)))
            left -= tokens_of(made[-1])
        return made

    def _relation(self, fitting: set[str]) -> str:
        """One of the relations that a fact is left of; the first repeats the one that is asked for, where it fits."""
        free = [name for name in RELATIONS if name in fitting and self._is_left(name)]
        if not free:
            raise UsageError(
                f"the names of the facts world are used up after {self._stated} filler facts; ask for shorter distances"
            )
        path = self._asked.path
        wished = path[-1:] if self._stated == 0 else path if self._rng.random() < SAME_RELATION else ()
        return self._rng.choice([name for name in wished if name in free] or free)

    def _is_left(self, name: str) -> bool:
        needed = 2 if name in ("friend", "works_for") else 1  # somebody has no boss: bosses form no circle
        return len(self._subjects[name]) >= needed and (name != "owns" or bool(self._things))

    def _state(self, name: str, shape: Statement) -> Stated:
        self._stated += 1
        subject = self._subjects[name].pop()
        if name == "friend":  # reads both ways: neither has another friend
            target = self._subjects[name].pop()
        elif name == "owns":
            target = self._things.pop()
        else:
            target = self._rng.choice(self._pool[RELATIONS[name].object])
            while target == subject or (name == "works_for" and self._is_above(subject, target)):
                target = self._rng.choice(self._pool[RELATIONS[name].object])
            if name == "works_for":
                self._boss[subject] = target
        return Stated(Fact(name, subject, target), shape)

    def _is_above(self, person: str, other: str) -> bool:
        """Whether `person` is a boss of `other`, directly or not: then `other` cannot be a boss of `person`."""
        at: str | None = other
        while at is not None and at != person:
            at = self._boss.get(at)
        return at == person


@cache
def _shape_tokens(split: str) -> dict[tuple[str, Statement], int]:
    """Tokens of every sentence shape; every name of the pools has two tokens."""
    names = entities(split)

    def example(relation: str) -> Fact:
        kind = RELATIONS[relation]
        return Fact(relation, names[kind.subject][0], names[kind.object][-1])

    return {(r, shape): tokens_of(Stated(example(r), shape)) for r in RELATIONS for shape in statements(r, split)}


@cache
def _sums(sizes: frozenset[int]) -> frozenset[int]:
    """Every number, 0 among them and up to a little more than `_TAIL`, that is a sum of `sizes`."""
    found = {0}
    for n in range(1, _TAIL + max(sizes, default=0) + 1):
        if any(n - size in found for size in sizes):
            found.add(n)
    return frozenset(found)
