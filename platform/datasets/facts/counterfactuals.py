"""Pairs of prompts of the facts world for interchange: what would be answered if one variable had the other's value?

A question of this world has a causal model with a few variables, and each pair is about one of them:

    entity     whom or what a one-hop question is about
    relation   what a one-hop question asks of it
    hop1       the answer to the first hop of a two-hop question

Base and source state other worlds about the same names: they share subjects and relations and have no final object in
common. If the variable took the source's value, the base world's facts would give `counterfactual.answer`, which is
neither the base's answer nor the source's. So an exchange that copies the source's answer is told from one that sets
the variable. The order of the facts is drawn for each world by itself, so that an entity is no place in the text.

The source may differ in other variables, too, which must then not come along: in `entity` pairs the relation and in
`relation` pairs the entity differs in half of the draws; in `hop1` pairs half of the sources ask about another head,
and half about the same one, which is then linked otherwise.

Names of the parts "train" and "test" have no name in common, so that nothing learned about a name helps on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, NamedTuple, get_args

from ...core.errors import UsageError, suggest
from .asked import Asked, Stated
from .names import Entities, entities
from .relations import PATHS, RELATIONS, Path, questions, statements
from .world import Fact

Variable = Literal["entity", "relation", "hop1"]
VARIABLES: tuple[Variable, ...] = get_args(Variable)
Part = Literal["train", "test"]
_SPLIT = "eval"  # of names and sentence shapes: what no model was trained on
_ONE_HOP = tuple(name for (name,) in PATHS[1] if RELATIONS[name].subject == "person")


class Counterfactual(NamedTuple):
    """base and source: what is read. counterfactual: the base's facts with the question whose answer is that of the
    base with the variable set to the source's value; whoever cannot answer it cannot show the interchange either.

    group: the base's head entity, whose pairs count as one.
    """

    variable: Variable
    base: Asked
    source: Asked
    counterfactual: Asked

    @property
    def group(self) -> str:
        return self.base.head.strip()


def counterfactuals(variable: Variable, part: Part, seed: int) -> Iterator[Counterfactual]:
    """Pairs without end, each a pure function of these arguments and its number.

    Raises UsageError for a variable that this world does not have.
    """
    if variable not in VARIABLES:
        raise UsageError(f"facts world: unknown variable {variable!r}; {suggest(str(variable), VARIABLES)}")
    return _draws(variable, part, seed)


def _draws(variable: Variable, part: Part, seed: int) -> Iterator[Counterfactual]:
    names, number = names_of(part), 0
    while True:
        called = f"{variable}-{part}-{seed}-{number:05d}"
        rng = Random(f"counterfactual-{called}")
        made = _two_hops(rng, names) if variable == "hop1" else _one_hop(rng, names, variable)
        stated = [_stated(rng, made.base), _stated(rng, made.source)]
        base, source, counterfactual = (
            _asked(rng, f"{called}-{role}", facts, question)
            for role, facts, question in (
                ("base", stated[0], made.asked_of_base),
                ("source", stated[1], made.asked_of_source),
                ("counterfactual", stated[0], made.asked_instead),
            )
        )
        yield Counterfactual(variable, base, source, counterfactual)
        number += 1


def names_of(part: Part) -> Entities:
    """The names of a part: every second of the split that is held out from training."""
    return {kind: names[("train", "test").index(part) :: 2] for kind, names in entities(_SPLIT).items()}


class _Question(NamedTuple):
    path: Path
    head: str
    answer: str


class _Worlds(NamedTuple):
    """Facts of both, the question of each, and what is asked of the base where the variable is set."""

    base: Sequence[Fact]
    source: Sequence[Fact]
    asked_of_base: _Question
    asked_of_source: _Question
    asked_instead: _Question


def _one_hop(rng: Random, names: Entities, variable: Variable) -> _Worlds:
    """Two people with two relations each; every answer is another name, in both worlds."""
    relations, used = rng.sample(_ONE_HOP, 2), list[str]()
    people = [_fresh(rng, names, "person", used) for _ in range(2)]
    base, source = (
        {(r, e): _fresh(rng, names, RELATIONS[r].object, used) for r in relations for e in people} for _ in range(2)
    )
    r, other_r = relations  # drawn in an order of their own, as the people are
    e, other_e = people
    also = rng.random() < 0.5
    if variable == "entity":
        asked, wanted = (other_r if also else r, other_e), (r, other_e)
    else:
        asked, wanted = (other_r, other_e if also else e), (other_r, e)
    facts = [[Fact(*key, o) for key, o in world.items()] for world in (base, source)]
    return _Worlds(
        facts[0],
        facts[1],
        _Question((r,), e, base[r, e]),
        _Question(asked[:1], asked[1], source[asked]),
        _Question(wanted[:1], wanted[1], base[wanted]),
    )


def _two_hops(rng: Random, names: Entities) -> _Worlds:
    """Two chains of one path. In the source the ends are others, and in half of the draws the heads are exchanged."""
    path, used = rng.choice(PATHS[2]), list[str]()
    first, second = (RELATIONS[name] for name in path)
    heads = [_fresh(rng, names, first.subject, used) for _ in range(2)]
    middles = [_fresh(rng, names, first.object, used) for _ in range(2)]
    ends, others = ([_fresh(rng, names, second.object, used) for _ in range(2)] for _ in range(2))
    linked = heads if rng.random() < 0.5 else heads[::-1]
    worlds = [
        [fact for h, m, e in zip(of, middles, last, strict=True) for fact in (Fact(path[0], h, m), Fact(path[1], m, e))]
        for of, last in ((heads, ends), (linked, others))
    ]
    return _Worlds(
        worlds[0],
        worlds[1],
        _Question(path, heads[0], ends[0]),
        _Question(path, linked[1], others[1]),
        _Question(path, heads[1], ends[1]),
    )


def _fresh(rng: Random, names: Entities, kind: str, used: list[str]) -> str:
    name = rng.choice(names[kind])
    while name in used:
        name = rng.choice(names[kind])
    used.append(name)
    return name


def _stated(rng: Random, facts: Sequence[Fact]) -> tuple[Stated, ...]:
    """The facts in words, in an order that is drawn."""
    order = rng.sample(range(len(facts)), len(facts))
    return tuple(Stated(facts[i], rng.choice(statements(facts[i].relation, _SPLIT))) for i in order)


def _asked(rng: Random, id_: str, stated: tuple[Stated, ...], question: _Question) -> Asked:
    evidence, subject = list[int](), question.head
    for relation in question.path:
        at = next(i for i, s in enumerate(stated) if (s.fact.relation, s.fact.subject) == (relation, subject))
        evidence.append(at)
        subject = stated[at].fact.object
    shape = rng.choice(questions(question.path, _SPLIT))
    hops = len(question.path)
    return Asked(id_, _SPLIT, hops, question.path, question.head, question.answer, shape, stated, tuple(evidence))
