"""Dose and response on made-up numbers with known answers."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.eval.dose_response import (
    Curve,
    Dosed,
    Range,
    at_equal_divergence,
    common_divergences,
    curves,
    dose_name,
    gains_at,
    in_words,
    of_shares,
    respond,
)
from mplat.scoring.statistics import Resampling, paired_difference

HOW = Resampling(0, 0.95, 500)
QUESTIONS = [f"q{i:03d}" for i in range(120)]
TEXTS = [f"t{i:02d}" for i in range(40)]


def gains(mean, seed=0):
    """Gains of 0 and 1 whose mean is `mean`, and noise that cancels."""
    right = round(mean * len(QUESTIONS))
    order = random.Random(seed).sample(QUESTIONS, len(QUESTIONS))
    return {question: float(i < right) for i, question in enumerate(order)}


def costs(mean):
    return {text: mean + 0.001 * (i % 5 - 2) for i, text in enumerate(TEXTS)}


def dosed(strength, kl, gain, cost=0.0, seed=0):
    return Dosed(strength, kl, gains(gain, seed), costs(cost))


def test_what_ships_gains_and_costs_little():
    curve = Curve("r", (dosed(1.5, 0.01, 0.0), dosed(2, 0.02, 0.3), dosed(3, 0.05, 0.4, 0.02), dosed(8, 0.9, 0.5, 0.4)))
    found = respond(curve, HOW, tolerated=0.05)
    assert [point.ships for point in found.points] == [False, True, True, False]
    assert found.ranges == (Range(2, 3, 2),)
    assert respond(curve, HOW, tolerated=0.01).ranges == (Range(2, 2, 1),)
    assert respond(curve, HOW, tolerated=-1.0).ranges == ()
    broken = Curve("r", (*curve.points[1:2], curve.points[3], curve.points[2]))
    assert respond(broken, HOW, tolerated=0.05).ranges == (Range(2, 2, 1), Range(3, 3, 1))


def test_a_price_that_is_low_on_average_alone_does_not_ship():
    """Half of the texts pay nothing and half of them a lot: what the mean may be in truth is above the bound."""
    unsure = Dosed(2, 0.02, gains(0.3), {text: 0.09 * (i % 2) for i, text in enumerate(TEXTS)})
    (point,) = respond(Curve("r", (unsure,)), HOW, tolerated=0.05).points
    assert point.cost.mean < 0.05 < point.cost.high and point.gain.low > 0 and not point.ships


def test_the_words_say_which_strengths_ship():
    points = (dosed(1.5, 0.01, 0.0), dosed(2, 0.02, 0.3)._replace(norm=0.25), dosed(3, 0.05, 0.4, 0.02))
    table, first, second = in_words(
        [respond(Curve(name, some), HOW, tolerated=0.05) for name, some in (("r", points), ("s", points[:1]))], 0.05
    )
    assert [row[:2] + row[-1:] for row in table.rows] == [
        ["r", "1.5", "no"], ["r", "2", "yes"], ["r", "3", "yes"], ["s", "1.5", "no"],
    ]  # fmt: skip
    assert table.rows[1][3] == "0.250" and table.rows[0][3] is None and table.rows[2][4].startswith("+0.400 [")
    assert first == "r: at strength 2 to 3 the gain holds and the price stays below 0.05 nats a token"
    assert second == "s: at no strength does the gain hold at a price below 0.05 nats a token"


def test_bounds_hold_for_all_strengths_at_once():
    points = tuple(dosed(1 + i, 0.1 * i, 0.1) for i in range(1, 6))
    together, alone = (respond(Curve("r", points), HOW, tolerated=1.0, simultaneous=s) for s in (True, False))
    for wide, narrow, point in zip(together.points, alone.points, points, strict=True):
        assert wide.gain.low < narrow.gain.low < narrow.gain.high < wide.gain.high
        names = sorted(point.gains)
        values = [point.gains[name] for name in names]
        expected = paired_difference(values, [0.0] * len(values), seed=0, confidence=1 - 0.05 / 5, n_resamples=500)
        assert wide.gain.effect is None
        assert (wide.gain.low, wide.gain.high) == (expected.low, expected.high)


def test_no_change_in_so_many_questions_still_leaves_room_for_some():
    still = respond(Curve("r", (dosed(2, 0.1, 0.0),)), HOW, tolerated=1.0).points[0]
    assert still.gain.mean == 0.0 and still.gain.low < -0.01 and still.gain.high > 0.01 and not still.ships


def test_questions_of_one_document_count_as_one():
    curve = Curve("r", (dosed(2, 0.1, 0.5),))
    alone = respond(curve, HOW, tolerated=1.0).points[0].gain
    grouped = respond(curve, HOW, tolerated=1.0, groups={q: q[:3] for q in QUESTIONS}).points[0].gain
    assert grouped.n == alone.n and grouped.high - grouped.low > alone.high - alone.low


def test_a_price_that_is_not_known_ships_nothing():
    found = respond(Curve("r", (Dosed(2, 0.1, gains(0.5), {}),)), HOW, tolerated=1.0)
    assert found.points[0].cost.mean is None and not found.points[0].ships


@given(share=st.floats(0.01, 0.99))
def test_gains_are_interpolated_in_the_divergence(share):
    curve = Curve("r", (dosed(2, 0.1, 0.2, seed=1), dosed(4, 0.3, 0.6, seed=2)))
    first = gains_at(curve, 0.1 * share)
    assert first == pytest.approx({q: share * g for q, g in curve.points[0].gains.items()})
    second = gains_at(curve, 0.1 + 0.2 * share)
    mean = sum(second.values()) / len(second)
    assert mean == pytest.approx((1 - share) * 24 / 120 + share * 72 / 120)


def test_a_divergence_that_is_not_reached_has_no_gain():
    short, long = Curve("short", (dosed(2, 0.1, 0.2),)), Curve("long", (dosed(2, 0.5, 0.2),))
    assert gains_at(short, 0.2) is None
    found = at_equal_divergence([short, long], 0.2, HOW)
    assert found.gains["short"] is None and found.gains["long"].mean == pytest.approx(0.08)
    assert found.differences == {}
    with pytest.raises(UsageError, match="above 0"):
        gains_at(short, 0.0)


def test_the_stronger_recipe_is_not_the_better_one_at_equal_divergence():
    """The second gains more at its strongest, by moving the model ten times as far."""
    careful = Curve("careful", (dosed(2, 0.05, 0.3), dosed(3, 0.1, 0.4)))
    loud = Curve("loud", (dosed(10, 0.1, 0.1), dosed(50, 1.0, 0.5)))
    assert common_divergences([careful, loud], 1) == [0.1]
    found = at_equal_divergence([careful, loud], 0.1, HOW)
    difference = found.differences["careful-loud"]
    assert difference.mean == pytest.approx(0.3) and difference.low > 0 and difference.n == 120
    assert found.gains["loud"].mean == pytest.approx(0.1)


def test_common_divergences_are_reached_by_all():
    several = [
        Curve("a", (dosed(2, 0.01, 0.1), dosed(3, 0.5, 0.1))),
        Curve("b", (dosed(2, 0.02, 0.1), dosed(3, 2, 0.1))),
    ]
    kls = common_divergences(several, 4)
    assert len(kls) == 4 and kls[-1] == pytest.approx(0.5) and all(a < b for a, b in zip(kls, kls[1:], strict=False))
    assert all(gains_at(curve, kl) is not None for curve in several for kl in kls)
    assert common_divergences([*several, Curve("c", (dosed(2, 0.0, 0.0),))]) == []
    with pytest.raises(UsageError, match="one divergence or more"):
        common_divergences(several, 0)


def item(question, condition, em, status="ok"):
    return {"question_id": question, "group": None, "derived_from": None, "condition": condition, "em": em,
            "status": status}  # fmt: skip


def text(document, condition, nll, kl):
    return {"document": document, "condition": condition, "nll": nll, "kl": kl, "status": "ok"}


def test_curves_come_from_rows_and_split_at_the_identity():
    em = {"unsteered": (0, 1, 0), "c2": (1, 1, 0), "c0.5": (0, 0, 0), "c4": (1, 1, None)}
    items = [
        item(f"q{i}", condition, value, "ok" if value is not None else "model_nonfinite")
        for condition, values in em.items()
        for i, value in enumerate(values)
    ]
    prices = [
        text(f"d{i}", condition, 2.0 + i + cost, cost)
        for condition, cost in {"unsteered": 0.0, "c2": 0.25, "c0.5": 0.5, "c4": 1.0}.items()
        for i in range(2)
    ]
    strengths = {"c4": ("r", 4.0), "c2": ("r", 2.0), "c0.5": ("r", 0.5), "same": ("r", 1.0)}
    below, above = sorted(curves(items, prices, strengths, {"r": 1.0}, norms={"c2": 0.7}), key=lambda c: c.name)[::-1]
    assert (above.name, [p.strength for p in above.points]) == ("r above", [2.0, 4.0])
    assert (below.name, [p.strength for p in below.points]) == ("r below", [0.5])
    assert above.points[0].gains == {"q0": 1.0, "q1": 0.0, "q2": 0.0} and above.points[1].gains == {
        "q0": 1.0,
        "q1": 0.0,
    }
    assert below.points[0].gains == {"q0": 0.0, "q1": -1.0, "q2": 0.0}
    assert above.points[0].costs == {"d0": 0.25, "d1": 0.25} and above.points[0].kl == 0.25
    assert (above.points[0].norm, above.points[1].norm) == (0.7, None)
    assert [c.name for c in curves(items, prices, {"c2": ("r", 2.0), "c4": ("r", 4.0)}, {"r": 1.0})] == ["r"]
    with pytest.raises(UsageError, match="changes nothing"):
        curves(items, prices, strengths, {})
    with pytest.raises(UsageError, match="'c9' has no answers"):
        curves(items, prices, {"c9": ("r", 9.0)}, {"r": 1.0})


def test_shares_of_one_recipe_are_read_from_the_names_of_conditions():
    """A recipe and half of it, and a share without a price, which has no place on the curve."""
    items, prices = [], []
    right_under = {"unsteered": 0, "steered": 40, dose_name(0.5): 20, dose_name(3.0): 9}
    for condition, right in right_under.items():
        family = condition.split("_")[0]
        items += [item(q, condition, float(i < right)) | {"family": family} for i, q in enumerate(QUESTIONS)]
        if condition != dose_name(3.0):
            prices += [text(t, condition, 2.0, 0.0 if right == 0 else right / 100) | {"edit_norm": 0.5} for t in TEXTS]
    (found,) = of_shares(items, prices, "r", HOW, 0.1)
    assert [(p.strength, p.norm, p.ships) for p in found.points] == [(0.5, 0.5, True), (1.0, 0.5, True)]
    assert [p.gain.mean for p in found.points] == pytest.approx([20 / 120, 40 / 120])
    assert found.ranges == (Range(0.5, 1.0, 2),)
    assert found.without == (3.0,), "a share that broke the model is no share that was never tried"
    assert in_words([found], 0.1)[-1] == "at strength 3 no answer or no text has a score"
    of_broken = [i for i in items if i["condition"] in ("unsteered", dose_name(3.0))]
    (broken,) = of_shares(of_broken, prices[: len(TEXTS)], "r", HOW, 0.1)
    assert broken.points == () and broken.without == (1.0, 3.0)
    assert of_shares([i for i in items if i["family"] != "dose"], prices, "r", HOW, 0.1) == []
