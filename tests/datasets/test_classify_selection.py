"""A balanced sample of classified questions: its limits, its order and its seed."""

from __future__ import annotations

import dataclasses
from collections import Counter

from mplat.datasets.classify.selection import select
from mplat.datasets.records import (
    CATEGORIES,
    Paragraph,
    Question,
)


def pool(**counts: int) -> list[Question]:
    """`squad__two_hop=3` is three questions of that data set and category."""
    made = []
    for key, count in counts.items():
        name, kind = key.split("__")
        made += [Question(f"{kind}{n}", name, "dev", "Who is it?", (), ("x",), category=kind) for n in range(count)]
    return made


def drawn(selection) -> dict[tuple[str, str], int]:
    return dict(Counter((q.dataset, q.category) for q in selection.questions))


def test_i3_the_draw_respects_both_limits_and_fills_rare_categories_first() -> None:
    asked = pool(squad__simple_recall=900, squad__long_context=900, squad__stress_test=30, triviaqa__query_dataset=50)
    selection = select(asked, per_dataset=100, per_category=60, seed=0)
    assert drawn(selection) == {
        ("squad", "simple_recall"): 35,
        ("squad", "long_context"): 35,
        ("squad", "stress_test"): 30,
        ("triviaqa", "query_dataset"): 50,
    }
    assert {entry.category: entry.why for entry in selection.shortfalls} == {
        "simple_recall": "900 are there, but the data sets have given --per-dataset questions",
        "two_hop": "no question of the chosen data sets falls into it",
        "three_hop": "no question of the chosen data sets falls into it",
        "long_context": "900 are there, but the data sets have given --per-dataset questions",
        "combined": "no question of the chosen data sets falls into it",
        "stress_test": "there are only 30",
        "query_dataset": "there are only 50",
    }


def test_data_sets_share_a_category_evenly_and_no_limit_takes_everything() -> None:
    asked = pool(squad__long_context=50, hotpotqa__long_context=5)
    assert drawn(select(asked, per_dataset=0, per_category=8, seed=1)) == {
        ("squad", "long_context"): 4,
        ("hotpotqa", "long_context"): 4,
    }
    everything = select(asked, per_dataset=0, per_category=0, seed=1)
    assert len(everything.questions) == 55 and everything.shortfalls == ()


def test_questions_with_a_context_are_drawn_before_those_without() -> None:
    bare = pool(natural_questions__long_context=40)
    context = (Paragraph("", ("Rome is old.",)),)
    full = [dataclasses.replace(entry, id=f"full{n}", context=context) for n, entry in enumerate(bare[:10])]
    bare = [dataclasses.replace(entry, context=()) for entry in bare]
    for wanted in (6, 10, 15):
        chosen = select([*bare, *full], per_dataset=0, per_category=wanted, seed=2).questions
        assert sum(bool(entry.context) for entry in chosen) == min(wanted, 10) and len(chosen) == wanted


def test_the_draw_depends_on_the_seed_and_the_ids_only() -> None:
    asked = pool(squad__simple_recall=80, hotpotqa__two_hop=80)
    first = select(asked, per_dataset=20, per_category=10, seed=3).questions
    assert select(asked[::-1], per_dataset=20, per_category=10, seed=3).questions == first
    assert select(asked, per_dataset=20, per_category=10, seed=4).questions != first
    more = select(asked, per_dataset=20, per_category=15, seed=3).questions
    assert set(first) < set(more)
    assert [(CATEGORIES.index(q.category), q.dataset, q.id) for q in more] == sorted(
        (CATEGORIES.index(q.category), q.dataset, q.id) for q in more
    )
