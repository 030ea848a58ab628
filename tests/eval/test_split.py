"""Development and test questions: disjoint, stable, documents whole, divided in every category."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.reading import read
from mplat.datasets.records import CATEGORIES, Question
from mplat.eval.split import choose, counts, position, side, split


def questions(n, prefix="q"):
    return [Question(f"{prefix}{i}", "d", "s", "?", category=CATEGORIES[i % len(CATEGORIES)]) for i in range(n)]


def ids(found):
    return [q.id for q in found]


def test_every_question_is_on_exactly_one_side_in_the_order_given():
    asked = questions(200)
    development, test = split(asked, seed=0, share=0.3)
    assert not set(ids(development)) & set(ids(test))
    assert sorted(ids(development) + ids(test)) == sorted(ids(asked))
    assert ids(development) == [q for q in ids(asked) if q in set(ids(development))]


def test_adding_and_reordering_moves_no_question():
    before = {q.id: side(q, seed=7, share=0.3) for q in questions(100)}
    more = questions(100) + questions(300, prefix="new")
    random.Random(0).shuffle(more)
    development, test = split(more, seed=7, share=0.3)
    assert {i for i in before if before[i] == "development"} == set(ids(development)) & before.keys()
    assert {i for i in before if before[i] == "test"} == set(ids(test)) & before.keys()


def test_the_share_holds_in_every_category():
    development, _ = split(questions(7 * 600), seed=1, share=0.3)
    assert all(abs(n / 600 - 0.3) < 4 * (0.21 / 600) ** 0.5 for n in counts(development).values())
    assert set(counts(development)) == set(CATEGORIES)


def test_seed_and_origin_decide_and_nothing_else():
    assert position(0, "a") == position(0, "a")
    assert len({position(0, "a"), position(1, "a"), position(0, "b"), position(0, "a", "limit")}) == 4
    assert position(1, "1a") != position(11, "a") and position(1, "a", "b") != position(1, "ab")
    for i in range(20):
        q = Question(f"a{i}", "d", "s", "?", category="two_hop")
        other = Question(f"b{i}", "other", "other", "another?", category="combined", group=f"a{i}")
        assert side(q, seed=0, share=0.5) == side(other, seed=0, share=0.5)


@given(st.text(max_size=20), st.integers(0, 2**63 - 1))
def test_any_id_has_a_place(name, seed):
    assert 0 <= position(seed, name) < 1


GROUPED = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(CATEGORIES[:3])), min_size=1, max_size=60)


@given(GROUPED, st.integers(0, 50), st.sampled_from([0.1, 0.3, 0.5]))
def test_no_group_is_on_both_sides_and_every_category_is_where_it_can_be(drawn, seed, share):
    asked = [Question(f"q{i}", "d", "s", "?", category=c, group=f"g{g}") for i, (g, c) in enumerate(drawn)]
    development, test = split(asked, seed=seed, share=share)
    assert not {q.group for q in development} & {q.group for q in test}
    assert sorted(ids(development) + ids(test)) == sorted(ids(asked))
    if len({q.category for q in asked}) == 1:  # nothing else can be in the way
        groups = {q.group for q in asked}
        assert development or len(groups) < 2 or share * len(groups) < 0.5
        assert test or len(groups) < 2
    shuffled = asked[::-1]
    assert set(ids(split(shuffled, seed=seed, share=share)[0])) == set(ids(development))


def test_only_what_lies_nearest_to_the_border_moves():
    few = [Question(f"q{i}", "d", "s", "?", category="two_hop", group=f"g{i // 5}") for i in range(20)]
    moved = 0
    for seed in range(40):
        development, test = split(few, seed=seed, share=0.3)
        assert development and test
        own = {q.group for q in few if side(q, seed=seed, share=0.3) == "development"}
        changed = own ^ {q.group for q in development}
        if own and len(own) < 4:
            assert not changed
            continue
        nearest = min((f"g{i}" for i in range(4)), key=lambda name: abs(position(seed, name) - 0.3))
        assert changed == {nearest}
        moved += 1
    assert moved > 3


@pytest.mark.parametrize("name", ["dev_part_a.json.gz", "train_part.json.gz"])
def test_no_paragraph_of_squad_lies_on_both_sides(name, shared_data):
    found = read("squad", shared_data / "squad_v1" / name).questions
    asked = choose([dataclasses.replace(q, category="simple_recall") for q in found], 400, seed=0, stream="limit")
    texts = {q.source_text() for q in asked}
    assert len({q.origin for q in asked}) == len(texts) < 150, "a choice takes whole paragraphs"
    development, test = split(asked, seed=0, share=0.3)
    assert not {q.source_text() for q in development} & {q.source_text() for q in test}
    assert 70 < len(development) < 170 and len(development) + len(test) == 400


def test_entities_of_the_facts_world_are_on_one_side_and_levels_on_both():
    asked = facts.prompts(per_level=100, seed=0)
    assert 180 < len({q.group for q in asked}) < 240, "of 600 prompts"
    development, test = split(asked, seed=0, share=0.3)
    assert not {q.group for q in development} & {q.group for q in test}
    assert all(15 < n < 45 for n in counts(development).values()) and len(counts(development)) == 6


def test_chosen_questions_are_spread_over_categories_and_a_larger_limit_only_adds():
    asked = questions(70)
    assert set(counts(choose(asked, 21, seed=0)).values()) == {3}
    for limit in range(1, 70):
        assert set(ids(choose(asked, limit, seed=0))) < set(ids(choose(asked, limit + 1, seed=0)))
    assert choose(asked, 1000, seed=0) == asked
    assert choose([], 5, seed=0) == []


def test_a_choice_before_the_split_leaves_questions_for_both_sides():
    asked = questions(1400)
    chosen = choose(asked, 140, seed=0, stream="limit")
    assert len(chosen) == 140
    development, test = split(chosen, seed=0, share=0.3)
    assert 20 < len(development) < 65 and len(development) + len(test) == 140
    by_its_hash = split(choose(asked, 140, seed=0), seed=0, share=0.3)
    assert len(by_its_hash[1]) == len(CATEGORIES), "but for one of each category, that had to be moved"


def test_what_is_made_from_a_question_is_on_its_side_and_chosen_with_it():
    asked = questions(60)
    made = [dataclasses.replace(q, id=f"{q.id}-{i}", derived_from=q.id) for q in asked for i in range(3)]
    sides = {q.id: side(q, seed=0, share=0.4) for q in asked}
    assert all(side(q, seed=0, share=0.4) == sides[q.derived_from] for q in made)
    chosen = choose(made, 3 * len(CATEGORIES), seed=0, stream="limit")
    assert all(n == 3 for n in Counter(q.derived_from for q in chosen).values())


def test_a_small_category_leaves_its_places_to_others():
    asked = [Question(f"q{i}", "d", "s", "?", category="two_hop" if i else "combined") for i in range(10)]
    assert counts(choose(asked, 6, seed=0)) == {"combined": 1, "two_hop": 5}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_leaves_one_side_empty_is_refused(share):
    with pytest.raises(UsageError, match="strictly between 0 and 1"):
        split(questions(3), seed=0, share=share)
