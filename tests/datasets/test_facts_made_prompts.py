"""What is made from generated questions: controls without an answer, distance sweeps, worked examples."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.facts.distances import MAX_DISTANCE, count_tokens
from mplat.datasets.facts.examples import MAX_SHOTS, example_entities
from mplat.datasets.facts.names import entities
from mplat.datasets.facts.relations import RELATIONS
from mplat.datasets.records import from_table, to_table

NAMES = ("person", "place", "thing")
KINDS = ["absent_entity", "absent_relation", "deleted", "deleted_hop_1", "deleted_hop_2", "deleted_hop_3"]


def pattern(template):
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>.+)", re.escape(template)) + "$")


STATEMENTS = [(r.name, pattern(t)) for r in RELATIONS.values() for t in (*r.train_statements, *r.eval_statements)]
POOLS = {kind: {n.strip() for s in ("eval", "train") for n in entities(s)[kind]} for kind in NAMES}
EXAMPLES = {kind: {n.strip() for n in names} for kind, names in example_entities().items()}


@cache
def read(sentence, examples=False):
    """(relation, subject, object) of a sentence: the reading in which both slots are names of the right kinds."""
    pools = EXAMPLES if examples else POOLS
    found = {
        (relation, match["a"], match["b"])
        for relation, shape in STATEMENTS
        if (match := shape.match(sentence))
        and match["a"] in pools[RELATIONS[relation].subject]
        and match["b"] in pools[RELATIONS[relation].object]
    }
    assert len(found) == 1, (sentence, found)
    return found.pop()


def path_of(question):
    return question.reason.partition("path=")[2].split()[0].split(">")


def names_in(text, pools=POOLS):
    """The names in a text, by looking at its words and pairs of words."""
    words = re.findall(r"\w+", text)
    pieces = {*words, *map(" ".join, pairwise(words))}
    return {kind: pieces & pool for kind, pool in pools.items()}


def head_of(question, pools=POOLS):
    """The only name in the words of a question."""
    (name,) = set().union(*names_in(question, pools).values())
    return name


def follow(question, sentences):
    """What a reader of `sentences` answers; None where the chain breaks."""
    told = {(relation, subject): target for relation, subject, target in map(read, sentences)}
    at = head_of(question.question)
    for relation in path_of(question):
        at = told.get((relation, at))
    return at


@pytest.fixture(scope="module", params=["eval", "train"])
def made(request):
    return facts.prompts(12, 5, request.param, controls=KINDS)


@pytest.fixture(scope="module")
def pairs(made):
    """(original, control)"""
    originals = {q.id: q for q in made if not q.control}
    return [(originals[q.derived_from], q) for q in made if q.control]


# -- controls -------------------------------------------------------------------------------------------------------


def test_the_questions_themselves_are_those_without_controls(made):
    ordinary = [q for q in made if not q.control]
    assert ordinary == facts.prompts(12, 5, ordinary[0].split)
    assert len({q.id for q in made}) == len(made)
    assert facts.control_names() == KINDS


def test_every_question_has_every_control_that_it_can_have(pairs):
    for original in {o.id: o for o, _ in pairs}.values():
        expected = {"absent_entity", "deleted"} | {f"deleted_hop_{i}" for i in range(1, original.hops + 1)}
        expected -= {"deleted_hop_1"} if original.hops == 1 else set()
        found = {c.control for o, c in pairs if o.id == original.id}
        assert found - {"absent_relation"} == expected
        if path_of(original)[-1] == "kept_in":
            assert "absent_relation" not in found


def test_a_reader_answers_the_original_and_no_control(pairs):
    for original, control in pairs:
        assert follow(original, original.context[0].sentences) == original.answers[0]
        sentences = control.context[0].sentences if control.context else ()
        assert follow(control, sentences) is None, control.prompt


def test_a_control_differs_in_nothing_but_what_its_kind_says(pairs):
    for original, control in pairs:
        before = list(original.context[0].sentences)
        after = list(control.context[0].sentences) if control.context else []
        chain = [s.sentence for s in original.supporting_facts]
        gone = {
            "absent_entity": chain[-1:], "absent_relation": chain[-1:], "deleted": chain,
            **{f"deleted_hop_{i + 1}": chain[i : i + 1] for i in range(len(chain))},
        }[control.control]  # fmt: skip
        kept = [s for i, s in enumerate(before) if i not in gone]
        if control.control.startswith("absent"):
            assert len(after) == len(before) and [s for i, s in enumerate(after) if i not in gone] == kept
            old, new = read(before[gone[0]]), read(after[gone[0]])
            if control.control == "absent_entity":
                assert (new[0], new[2]) == (old[0], old[2]) and new[1] != old[1]
                assert new[1] not in original.prompt
                assert after[gone[0]].replace(new[1], old[1]) == before[gone[0]]
            else:
                assert new[1] == old[1] and new[0] != old[0]
                if old[0] in ("works_for", "friend") and new[0] in ("works_for", "friend"):
                    assert new[2] == old[2], "the same kinds: the answer is still named"
        else:
            assert after == kept
        same = ("question", "hops", "category", "level", "metric", "split", "dataset")
        assert all(getattr(control, name) == getattr(original, name) for name in same)
        assert control.id == f"{original.id}-{control.control}" and control.supporting_facts == ()
        told = f" {' '.join(after)}\n" if after else ""
        assert control.prompt == f"{told}Q: {control.question}\nA:" and control.n_facts == len(after)


def test_the_answers_of_a_control_are_the_guesses_the_originals_answer_first(pairs):
    for original, control in pairs:
        asked = RELATIONS[path_of(original)[-1]].object
        named = names_in(control.prompt)[asked]
        assert control.answers[0] == original.answers[0]
        assert set(control.answers) == named | {original.answers[0]} and len(set(control.answers)) == len(
            control.answers
        )
        assert f"control={control.control} a match is a guess" in control.reason


def test_one_kind_alone_is_the_same_as_among_all(made):
    alone = facts.prompts(12, 5, made[0].split, controls=["absent_entity"])
    assert [q for q in alone if q.control] == [q for q in made if q.control == "absent_entity"]


# -- distances ------------------------------------------------------------------------------------------------------

DISTANCES = (64, 0, 200, 512)


@pytest.fixture(scope="module")
def swept():
    return facts.prompts(8, 2, distances=DISTANCES)


def test_the_evidence_stands_at_the_distance_that_was_asked_for(swept):
    for q in swept:
        context, (last, *_) = (
            q.prompt.partition("\nQ:")[0],
            sorted((s.sentence for s in q.supporting_facts), reverse=True),
        )
        behind = " ".join(q.context[0].sentences[last + 1 :])
        assert context.endswith(behind)
        assert q.distance_tokens == count_tokens(f" {behind}" if behind else "")
        assert abs(q.distance_tokens - q.distance_target) <= 1
    exact = Counter(q.distance_tokens == q.distance_target for q in swept)
    assert exact[True] > 0.9 * len(swept)


def test_all_distances_of_a_question_have_the_same_sentences_and_length(swept):
    by_origin = {}
    for q in swept:
        by_origin.setdefault(q.derived_from, []).append(q)
    assert len(by_origin) == 3 * 8 and {q.level for q in swept} == {1, 2, 3}
    originals = {q.id: q for q in facts.prompts(8, 2)}
    for origin, group in by_origin.items():
        assert [q.distance_target for q in group] == list(DISTANCES)
        assert len({tuple(sorted(q.context[0].sentences)) for q in group}) == 1
        assert len({count_tokens(q.prompt) for q in group}) == 1
        original = originals[origin]
        chain = [original.context[0].sentences[s.sentence] for s in original.supporting_facts]
        for q in group:
            assert [q.context[0].sentences[s.sentence] for s in q.supporting_facts] == chain
            assert (q.question, q.answers, q.category) == (original.question, original.answers, original.category)


def test_a_reader_finds_the_answer_at_every_distance_and_fillers_are_about_others(swept):
    for q in swept:
        sentences = q.context[0].sentences
        assert follow(q, sentences) == q.answers[0]
        told = [read(s) for s in sentences]
        assert len({t[:2] for t in told}) == len(told)
        evidence = {s.sentence for s in q.supporting_facts}
        named = {name for i in evidence for name in told[i][1:]}
        assert not named & {name for i, t in enumerate(told) if i not in evidence for name in t[1:]}
        assert path_of(q)[-1] in {t[0] for i, t in enumerate(told) if i not in evidence}


def test_bosses_of_a_long_text_form_no_circle():
    (q,) = [q for q in facts.prompts(1, 4, distances=(3000,)) if q.level == 1]
    told = map(read, q.context[0].sentences)
    boss = {subject: target for relation, subject, target in told if relation == "works_for"}
    assert len(boss) > 50
    for person in boss:
        steps, at = 0, person
        while at in boss:
            steps, at = steps + 1, boss[at]
            assert steps <= len(boss)


def test_distances_in_facts_are_numbers_of_sentences():
    for q in facts.prompts(3, 1, distances=(0, 1, 7), unit="facts"):
        last = max(s.sentence for s in q.supporting_facts)
        assert q.n_facts is not None and q.n_facts - last - 1 == q.distance_target


def test_a_sweep_has_controls_too_and_they_know_the_original():
    made = facts.prompts(2, 1, distances=(0, 900), controls=KINDS)
    controls = [q for q in made if q.control]
    assert {q.derived_from for q in controls} == {q.id for q in facts.prompts(2, 1) if q.level in (1, 2, 3)}
    assert all(follow(q, q.context[0].sentences if q.context else ()) is None for q in controls)
    assert {q.distance_target for q in controls} == {0, 900}


# -- worked examples ------------------------------------------------------------------------------------------------


def test_example_names_are_in_neither_pool():
    every = set().union(*POOLS.values())
    mine = [name.strip() for names in example_entities().values() for name in names]
    assert len(set(mine)) == len(mine) and not every & set(mine)
    words = {word for name in POOLS["thing"] for word in name.split()}
    assert not words & {word for name in example_entities()["thing"] for word in name.split()}


@pytest.mark.parametrize("shots", [1, 3, MAX_SHOTS])
def test_examples_are_worked_questions_of_as_many_hops_about_others(shots):
    plain, shown = facts.prompts(4, 6), facts.prompts(4, 6, shots=shots)
    for before, q in zip(plain, shown, strict=True):
        assert q.prompt and before.prompt
        header = q.prompt.removesuffix(before.prompt)
        assert not any(names_in(header).values()), "no name of the question's world"
        blocks = re.findall(r" (.+)\nQ: (.+)\nA: (.+)\n", header)
        assert len(blocks) == shots and header == "".join(f" {s}\nQ: {a}\nA: {b}\n" for s, a, b in blocks)
        named = []
        for sentences, question, answer in blocks:
            told = [read(s.strip(), examples=True) for s in re.findall(r"[^.]+\.", sentences)]
            assert q.hops and len(told) == q.hops + 1
            reached = {head_of(question, EXAMPLES)}
            for _ in range(q.hops):
                reached = {target for _, subject, target in told if subject in reached}
            assert answer in reached
            named.append({name for t in told for name in t[1:]})
        assert sum(map(len, named)) == len(set().union(*named)), "examples share no entity"
        assert q.prompt_digest == hashlib.sha256(q.prompt.encode()).hexdigest()
        assert (q.id, q.context, q.answers) == (before.id, before.context, before.answers)


def test_a_control_has_the_examples_of_its_original_and_more_examples_only_add():
    made = facts.prompts(2, 0, controls=KINDS, shots=2)
    ends = {q.id: q.prompt for q in made}
    for q in (q for q in made if q.control):
        cut = "\n".join(ends[q.derived_from].split("\n")[:6])
        assert q.prompt.startswith(cut)
    more = facts.prompts(2, 0, shots=3)
    assert all(m.prompt.endswith(q.prompt) for m, q in zip(more, made, strict=False))


# -- all ------------------------------------------------------------------------------------------------------------


def test_everything_survives_the_question_table():
    made = facts.prompts(2, 0, distances=(0, 40), controls=KINDS, shots=1)
    assert from_table(to_table(made)) == made


def test_a_table_from_before_these_columns_is_one_of_ordinary_questions():
    table = to_table(facts.prompts(2)).drop_columns(["control", "derived_from", "distance_target", "prompt_digest"])
    assert all(q.control == "" and q.original == q.id and q.distance_target is None for q in from_table(table))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"controls": ["delted"]}, "did you mean 'deleted'"),
        ({"distances": (-1,)}, f"0 to {MAX_DISTANCE}"),
        ({"distances": (5, 5)}, "none twice"),
        ({"distances": (20_000,)}, r"used up after \d+ filler facts"),
        ({"distances": (5,), "unit": "words"}, "tokens or in facts"),
        ({"shots": MAX_SHOTS + 1}, f"0 to {MAX_SHOTS}"),
        ({"shots": -1}, f"0 to {MAX_SHOTS}"),
    ],
)
def test_what_cannot_be_made_is_a_usage_error(arguments, message):
    with pytest.raises(UsageError, match=message):
        facts.prompts(1, **arguments)
