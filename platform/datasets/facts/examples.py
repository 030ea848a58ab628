"""Few-shot headers: worked examples about entities that occur nowhere else, neither in training nor in evaluation.

The names of people and places join the first half of one kind with the second half of the other, and things have
adjectives and nouns of their own; so no example can give away, or be taken for, anything in the question. An example
is a small question of as many hops as the one that it stands before, with one distractor, in sentence shapes of the
same split, and ends with its answer and a newline, as a trained model writes it.

Promises: the examples of one header share no entity; the header of a question is the same for everything made from it,
so that a control differs from its original in nothing else; more examples only add at the front.
"""

from __future__ import annotations

from functools import cache
from random import Random

from ...core.errors import UsageError
from .asked import Asked, Stated
from .names import PERSON_FIRST, PERSON_SECOND, PLACE_FIRST, PLACE_SECOND, Entities
from .relations import PATHS, questions, statements
from .world import sample_facts

MAX_SHOTS = 16
ADJECTIVES = tuple("copper yellow narrow thin brown orange empty clean square shiny".split())
NOUNS = tuple("spoon basket candle wheel bottle wagon blanket pillow kettle hammer".split())


@cache
def example_entities() -> Entities:
    """The names of the examples by kind, in a fixed order, disjoint from `names.entities` of both splits."""
    return {
        "person": tuple(f" {first}{second}" for first in PLACE_FIRST for second in PERSON_SECOND),
        "place": tuple(f" {first}{second}" for first in PERSON_FIRST for second in PLACE_SECOND),
        "thing": tuple(f" {adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS),
    }


def header(asked: Asked, shots: int, seed: int) -> str:
    """`shots` worked examples before `asked`; "" for none. Raises UsageError for a number out of range."""
    if not 0 <= shots <= MAX_SHOTS:
        raise UsageError(f"a header has 0 to {MAX_SHOTS} worked examples, not {shots}")
    origin = asked.derived_from or asked.id
    return "".join(_example(asked, origin, number, seed) for number in reversed(range(shots)))


def _example(asked: Asked, origin: str, number: int, seed: int) -> str:
    rng = Random(f"facts-example-{seed}-{origin}-{number}")
    mine = {kind: names[number::MAX_SHOTS] for kind, names in example_entities().items()}
    path = rng.choice(PATHS[len(asked.path)])
    facts = sample_facts(rng, mine, [path], len(path) + 1)
    stated = [Stated(fact, rng.choice(statements(fact.relation, asked.split))) for fact in facts]
    rng.shuffle(stated)
    shape = rng.choice(questions(path, asked.split))
    example = asked._replace(
        path=path, head=facts[0].subject, answer=facts[len(path) - 1].object, shape=shape, stated=tuple(stated)
    )
    return f"{example.text}{example.answer}\n"
