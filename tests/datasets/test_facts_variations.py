"""Variations of questions of the facts world: what changes, and that the answer stays."""

# pyright: reportOptionalSubscript=false
from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.facts.names import entities
from mplat.datasets.facts.prompts import draw
from mplat.datasets.facts.variations import lengthened, reworded
from mplat.datasets.facts.world import chains


def names_in(text: str) -> set[str]:
    return {name for pool in entities("eval").values() for name in pool if name in text}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_other_words_keep_facts_order_and_answer(seed):
    questions = facts.prompts(per_level=2, seed=seed)
    for original, made in zip(questions, reworded(questions, seed=seed), strict=True):
        assert made.original == original.id != made.id and made.origin == original.origin
        assert made.answers == original.answers and made.supporting_facts == original.supporting_facts
        assert made.question != original.question
        sentences = original.context[0].sentences, made.context[0].sentences
        for before, after in zip(*sentences, strict=True):
            assert before != after and names_in(f" {before}") == names_in(f" {after}")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), extra=st.integers(1, 24))
def test_more_facts_are_about_others_and_leave_one_answer(seed, extra):
    questions = facts.prompts(per_level=1, seed=seed)
    asked = {a.id: a for a in draw(1, seed, "eval", entities("eval"), "")}
    for original, made in zip(questions, lengthened(questions, extra, seed=seed), strict=True):
        before, after = original.context[0].sentences, made.context[0].sentences
        assert made.question == original.question and made.answers == original.answers
        assert [s for s in after if s in before] == list(before) and len(after) == len(before) + extra
        said = {f" {s}" for s in after if s not in before}
        assert not names_in(" ".join(said)) & names_in(f" {original.prompt}")
        evidence = [after[s.sentence] for s in made.supporting_facts]
        assert evidence == [before[s.sentence] for s in original.supporting_facts]
        assert made.n_facts == original.n_facts + extra
        # the chain that is asked for still has one end
        path = asked[original.id].path
        ends = {c.answer for c in chains([s.fact for s in asked[original.id].stated])[len(path) - 1]
                if (c.path, c.head) == (path, asked[original.id].head)}  # fmt: skip
        assert ends == {f" {original.answers[0]}"}


def test_examples_before_a_prompt_and_groups_stay():
    questions = [dataclasses.replace(q, group="g") for q in facts.prompts(per_level=1, seed=3, shots=2, stream="mine")]
    bare = facts.prompts(per_level=1, seed=3, stream="mine")
    for made in (reworded(questions, seed=3), lengthened(questions, 3, seed=3)):
        for original, without, varied in zip(questions, bare, made, strict=True):
            header = original.prompt[: len(original.prompt) - len(without.prompt)]
            assert header and varied.prompt.startswith(header) and varied.group == "g"


def test_what_was_not_drawn_with_this_seed_is_refused():
    questions = facts.prompts(per_level=1, seed=3, controls=["deleted"])
    with pytest.raises(UsageError, match="not made with seed 4"):
        reworded(questions[:1], seed=4)
    with pytest.raises(UsageError, match="only original questions"):
        reworded(questions[-1:], seed=3)
    with pytest.raises(UsageError, match="only original questions"):
        lengthened(reworded(questions[:1], seed=3), 2, seed=3)
    with pytest.raises(UsageError, match="not the id"):
        reworded([dataclasses.replace(questions[0], id="facts-eval-L1-abc")], seed=3)
    with pytest.raises(UsageError, match="at least one fact"):
        lengthened(questions[:1], 0, seed=3)
