"""What the test questions of a plan can find."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import dataclasses

import pytest
from mplat.datasets.records import Question
from mplat.eval.detectable import ICC, detectable, in_words
from mplat.scoring.statistics import minimum_detectable_effect


def questions(n, per_group=1):
    return [Question(f"q{i}", "d", "s", "?", group=f"g{i // per_group}") for i in range(n)]


def test_questions_are_counted_and_documents_are_what_they_are_worth():
    found = detectable(questions(400, per_group=4), alpha=0.05)
    assert (found.questions, found.groups) == (400, 100)
    assert found.gains[0.2] == minimum_detectable_effect(100, discordance=0.2, icc=ICC, group_size=4)
    alone = detectable(questions(400), alpha=0.05)
    assert all(alone.gains[share] < gain for share, gain in found.gains.items() if gain is not None)
    strict = detectable(questions(400), alpha=0.01)
    assert all(strict.gains[share] > gain for share, gain in alone.gains.items())


def test_the_same_question_at_several_distances_is_one():
    asked = questions(100)
    swept = [dataclasses.replace(q, id=f"{q.id}-d{d}", derived_from=q.id) for q in asked for d in range(3)]
    assert detectable(swept, alpha=0.05) == detectable(asked, alpha=0.05)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_questions_find_nothing_and_the_line_says_so(n):
    found = detectable(questions(n), alpha=0.05)
    assert all(gain is None for gain in found.gains.values())
    assert "too few to find any gain" in in_words(found)


def test_the_line_names_gains_in_points():
    line = in_words(detectable(questions(500), alpha=0.05))
    assert line.startswith("power: 500 test questions in 500 groups find a gain in exact match of 2.8 points if 5 %")
    assert line.endswith("of the answers change, 80 % of the time")
