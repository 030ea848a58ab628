"""Generated prompts are answerable from their text alone, by one answer, and say the truth about themselves."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from mplat.core.errors import UsageError
from mplat.datasets.facts import LEVELS, distinct_questions, prompts
from mplat.datasets.facts.names import entities
from mplat.datasets.facts.relations import RELATIONS
from mplat.datasets.records import CATEGORIES, from_table, to_table


@pytest.fixture(scope="module", params=["eval", "train"])
def items(request):
    return prompts(per_level=60, seed=3, split=request.param)


def pattern(template):
    """A template as a regular expression; names have one or two words."""
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>.+)", re.escape(template)) + "$")


STATEMENTS = [(r.name, pattern(t)) for r in RELATIONS.values() for t in (*r.train_statements, *r.eval_statements)]
QUESTIONS = [(r.name, pattern(t)) for r in RELATIONS.values() for t in (*r.train_questions, *r.eval_questions)]
PHRASES = [(r.name, pattern(t)) for r in RELATIONS.values() for t in r.phrases]
KIND = {name.strip(): kind for split in ("eval", "train") for kind, names in entities(split).items() for name in names}


def read_statement(sentence):
    """(relation, subject, object): the only reading in which both slots are names of the right kinds."""
    found = set()
    for relation, shape in STATEMENTS:
        match = shape.match(sentence)
        kinds = (RELATIONS[relation].subject, RELATIONS[relation].object)
        if match and (KIND.get(match["a"]), KIND.get(match["b"])) == kinds:
            found.add((relation, match["a"], match["b"]))
    assert len(found) == 1, (sentence, found)
    return found.pop()


def read_phrase(text, kind):
    """Paths to a head entity that a noun phrase of `kind` can mean: (relations, head)."""
    name = text.removeprefix("the ")
    if KIND.get(name) == kind and (text != name) == (kind == "thing"):
        return {((), name)}
    found = set()
    for relation, shape in PHRASES:
        match = shape.match(text)
        if match and RELATIONS[relation].object == kind:
            # 's binds to the name alone or to a chain of 's
            if re.search(r"'s \w+$", text) and shape.pattern.startswith("(") and match["a"].startswith("the "):
                continue
            found |= {((*path, relation), head) for path, head in read_phrase(match["a"], RELATIONS[relation].subject)}
    return found


def read_question(text):
    found = set()
    for relation, shape in QUESTIONS:
        match = shape.match(text)
        if match:
            found |= {((*path, relation), head) for path, head in read_phrase(match["a"], RELATIONS[relation].subject)}
    assert len(found) == 1, (text, found)
    return found.pop()


def split_prompt(prompt):
    facts, question, end = prompt.split("\n")
    assert end == "A:" and question.startswith("Q: ") and facts.startswith(" ") and not facts.startswith("  ")
    return re.findall(r"[^.]+\.", facts), question[3:]


def test_a_reader_of_the_prompt_alone_finds_the_answer(items):
    for q in items:
        sentences, question = split_prompt(q.prompt)
        told = {}
        for sentence in sentences:
            relation, subject, target = read_statement(sentence.strip())
            assert told.setdefault((relation, subject), target) == target
        path, at = read_question(question)
        for relation in path:
            at = told[relation, at]
        assert (at,) == q.answers
        assert len(path) == q.hops


def test_supporting_facts_are_the_chain_in_order(items):
    for q in items:
        sentences = q.context[0].sentences
        path, at = read_question(q.question)
        assert len(q.supporting_facts) == q.hops
        for relation, support in zip(path, q.supporting_facts, strict=True):
            stated, subject, target = read_statement(sentences[support.sentence])
            assert support.paragraph == 0 and (stated, subject) == (relation, at)
            at = target


def test_record_agrees_with_the_prompt(items):
    for q in items:
        facts, _ = split_prompt(q.prompt)
        assert [s.strip() for s in facts] == list(q.context[0].sentences)
        assert q.prompt == f" {q.context_text()}\nQ: {q.question}\nA:"
        assert q.n_facts == len(facts)
        assert q.context_words == len(" ".join(facts).split())
        assert f"distractors={q.n_facts - q.hops} " in q.reason
        assert (q.dataset, q.metric, q.rule_set) == ("facts", "squad_v1", "generated")
        assert q.category == CATEGORIES[q.level - 1]
        for support, distance in zip(q.supporting_facts, q.evidence_distance, strict=True):
            assert distance == len(" ".join(q.context[0].sentences[support.sentence + 1 :]).split())


def test_levels_have_their_hops_and_facts(items):
    expected = {1: ({1}, 1, 4), 2: ({2}, 2, 4), 3: ({3}, 3, 4), 4: ({1}, 5, 7), 5: ({2}, 5, 7), 6: ({1, 2}, 10, 16)}
    for level, (hops, low, high) in expected.items():
        group = [q for q in items if q.level == level]
        assert len(group) == 60
        assert {q.hops for q in group} == hops
        assert {q.n_facts for q in group} == set(range(low, high + 1))
    assert Counter(q.hops for q in items if q.level == 6) == {1: 30, 2: 30}


def test_a_distractor_repeats_the_last_relation_wherever_there_is_a_distractor(items):
    for q in items:
        if q.n_facts > q.hops:
            last = read_question(q.question)[0][-1]
            assert sum(read_statement(s)[0] == last for s in q.context[0].sentences) >= 2


@pytest.mark.slow
def test_evidence_lies_anywhere_with_equal_chance():
    items = [q for q in prompts(per_level=1500, seed=1) if q.level == 4 and q.n_facts == 6]
    positions = [q.supporting_facts[0].sentence for q in items]
    counts = Counter(positions)
    expected = len(positions) / 6
    chi_square = sum((counts[i] - expected) ** 2 / expected for i in range(6))
    assert chi_square < 20.5  # the 0.999 quantile with 5 degrees of freedom


def test_same_arguments_same_prompts_and_a_prefix_stays():
    assert prompts(per_level=7, seed=4) == prompts(per_level=7, seed=4)
    short = {q.id: q for q in prompts(per_level=3, seed=4)}
    long = {q.id: q for q in prompts(per_level=7, seed=4)}
    assert all(long[key] == q for key, q in short.items())
    assert "facts-eval-L3-0002" in short


def test_i18_prompts_do_not_depend_on_the_hash_seed():
    program = "from mplat.datasets.facts import prompts; import sys; sys.stdout.write(repr(prompts(5, 2)))"
    outputs = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                       capture_output=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert outputs == {repr(prompts(5, 2)).encode()}


def test_seeds_share_almost_nothing():
    first, second = ({q.prompt for q in prompts(per_level=100, seed=seed)} for seed in (0, 1))
    assert len(first) == len(second) == 600
    assert len(first & second) <= 2


def test_no_question_is_asked_twice_in_a_level():
    questions = Counter((q.level, q.question) for q in prompts(per_level=300, seed=0))
    assert max(questions.values()) == 1


def test_round_trip_through_the_question_table(items):
    assert from_table(to_table(items)) == items


@pytest.mark.parametrize("per_level", [0, -1])
def test_no_prompts_is_a_usage_error(per_level):
    with pytest.raises(UsageError, match="at least 1"):
        prompts(per_level=per_level)


def test_unknown_split_is_a_usage_error_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'train'"):
        prompts(split="training")


def test_more_than_the_distinct_questions_is_a_usage_error():
    smallest = min(distinct_questions(level) for level in LEVELS)
    with pytest.raises(UsageError, match=rf"level 1 \(simple_recall\) has no {smallest + 1} distinct questions"):
        prompts(per_level=smallest + 1)


def test_distinct_questions_counts_heads_times_shapes():
    pool = {kind: len(names) for kind, names in entities("eval").items()}
    by_hand = sum(pool[r.subject] * len(r.eval_questions) for r in RELATIONS.values())
    assert distinct_questions(1) == distinct_questions(4) == by_hand
