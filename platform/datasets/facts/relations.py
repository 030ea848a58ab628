"""The relation kinds of the facts world, and the sentence shapes that state them and ask about them.

A relation maps a subject to one object, and a statement names the subject first: a model of half a million
parameters then needs one way to bind a value to its key, not two. For each relation there are shapes for training and
others, held out, for evaluation; a held-out shape is new as a whole but uses words that training shapes use in the same
role. A question about a chain of relations ("Where does the boss of the friend of X live?") nests noun phrases, one per
inner relation; "the boss of X's friend" always means the boss of (X's friend).

Everything is compiled once into plain strings around the slots. A string never ends within a token of the byte-level
tokenizer, so tokens of a text can be put together from the tokens of its strings (`mplat.datasets.facts.training`).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Relation(NamedTuple):
    """One kind of fact. `exclusive`: an entity takes part in at most one such fact, as subject or as object.

    Friendship reads both ways and a thing has one owner; without this rule a second answer could be inferred.
    """

    name: str
    subject: str  # kind
    object: str  # kind
    exclusive: bool
    train_statements: tuple[str, ...]
    eval_statements: tuple[str, ...]
    train_questions: tuple[str, ...]
    eval_questions: tuple[str, ...]
    phrases: tuple[str, ...]  # noun phrases that stand for the object, for chains


# fmt: off
RELATIONS: dict[str, Relation] = {
    r.name: r
    for r in (
        Relation(
            "lives_in", "person", "place", False,
            ("{a} lives in {b}.", "{a} has a home in {b}.", "{a}'s home is in {b}.", "{a} is at home in {b}.",
             "The home of {a} is {b}."),
            ("{a}'s home is {b}.", "The home of {a} is in {b}."),
            ("Where does {a} live?", "Where is the home of {a}?", "In which place does {a} live?",
             "Which place is the home of {a}?", "In what place does {a} live?", "What place is the home of {a}?"),
            ("Which place does {a} live in?", "In which place is the home of {a}?"),
            ("the home of {a}", "{a}'s home"),
        ),
        Relation(
            "works_for", "person", "person", False,
            ("{a} works for {b}.", "{a}'s boss is {b}.", "{a} has a boss, {b}.", "{a} works for the person {b}.",
             "The boss of {a} is {b}."),
            ("{a}'s boss is the person {b}.", "{a} has the boss {b}."),
            ("Who is the boss of {a}?", "Who does {a} work for?", "Which person is the boss of {a}?",
             "For which person does {a} work?", "Who does {a} have as a boss?",
             "Which person does {a} have as a boss?"),
            ("Which person does {a} work for?", "The boss of {a} is which person?"),
            ("the boss of {a}", "{a}'s boss"),
        ),
        Relation(
            "friend", "person", "person", True,
            ("{a} is a friend of {b}.", "{a}'s friend is {b}.", "{a} has a friend, {b}.",
             "{a} is the friend of {b}.", "The friend of {a} is {b}."),
            ("{a}'s friend is the person {b}.", "{a} has the friend {b}."),
            ("Who is the friend of {a}?", "Which person is the friend of {a}?", "The friend of {a} is which person?",
             "Who is a friend of {a}?", "Which person does {a} have as a friend?"),
            ("Who does {a} have as a friend?", "Which person is a friend of {a}?"),
            ("the friend of {a}", "{a}'s friend"),
        ),
        Relation(
            "owns", "person", "thing", True,
            ("{a} owns the {b}.", "{a} has the {b}.", "{a}'s thing is the {b}.", "{a} has a thing, the {b}.",
             "The thing of {a} is the {b}."),
            ("{a} owns a thing, the {b}.", "{a}'s own thing is the {b}."),
            ("What does {a} own?", "Which thing does {a} own?", "What is the thing that {a} owns?",
             "Which thing is owned by {a}?"),
            ("What thing does {a} own?", "What is owned by {a}?"),
            ("the thing that {a} owns", "{a}'s thing"),
        ),
        Relation(
            "kept_in", "thing", "place", False,
            ("The {a} is kept in {b}.", "The {a} is in {b}.", "The {a}'s place is {b}.", "The {a} has a place in {b}.",
             "The place of the {a} is {b}."),
            ("The {a}'s place is in {b}.", "The place of the {a} is in {b}."),
            ("Where is {a} kept?", "In which place is {a} kept?", "Which place is {a} kept in?",
             "What is the place where {a} is kept?"),
            ("What place is {a} kept in?", "In what place is {a} kept?"),
            ("the place where {a} is kept", "the place of {a}"),
        ),
    )
}
# fmt: on

Path = tuple[str, ...]  # relation names, the one nearest to the stated head entity first


class Statement(NamedTuple):
    """A sentence as strings around two slots: before, first, between, second, after; with the order of the slots."""

    before: str
    between: str
    after: str
    subject_first: bool


class QuestionShape(NamedTuple):
    """A question as the strings before and after the name of the head entity; without "Q:"."""

    before: str
    after: str


def _paths() -> dict[int, tuple[Path, ...]]:
    chains: dict[int, list[Path]] = {1: [(name,) for name in RELATIONS], 2: [], 3: []}
    for hops in (2, 3):
        for head in chains[hops - 1]:
            last = RELATIONS[head[-1]]
            for name, relation in RELATIONS.items():
                if relation.subject == last.object and not (relation.exclusive and name == last.name):
                    chains[hops].append((*head, name))
    return {hops: tuple(paths) for hops, paths in chains.items()}


PATHS = _paths()  # hops -> the chains of relations that make sense


def _around(template: str, slot: str) -> tuple[str, str]:
    """The strings before and after a slot; a name brings its own leading space."""
    before, after = template.split(slot)
    return before.removesuffix(" "), after


def _sentence_start(text: str) -> str:
    return " " + text if text else ""


@cache
def statements(relation: str, split: str) -> tuple[Statement, ...]:
    """The compiled statement shapes of a relation for the split "train" or "eval"."""
    kind = RELATIONS[relation]
    compiled = []
    for template in kind.train_statements if split == "train" else kind.eval_statements:
        subject_first = template.index("{a}") < template.index("{b}")
        first, second = ("{a}", "{b}") if subject_first else ("{b}", "{a}")
        before, rest = _around(template, first)
        between, after = _around(rest, second)
        compiled.append(Statement(_sentence_start(before), between, after, subject_first))
    return tuple(compiled)


@cache
def questions(path: Path, split: str) -> tuple[QuestionShape, ...]:
    """The compiled question shapes for a chain of relations: each outer question with each nesting of noun phrases."""
    first = RELATIONS[path[0]]
    phrases = [(" the", "") if first.subject == "thing" else ("", "")]
    for name in path[:-1]:
        nested = []
        for inner_before, inner_after in phrases:
            for phrase in RELATIONS[name].phrases:
                before, after = _around(phrase, "{a}")
                # "the friend of X's boss" has two readings, so 's never follows a phrase that opens with words
                if inner_before and after.startswith("'s"):
                    continue
                nested.append((_sentence_start(before) + inner_before, inner_after + after))
        phrases = nested
    outer = RELATIONS[path[-1]]
    compiled = []
    for template in outer.train_questions if split == "train" else outer.eval_questions:
        before, after = _around(template, "{a}")
        compiled += [QuestionShape(_sentence_start(before) + p, s + after) for p, s in phrases]
    return tuple(compiled)
