"""What rows say, on rows written by hand."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from mplat.eval.detectable import ICC
from mplat.eval.schema import ITEM_SCHEMA, PRICE_SCHEMA
from mplat.eval.summary import Resampling, summarise, values_of
from mplat.scoring.statistics import Difference, Estimate, groups_needed, paired_difference

HOW = Resampling(seed=0, confidence=0.95, resamples=500)
CONDITIONS = [
    ("unsteered", "unsteered", None),
    ("steered", "steered", None),
    ("control_random_0", "control_random", 0),
    ("control_random_1", "control_random", 1),
]


def row(question, condition, em, *, f1=None, status="ok", category="two_hop", split="test", dataset="facts"):
    name, family, draw = condition
    return {
        "question_id": question, "dataset": dataset, "category": category, "level": 2, "split": split, "model": "m",
        "variant": "mamba", "condition": name, "family": family, "draw": draw, "metric": "squad_v1", "answers": ["a"],
        "em": em if status == "ok" else None, "f1": f1 if f1 is not None and status == "ok" else None, "status": status,
    }  # fmt: skip


def price_rows(values):
    """text -> nll of each condition."""
    return [
        {"text_id": text, "document": text, "text_source": "made up", "model": "m", "variant": "mamba",
         "condition": c[0], "family": c[1], "draw": c[2],
         "n_tokens": 5, "nll": nll, "status": "ok" if nll is not None else "model_nonfinite"}
        for text, of_text in values.items() for c, nll in zip(CONDITIONS, of_text, strict=True)
    ]  # fmt: skip


def make(rows, prices=None):
    prices = {"t0": [1.0, 1.5, 1.0, 1.0], "t1": [2.0, 2.25, 2.0, 2.0]} if prices is None else prices
    return summarise(
        pa.Table.from_pylist(rows, schema=ITEM_SCHEMA),
        pa.Table.from_pylist(price_rows(prices), schema=PRICE_SCHEMA),
        HOW,
    )


def guess(question, condition, prediction, *, origin, control="deleted", **more):
    """A row of a question without an answer; "original" is what the original would have answered."""
    em = float(prediction in ("original", "other"))
    made = {"control": control, "derived_from": origin, "answers": ["original", "other"], "prediction": prediction}
    return {**row(question, condition, em, split="unanswerable"), **made, **more}


def table_of(em, **more):
    """question -> EM of each condition."""
    return [
        row(question, c, value, f1=value, **more)
        for question, values in em.items()
        for c, value in zip(CONDITIONS, values, strict=True)
    ]


def test_means_and_differences_are_those_of_the_rows():
    em = {f"q{i}": v for i, v in enumerate([(0, 1, 0, 1), (0, 1, 0, 0), (1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0)])}
    overall = make(table_of(em)).overall
    columns = np.array([list(v) for v in em.values()], dtype=float)
    controlled = columns[:, 2:].mean(axis=1)
    assert {k: v.mean for k, v in overall.em.conditions.items()} == pytest.approx(
        {"unsteered": 0.4, "steered": 0.8, "control_random": controlled.mean()}
    )
    expected = paired_difference(columns[:, 1], controlled, seed=0, n_resamples=500)
    assert overall.em.differences["steered-control_random"] == expected
    assert set(overall.em.differences) == {
        "steered-unsteered", "steered-control_random", "control_random-unsteered",
    }  # fmt: skip
    assert (overall.n, overall.scored) == (5, 5)


def test_means_are_over_questions_and_intervals_by_what_they_have_in_common():
    em = {f"q{i}": (0, int(i < 9), 0, 0) for i in range(24)}
    alone = make(table_of(em))
    together = [{**r, "group": f"g{int(r['question_id'][1:]) // 3}"} for r in table_of(em)]
    found = make(together)
    gain, by_question = (s.overall.em.differences["steered-unsteered"] for s in (found, alone))
    assert (gain.n, gain.n_groups, gain.mean) == (24, 8, 9 / 24) and by_question.n_groups == 24
    assert gain.p == 2 / 2**3 and by_question.p == 2 / 2**9, "nine questions on three documents are three"
    assert gain.low <= 0 < by_question.low
    steered = found.overall.em.conditions["steered"]
    assert steered.n == 24 and steered.low < alone.overall.em.conditions["steered"].low
    assert (found.method["groups"], alone.method["groups"]) == (8, 24)
    sides = {name: [r["em"] for r in together if r["condition"] == name] for name in ("steered", "unsteered")}
    groups = [r["group"] for r in together if r["condition"] == "steered"]
    assert gain == paired_difference(sides["steered"], sides["unsteered"], seed=0, n_resamples=500, groups=groups)


def test_a_question_at_several_distances_is_one_question_of_its_group():
    rows = [
        {**row(f"{q}-d{d}", c, em, f1=em), "derived_from": q, "group": "ann", "distance_target": d}
        for q, ems in {"a": (1, 0), "b": (1, 1)}.items()
        for d, em in enumerate(ems)
        for c in CONDITIONS
    ]
    found = make(rows)
    assert found.overall.em.conditions["steered"] == Estimate(2, 0.75, None, None)
    assert [g.em.conditions["steered"].mean for g in found.distances] == [1.0, 0.5]


def test_numbers_that_are_no_shares_have_no_interval_of_shares():
    prices = {f"t{i}": [0.5, 0.5, 0.5, 0.5] for i in range(12)}
    nll = make(table_of({"a": (0, 1, 0, 0)}), prices).price.nll.differences["steered-unsteered"]
    assert (nll.mean, nll.low, nll.high, nll.p) == (0.0, 0.0, 0.0, 1.0)
    floor = make(table_of({f"q{i}": (0, 0, 0, 0) for i in range(12)})).overall
    assert floor.em.differences["steered-unsteered"].high > 0.2 < floor.em.conditions["steered"].high


def test_draws_of_a_control_are_averaged_per_question_and_do_not_count_as_questions():
    rows = table_of({"a": (0, 0, 1, 0), "b": (0, 0, 1, 1)})
    assert values_of(rows, "question_id", "em")["control_random"] == {"a": 0.5, "b": 1.0}
    assert make(rows).overall.em.conditions["control_random"].n == 2
    assert [(d.condition, d.em) for d in make(rows).draws["control_random"]] == [
        ("control_random_0", 1.0), ("control_random_1", 0.5),
    ]  # fmt: skip


def test_a_draw_is_a_mean_over_questions_as_the_recipe_is():
    asked = {"a": [0, 0, 0], "b": [1]}  # a question at three distances, and one at one
    rows = [
        {**row(f"{q}-d{d}", c, em, f1=em), "derived_from": q, "distance_target": d}
        for q, ems in asked.items() for d, em in enumerate(ems) for c in CONDITIONS
    ]  # fmt: skip
    found = make(rows)
    steered = found.overall.em.conditions["steered"].mean
    assert [(d.n, d.em) for d in found.draws["control_random"]] == [(2, steered), (2, steered)], "the same answers"


def test_i7_a_failed_row_is_left_out_and_counted_never_zero():
    rows = table_of({"a": (1, 1, 1, 1), "b": (1, 1, 1, 1), "c": (1, 1, 1, 1)})
    rows[1] = row("a", CONDITIONS[1], None, status="model_nonfinite")
    rows[7] = row("b", CONDITIONS[3], None, status="scorer_error")
    found = make(rows)
    assert found.overall.em.conditions["steered"] == Estimate(2, 1.0, *found.overall.em.conditions["steered"][2:])
    assert found.overall.em.conditions["control_random"].n == 2, "a question counts where every draw answered"
    assert found.overall.em.differences["steered-unsteered"].n == 2
    assert (found.overall.n, found.overall.scored) == (3, 1)
    assert (found.bad_test_rows, found.test_rows) == (2, 12)
    assert found.status["steered"] == {"model_nonfinite": 1, "ok": 2}


def test_a_metric_without_f1_has_no_f1():
    rows = [row(q, c, 1.0) for q in "ab" for c in CONDITIONS]
    assert make(rows).overall.f1.conditions["steered"] == Estimate(0, None, None, None)


def test_development_rows_enter_no_number():
    rows = table_of({"a": (0, 0, 0, 0), "b": (1, 0, 0, 0)})
    with_more = [*rows, *table_of({"c": (1, 1, 1, 1)}, split="development")]
    assert make(with_more).overall == make(rows).overall


def test_levels_stand_in_their_order_and_p_is_corrected_across_them():
    rows = []
    for category in ("stress_test", "simple_recall", "two_hop", "query_dataset"):
        rows += table_of({f"{category}{i}": (0, 1, 0, 0) for i in range(6)}, category=category)
    found = make(rows)
    assert [(g.name, g.level) for g in found.levels] == [
        ("simple_recall", 1), ("two_hop", 2), ("stress_test", 6), ("query_dataset", None),
    ]  # fmt: skip
    for level in found.levels:
        difference = level.em.differences["steered-unsteered"]
        assert difference.p == 2 / 64 and difference.p_holm == pytest.approx(4 * 2 / 64)
    assert found.overall.em.differences["steered-unsteered"].p_holm is None


def test_i3_one_question_has_a_mean_and_no_interval():
    found = make(table_of({"a": (0, 1, 0, 0)}))
    assert found.overall.em.conditions["steered"] == Estimate(1, 1.0, None, None)
    assert found.overall.em.differences["steered-unsteered"] == Difference(1, 1.0, None, None, None, n_groups=1)
    assert not found.verdict.supported and "only 1 test questions" in found.verdict.sentence
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_price_is_the_paired_difference_over_texts():
    price = make(table_of({"a": (0, 1, 0, 0)})).price
    assert price.texts == 2 and price.failed == 0
    assert price.nll.differences["steered-unsteered"].mean == pytest.approx((0.5 + 0.25) / 2)
    failed = make(table_of({"a": (0, 1, 0, 0)}), {"t": [1.0, None, 1.0, 1.0], "u": [1.0, 1.0, 1.0, 1.0]}).price
    assert failed.failed == 1 and failed.nll.differences["steered-unsteered"].n == 1


def test_guesses_are_counted_apart_and_enter_nothing_else():
    rows = table_of({"a": (0, 1, 0, 0), "b": (0, 1, 1, 0)})
    said = {("a1", "a", "deleted"): ["original", "other", "other", "nothing"],
            ("a2", "a", "absent_entity"): ["nothing", "nothing", "original", "original"],
            ("b1", "b", "deleted"): ["other", "nothing", "nothing", "nothing"]}  # fmt: skip
    guesses = [
        guess(name, c, prediction, origin=origin, control=kind)
        for (name, origin, kind), predictions in said.items()
        for c, prediction in zip(CONDITIONS, predictions, strict=True)
    ]
    plain, found = make(rows), make([*rows, *guesses])
    assert (found.overall, found.levels, found.draws, found.verdict) == (
        plain.overall, plain.levels, plain.draws, plain.verdict,
    )  # fmt: skip
    assert plain.guesses == []
    by_kind = {g.kind: g for g in found.guesses}
    assert [(g.kind, g.n) for g in found.guesses] == [("all", 2), ("absent_entity", 1), ("deleted", 2)]
    named = {k: {f: e.mean for f, e in g.named.conditions.items()} for k, g in by_kind.items()}
    original = {k: {f: e.mean for f, e in g.original.conditions.items()} for k, g in by_kind.items()}
    assert named["deleted"] == {"unsteered": 1.0, "steered": 0.5, "control_random": 0.25}
    assert original["deleted"] == {"unsteered": 0.5, "steered": 0.0, "control_random": 0.0}
    assert named["absent_entity"] == {"unsteered": 0.0, "steered": 0.0, "control_random": 1.0}
    # question a has two controls, averaged before questions are
    assert named["all"]["unsteered"] == ((1 + 0) / 2 + 1) / 2
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_failed_guess_is_no_guess_and_is_counted():
    rows = [guess("a1", c, None, origin="a", status="model_nonfinite", em=None) for c in CONDITIONS]
    found = make([*table_of({"a": (0, 1, 0, 0)}), *rows])
    assert found.guesses[0].named.conditions["steered"].n == 0
    assert (found.bad_test_rows, found.test_rows) == (4, 8)


def test_a_question_at_several_distances_is_one_question():
    at = {0: {"a": (1, 1, 0, 0), "b": (0, 1, 0, 0)}, 64: {"a": (0, 1, 0, 0), "b": (0, 0, 0, 0)}}
    rows = [
        {**r, "question_id": f"{r['question_id']}-d{far}", "derived_from": r["question_id"], "distance_target": far}
        for far, em in at.items() for r in table_of(em)
    ]  # fmt: skip
    found = make(rows)
    assert found.overall.n == 2 and found.overall.em.conditions["unsteered"].mean == (0.5 + 0) / 2
    assert [(g.name, g.n) for g in found.distances] == [("0", 2), ("64", 2)]
    assert [g.em.conditions["steered"].mean for g in found.distances] == [1.0, 0.5]
    assert make(table_of({"a": (1, 1, 0, 0)})).distances == []


def test_the_sentence_says_so_where_the_price_is_of_the_questions_themselves():
    rows = table_of({"a": (0, 1, 0, 0), "b": (0, 1, 0, 0)})
    prices = [row | {"text_source": "the questions of this evaluation"} for row in price_rows({"t": [1.0] * 4})]
    tables = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), pa.Table.from_pylist(prices, schema=PRICE_SCHEMA)
    assert "Price on the questions of this evaluation: +0.000" in summarise(*tables, HOW).verdict.sentence
    assert "Price on made up: +0.375" in make(rows).verdict.sentence, "by the name of what was read"


def test_cut_prompts_and_lost_evidence_are_groups_of_their_own():
    read = {"q0": (0, True), "q1": (9, True), "q2": (9, False), "q3": (4, None), "q4": (0, None)}
    right = {"q0": (1, 1, 1, 1), "q1": (0, 1, 0, 0), "q2": (0, 0, 0, 0), "q3": (1, 1, 0, 0), "q4": (0, 1, 0, 1)}
    rows = [
        r | dict(zip(("n_cut_tokens", "evidence_kept"), read[r["question_id"]], strict=True)) for r in table_of(right)
    ]
    rows += [row("q5", CONDITIONS[0], None, status="too_long")]  # nothing was read
    found = make(rows)

    def means(groups, condition):
        return {g.name: (g.n, g.em.conditions[condition].mean) for g in groups}

    assert means(found.cuts, "unsteered") == {"cut": (3, pytest.approx(1 / 3)), "whole": (2, 0.5)}
    assert means(found.cuts, "steered") == {"cut": (3, pytest.approx(2 / 3)), "whole": (2, 1.0)}
    assert means(found.evidence, "unsteered") == {"kept": (2, 0.5), "lost": (1, 0.0), "unknown": (2, 0.5)}
    assert means(found.evidence, "control_random") == {"kept": (2, 0.5), "lost": (1, 0.0), "unknown": (2, 0.25)}
    assert found.overall.n == 6
    whole = make([r | {"n_cut_tokens": 0, "evidence_kept": True} for r in table_of(right)])
    assert whole.cuts == [] == whole.evidence
    assert json.loads(json.dumps(found.to_dict()))["cuts"][0]["name"] == "cut"


def likely(rows, logprobs):
    """Those of `rows` with likelihoods: (question, family) -> answer, best distractor; None where it failed."""
    found = []
    for r in rows:
        values = logprobs.get((r["question_id"], r["family"]), (-2.0, -3.0))
        if values is None:
            found.append({**r, "likelihood_status": "model_nonfinite"})
            continue
        answer, best = values
        beats = None if best is None else float(answer > best)
        found.append({**r, "answer_logprob": answer, "answer_logprob_per_byte": answer / 4, "distractor_logprob": best,
                      "beats_distractors": beats, "likelihood_status": "ok"})  # fmt: skip
    return found


def test_likelihoods_are_further_metrics_with_paired_differences():
    em = {f"q{i}": (0, 0, 0, 0) for i in range(8)}
    values = {(f"q{i}", "steered"): (-1.0 - 0.1 * i, -2.0) for i in range(8)}
    values |= {(f"q{i}", "unsteered"): (-3.0, -1.0 if i < 4 else -4.0) for i in range(8)}
    rows = likely(table_of(em), values)
    found = make(rows)
    overall, by_category = found.likelihoods
    assert (overall.name, by_category.name, overall.n, overall.failed) == ("overall", "two_hop", 8, 0)
    assert overall.beats_distractors.conditions["unsteered"].mean == 0.5
    gain = overall.logprob.differences["steered-unsteered"]
    assert gain == paired_difference(
        [-1 - 0.1 * i for i in range(8)], [-3.0] * 8, seed=0, n_resamples=500, shares=False
    )
    assert overall.logprob_per_byte.differences["steered-unsteered"].mean == pytest.approx(gain.mean / 4)
    assert overall.margin.conditions["control_random"].mean == 1.0
    assert set(overall.margin.differences) == set(found.overall.em.differences)
    assert overall.logprob.differences["steered-unsteered"].p_holm is None
    assert by_category.logprob.differences["steered-unsteered"].p_holm == gain.p, "of one category nothing is corrected"
    assert make(table_of(em)).likelihoods == [], "nobody asked for them"
    assert found.verdict == make(table_of(em)).verdict, "they are no part of the verdict"


def test_a_question_without_a_likelihood_or_distractors_is_left_out_and_never_zero():
    values = {("q0", "steered"): None, ("q1", "unsteered"): (-2.0, None), ("q2", "control_random"): None}
    rows = likely(table_of({f"q{i}": (0, 1, 0, 0) for i in range(4)}), values)
    overall = make(rows).likelihoods[0]
    assert overall.failed == 1 + 2, "both draws of the control"
    assert {name: e.n for name, e in overall.logprob.conditions.items()} == {
        "unsteered": 4, "steered": 3, "control_random": 3,
    }  # fmt: skip
    assert {name: e.n for name, e in overall.margin.conditions.items()} == {
        "unsteered": 3, "steered": 3, "control_random": 3,
    }  # fmt: skip
    assert {e.mean for e in overall.logprob.conditions.values()} == {-2.0}
    assert overall.logprob.differences["steered-unsteered"].n == 3


def test_a_likelihood_counts_where_the_generated_answer_failed():
    rows = likely(table_of({"a": (1, 1, 1, 1), "b": (1, 1, 1, 1)}), {})
    rows[1] = {**rows[1], "status": "scorer_error", "em": None}
    found = make(rows)
    assert found.likelihoods[0].logprob.conditions["steered"].n == 2 > found.overall.em.conditions["steered"].n


def test_doses_enter_no_number_of_the_recipe():
    em = {f"q{i}": (0, 1, 0, 0) for i in range(6)}
    texts = price_rows({"t": [1.0, 2.0, 1.0, 1.0], "u": [2.0, 2.0, 2.0, 2.0]})
    prices = [{**r, "n_bytes": 8, "bits_per_byte": r["nll"], "kl": 0.1} for r in texts]
    dose = ("dose_8.0", "dose", None)
    dosed = [row(f"q{i}", dose, 0.0) for i in range(6)]
    broken = {**prices[0], "condition": dose[0], "family": dose[1], "nll": None, "bits_per_byte": None,
              "status": "model_nonfinite"}  # fmt: skip
    made = [
        summarise(
            pa.Table.from_pylist([*table_of(em), *more], schema=ITEM_SCHEMA),
            pa.Table.from_pylist([*prices, *costs], schema=PRICE_SCHEMA), HOW,
        )
        for more, costs in (([], []), (dosed, [broken]))
    ]  # fmt: skip
    without, found = made
    assert found.overall == without.overall and found.verdict == without.verdict and found.draws == without.draws
    assert found.price == without.price and found.price.failed == 0


def test_how_many_questions_it_takes_follows_from_how_many_answers_change():
    em = {f"q{i}": (int(i > 15), int(i > 13), 0, 0) for i in range(20)}
    found = make(table_of(em)).verdict
    needed = groups_needed(0.1, discordance=0.1, icc=ICC, group_size=1.0, alpha=1 - HOW.confidence)
    assert needed is not None and needed > 20
    assert (found.kind, found.needed) == ("too_few_questions", needed)
