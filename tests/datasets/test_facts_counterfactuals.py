"""Counterfactual pairs of the facts world say what its facts say, to a solver that only reads the facts."""

from __future__ import annotations

from itertools import islice

import pytest
from mplat.core.errors import UsageError
from mplat.datasets.facts.asked import Asked
from mplat.datasets.facts.counterfactuals import VARIABLES, Counterfactual, Variable, counterfactuals, names_of
from mplat.datasets.facts.world import chains


def some(variable: Variable, part: str = "train", count: int = 60) -> list[Counterfactual]:
    return list(islice(counterfactuals(variable, part, 3), count))  # type: ignore[arg-type]


def solve(asked: Asked) -> str:
    """The answer, from all questions that the facts answer."""
    facts = [s.fact for s in asked.stated]
    (found,) = (c for c in chains(facts)[len(asked.path) - 1] if (c.path, c.head) == (asked.path, asked.head))
    assert found.evidence == asked.evidence
    return found.answer


@pytest.mark.parametrize("variable", VARIABLES)
def test_answers_follow_from_the_facts_and_are_three_different_ones(variable: Variable) -> None:
    for pair in some(variable):
        answers = [solve(one) for one in (pair.base, pair.source, pair.counterfactual)]
        assert answers == [one.answer for one in (pair.base, pair.source, pair.counterfactual)]
        assert len(set(answers)) == 3
        assert pair.counterfactual.stated == pair.base.stated


def test_a_counterfactual_question_has_the_variable_of_the_source_and_the_rest_of_the_base() -> None:
    for pair in some("entity"):
        assert pair.counterfactual.head == pair.source.head != pair.base.head
        assert pair.counterfactual.path == pair.base.path
    for pair in some("relation"):
        assert pair.counterfactual.path == pair.source.path != pair.base.path
        assert pair.counterfactual.head == pair.base.head
    for pair in some("hop1"):
        hops = [
            next(s.fact.object for s in one.stated if (s.fact.relation, s.fact.subject) == (one.path[0], one.head))
            for one in (pair.base, pair.source, pair.counterfactual)
        ]
        assert hops[1] == hops[2] != hops[0] and pair.base.path == pair.source.path == pair.counterfactual.path


def test_what_else_differs_does_so_in_about_half_of_the_pairs() -> None:
    """So that a subspace that carries it too does not pass for one that carries the variable alone."""
    entity = [pair.base.path != pair.source.path for pair in some("entity")]
    relation = [pair.base.head != pair.source.head for pair in some("relation")]
    hop1 = [pair.base.head == pair.source.head for pair in some("hop1")]
    for differs in (entity, relation, hop1):
        assert 0.3 < sum(differs) / len(differs) < 0.7


def test_both_worlds_are_about_the_same_names_and_share_no_answer() -> None:
    for variable in VARIABLES:
        for pair in some(variable):
            base, source = ([s.fact for s in one.stated] for one in (pair.base, pair.source))
            last = {fact.relation for fact in base} if variable != "hop1" else {pair.base.path[-1]}
            ends = [{f.object for f in of if f.relation in last} for of in (base, source)]
            assert {(f.relation, f.subject) for f in base} == {(f.relation, f.subject) for f in source}
            if len(set(pair.base.path)) == len(pair.base.path):
                assert not ends[0] & ends[1]


def test_the_parts_have_no_name_in_common_and_draws_are_repeatable() -> None:
    mine, theirs = names_of("train"), names_of("test")
    for kind in mine:
        assert mine[kind] and not set(mine[kind]) & set(theirs[kind])
    for variable in VARIABLES:
        assert some(variable) == some(variable, count=70)[:60]
        assert some(variable)[0].base.text != some(variable, "test")[0].base.text
    with pytest.raises(UsageError, match="unknown variable 'color'"):
        counterfactuals("color", "train", 0)  # type: ignore[arg-type]
