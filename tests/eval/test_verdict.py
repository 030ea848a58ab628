"""The verdict is strict, and says in one word which of several ways of not being a yes it is."""

from __future__ import annotations

import dataclasses

import pytest
from mplat.eval.verdict import FLOOR, Evidence, judge
from mplat.scoring.statistics import Difference, Estimate

BETTER = Difference(50, 0.1, 0.04, 0.16, 0.001, n_groups=50)
SAME = Difference(50, 0.01, -0.03, 0.05, 0.6, n_groups=50)
WORSE = Difference(50, -0.1, -0.16, -0.04, 0.001, n_groups=50)
DRAWS = tuple(0.38 + 0.001 * i for i in range(19))


def evidence(gain=BETTER, over_control=BETTER, *, draws=DRAWS, families=("control_random",), steered=0.5, **more):
    names = ("unsteered", "steered", *families)
    conditions = {f: Estimate(50, steered if f == "steered" else steered - 0.1, 0.3, 0.6) for f in names}
    differences = {"steered-unsteered": gain} | {f"steered-{f}": over_control for f in families}
    price = Difference(9, 0.02, 0.01, 0.03, 0.01)
    return Evidence(conditions, differences, {f: list(draws) for f in families}, price, changed=0.1, **more)


def verdict(*arguments, **more):
    return judge(evidence(*arguments, **more), alpha=0.05)


def test_better_than_all_and_first_among_nineteen_draws_is_supported_with_its_price():
    found = verdict()
    assert found.supported and found.kind == "supported" and not found.reasons
    assert found.sentence.startswith("Supported: steering beats the unsteered model and its controls")
    assert "+0.020 nats per token" in found.sentence


@pytest.mark.parametrize(
    ("arguments", "kind", "reason"),
    [
        ((SAME, BETTER), "too_few_questions", "not better than the unsteered model"),
        ((SAME._replace(mean=-0.01), BETTER), "no_evidence",
         "not better than the unsteered model"),
        ((BETTER, SAME), "no_evidence", "not better than random channels"),
        ((WORSE, BETTER), "harmful", "worse than the unsteered model"),
    ],
)  # fmt: skip
def test_anything_less_says_which_and_why(arguments, kind, reason):
    found = verdict(*arguments)
    assert not found.supported and found.kind == kind
    assert any(reason in why for why in found.reasons)
    assert reason in found.sentence or kind == "harmful"


def test_an_interval_without_its_p_value_is_no_yes():
    """Both are of one test; a table of somebody else's may say otherwise."""
    unsure = BETTER._replace(p=0.2)
    assert not verdict(unsure).supported and not verdict(BETTER, unsure).supported
    assert verdict(WORSE._replace(p=0.2), BETTER).kind != "harmful"


def test_too_few_questions_says_how_many_it_would_take():
    found = verdict(SAME)
    assert found.needed is not None and found.needed > 50 and f"about {found.needed} groups" in found.sentence
    assert judge(dataclasses.replace(evidence(SAME), changed=0.0), alpha=0.05).kind == "no_evidence"


def test_harm_is_said_even_where_a_control_is_worse():
    assert verdict(WORSE, BETTER).sentence.startswith("Harmful: steering makes the model worse")


def test_one_draw_that_does_as_well_is_enough_to_doubt():
    found = verdict(draws=(*DRAWS[:-1], 0.5))
    assert not found.supported and "a single draw of random channels does as well" in found.sentence


def test_fewer_than_nineteen_draws_support_no_claim():
    found = verdict(draws=DRAWS[:18])
    assert not found.supported and found.reasons == (
        "a claim about channels needs 19 draws of others, and there are 18",
    )
    assert verdict(families=("control_random_direction",)).supported, (
        "directions stand for channels where there are none"
    )
    assert not verdict(families=("control_other_layers",)).supported


def test_a_stricter_level_needs_as_many_draws_as_give_its_rank():
    found = judge(evidence(), alpha=1 - 0.99)
    assert found.reasons == ("a claim about channels needs 99 draws of others, and there are 19",)
    assert judge(evidence(draws=[0.3 + 0.001 * i for i in range(99)]), alpha=1 - 0.99).supported


def test_without_controls_there_is_no_yes_and_missing_ones_are_said():
    found = verdict(families=(), missing={"random": "the recipe chooses no channels"})
    assert found.reasons == ("no control was run",)
    assert "No control random: the recipe chooses no channels." in found.sentence


def test_at_the_floor_nothing_can_be_told():
    found = verdict(SAME._replace(mean=-0.01), steered=0.01)
    assert found.kind == "at_floor" and "at the floor, exact match 0.010 at most" in found.sentence


def test_the_floor_itself_is_at_the_floor():
    assert verdict(SAME._replace(mean=-0.01), steered=FLOOR).kind == "at_floor"
    assert verdict(SAME._replace(mean=-0.01), steered=FLOOR + 0.001).kind == "no_evidence"


def test_a_search_that_left_the_model_alone_is_no_failure_of_a_control():
    found = verdict(SAME, left_alone=True)
    assert found.kind == "left_alone" and "found nothing better than the model as it is" in found.sentence


def test_an_unsteered_run_says_how_many_are_right():
    conditions = {"unsteered": Estimate(50, 0.4, 0.3, 0.5)}
    found = judge(Evidence(conditions, {}, {}), alpha=0.05)
    assert found.kind == "not_steered" and found.sentence == (
        "Not steered: exact match 0.400 (95 % interval 0.300 to 0.500) on 50 questions."
    )
