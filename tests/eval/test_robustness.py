"""Alternative question sets, and gains compared between them."""

from __future__ import annotations

import dataclasses

import pytest
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.prompting.asked_before import question_digest
from mplat.datasets.prompting.prompts import prompt_text
from mplat.datasets.prompting.templates import find
from mplat.datasets.records import Paragraph, Question, Support
from mplat.eval.robustness import compare, of_another_seed, paraphrased, with_longer_contexts
from mplat.scoring.statistics import Resampling, paired_difference

HOW = Resampling(0, 0.95, 500)
WORLD = facts.prompts(per_level=2, seed=3, controls=["deleted"])
PAGE = [
    Question(
        f"s{i}", "squad", "dev", f"Where is thing {i}?", (Paragraph(f"Page {i}", (f"Thing {i} is in place {i}.",)),),
        (f"place {i}",), (15,), metric="squad_v1", supporting_facts=(Support(0, 0),), group=f"page{i}",
    )
    for i in range(4)
]  # fmt: skip
PROMPT = dataclasses.replace(PAGE[0], id="own", prompt="Say: ", group="")


def test_everything_made_from_one_question_counts_as_one_with_it():
    for made in (paraphrased([*WORLD, *PAGE, PROMPT], seed=3), with_longer_contexts([*WORLD, *PAGE, PROMPT], seed=3)):
        origins = {q.origin for q in [*WORLD, *PAGE] if not q.control}
        assert {q.origin for q in made.questions} == origins
        assert not {q.id for q in made.questions} & {q.id for q in [*WORLD, *PAGE]}
        assert set(made.without) == {"own", *(q.id for q in WORLD if q.control)}


def test_questions_of_data_sets_are_asked_in_plain_words():
    made = paraphrased(PAGE, seed=0)
    assert made.template == "facts"
    assert all(prompt_text(q, find(made.template)) != prompt_text(o) for q, o in zip(made.questions, PAGE, strict=True))
    plain = dataclasses.replace(PAGE[0], dataset="mine")
    open_ended = dataclasses.replace(PAGE[1], dataset="squad_v2", answerable=False)
    without = paraphrased([plain, open_ended], seed=0).without
    assert "already" in without["s0"] and "nothing answers it" in without["s1"]


def test_more_paragraphs_keep_the_evidence_and_do_not_hold_the_answer():
    made = with_longer_contexts(PAGE, seed=1, paragraphs=2)
    for original, question in zip(PAGE, made.questions, strict=True):
        (support,) = question.supporting_facts
        assert question.context[support.paragraph] == original.context[0] and len(question.context) == 3
        others = " ".join(s for p in question.context for s in p.sentences if p != original.context[0])
        assert original.answers[0] not in others
        assert question.answer_starts == ()
    assert made == with_longer_contexts(PAGE, seed=1, paragraphs=2)
    assert len({q.supporting_facts for s in range(6) for q in with_longer_contexts(PAGE, seed=s).questions}) == 3
    # a paragraph that holds the answer is none to add, and those of the same page are none either
    telling = dataclasses.replace(PAGE[1], context=(Paragraph("", ("Place 0 again.",)),))
    assert with_longer_contexts([PAGE[0], telling], seed=0).without["s0"] == "no other question has a paragraph"
    same = dataclasses.replace(PAGE[1], group="page0")
    assert set(with_longer_contexts([PAGE[0], same], seed=0).without) == {"s0", "s1"}
    with pytest.raises(UsageError, match="at least one paragraph"):
        with_longer_contexts(PAGE, seed=0, paragraphs=0)


def test_another_seed_asks_nothing_that_was_asked():
    again = of_another_seed(3, seed=3)
    assert not {q.id for q in again.questions} & {q.id for q in facts.prompts(per_level=3, seed=3)}
    without_two = of_another_seed(3, seed=3, besides=again.questions[:2])
    gone = again.questions[:2]
    assert set(without_two.without) == {
        q.id for q in again.questions if q in gone or q.group in {g.group for g in gone}
    }
    assert {q.id for q in without_two.questions} == {q.id for q in again.questions} - set(without_two.without)
    by_digest = of_another_seed(3, seed=3, decided_on=[question_digest(gone[0])])
    assert set(by_digest.without) == {gone[0].id}, "a stored recipe knows its questions by their digests alone"
    assert question_digest(again.questions[0]) not in {question_digest(q) for q in facts.prompts(per_level=3, seed=3)}


def row(question, condition, em, origin=None, status="ok"):
    return {"question_id": question, "condition": condition, "em": em, "status": status, "group": None, "control": None,
            "derived_from": origin}  # fmt: skip


def rows(gains, suffix=""):
    """origin -> (unsteered, steered)."""
    return [
        row(f"{name}{suffix}", condition, value, name if suffix else None)
        for name, values in gains.items()
        for condition, value in zip(("unsteered", "steered"), values, strict=True)
    ]


def test_gains_are_compared_question_by_question():
    before = {f"q{i}": (0.0, 1.0) if i < 30 else (0.0, 0.0) for i in range(60)}
    kept = {**before, "q0": (0.0, 0.0)}
    lost = dict.fromkeys(before, (0.0, 0.0))
    failed = [*rows(kept, "-reworded")[:-1], row("q59-reworded", "steered", None, "q59", "model_nonfinite")]
    found = compare(rows(before), {"words": rows(kept, "-reworded"), "long": rows(lost, "-longer8")}, HOW)
    words, long = found
    assert (words.kind, words.holds, words.gain.n) == ("words", True, 60) and words.gain.mean == pytest.approx(29 / 60)
    assert words.change == paired_difference(
        [0.0] * 60, [1.0] + [0.0] * 59, seed=0, confidence=0.95, n_resamples=500, shares=False
    )._replace(effect=None, n_groups=60)  # fmt: skip
    assert not long.holds and long.gain.mean == 0.0 and long.change.high < 0
    other = compare(rows(before), {"seed": rows({f"z{i}": (0.0, 1.0) for i in range(20)})}, HOW)[0]
    assert other.holds and other.change.n == 0
    few = compare(rows(before), {"seed": rows({f"z{i}": (0.0, float(i < 2)) for i in range(20)})}, HOW)[0]
    assert few.gain.mean == 0.1 and few.gain.low <= 0 and not few.holds, "two of twenty may be chance"
    assert compare(rows(before), {"w": failed}, HOW)[0].gain.n == 59
    pages = [r | {"group": r["derived_from"][:2]} for r in rows(kept, "-reworded")]
    of_pages = compare(rows(before), {"w": pages}, HOW)[0].gain
    assert (of_pages.n, of_pages.n_groups) == (60, 10) and of_pages.mean == words.gain.mean
