"""The categories of questions, their reasons and distances, and the balanced draw."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.datasets.classify.classifying import (
    classify,
    classify_folder,
    classify_gathered,
    gather,
    summary_path,
    write,
)
from mplat.datasets.classify.evidence import Evidence
from mplat.datasets.classify.evidence import evidence_of as evidence_with
from mplat.datasets.classify.token_counts import open_counter
from mplat.datasets.data_set import get, names
from mplat.datasets.records import (
    LEVEL_OF_CATEGORY,
    QUESTION_SCHEMA,
    Paragraph,
    Question,
    Support,
    from_table,
)


def evidence_of(asked: Question) -> Evidence:
    return evidence_with(asked, open_counter())


def question(
    name: str, *paragraphs: list[str], supports: tuple[tuple[int, int], ...] = (), text: str = "Who is it?", **changes
) -> Question:
    return Question(
        id="q",
        dataset=name,
        split="dev",
        question=text,
        context=tuple(Paragraph(f"P{n}", tuple(sentences)) for n, sentences in enumerate(paragraphs)),
        answers=("x",),
        supporting_facts=tuple(Support(*fact) for fact in supports),
        **changes,
    )


def squad(sentences: int, words_each: int = 4, **changes) -> Question:
    sentence = " ".join(["word"] * (words_each - 1)) + " end. "
    return question("squad", [sentence] * sentences, supports=((0, 0),), **changes)


def category(asked: Question, rule_set: str = "evidence") -> str:
    return classify(asked, get(asked.dataset), rule_set).question.category


def test_words_and_distances_are_counted_from_the_end_of_each_evidence_sentence() -> None:
    asked = question(
        "hotpotqa", ["one two.", " three four five."], [" six."], ["seven eight"], supports=((0, 1), (1, 0))
    )
    counts = evidence_of(asked)
    assert counts.words == 8 == len(asked.context_text().split())
    assert counts.distances == (3, 2)
    assert (counts.sentences, counts.supports, counts.support_paragraphs) == (4, 2, 2)
    assert evidence_of(dataclasses.replace(asked, supporting_facts=(Support(2, 0),))).distances == (0,)


@given(st.lists(st.lists(st.text(" ab.\n", max_size=8), max_size=4), min_size=1, max_size=4))
def test_distances_equal_the_words_that_follow_in_the_rendered_context(paragraphs: list[list[str]]) -> None:
    places = [(p, s) for p, sentences in enumerate(paragraphs) for s in range(len(sentences))]
    asked = question("squad", *paragraphs, supports=tuple(places))
    for (p, s), distance in zip(places, evidence_of(asked).distances, strict=True):
        rest = [sentence for sentence in paragraphs[p][s + 1 :]] + [t for later in paragraphs[p + 1 :] for t in later]
        assert distance == len(" ".join(rest).split())
    assert evidence_of(asked).words == len(asked.context_text().split())


@pytest.mark.parametrize(
    ("sentences", "expected", "ambiguous"),
    [
        (1, "simple_recall", ()),
        (4, "simple_recall", ()),
        (5, "long_context", ()),
        (7, "long_context", ()),
        (8, "long_context", ("between_bands",)),
        (9, "long_context", ("between_bands",)),
        (10, "stress_test", ()),
        (40, "stress_test", ()),
    ],
)
def test_evidence_counts_the_sentences_of_a_squad_paragraph(
    sentences: int, expected: str, ambiguous: tuple[str, ...]
) -> None:
    done, kinds = classify(squad(sentences), get("squad"))
    assert (done.category, done.level, kinds) == (expected, LEVEL_OF_CATEGORY[expected], ambiguous)
    assert (done.n_facts, done.hops, done.rule_set) == (sentences, 1, "evidence")
    assert done.reason.startswith(f"{sentences} sentences in the context")
    assert ("ambiguous" in done.reason) == bool(ambiguous)
    assert done.context_words == 4 * sentences and done.evidence_distance == (4 * sentences - 4,)


def test_evidence_reports_what_another_reading_would_say() -> None:
    long_words = classify(squad(3, words_each=60), get("squad"))
    assert long_words.question.category == "simple_recall" and long_words.ambiguities == ("longer_in_words",)
    assert "180 words alone would be long_context" in long_words.question.reason
    assert classify(squad(6, words_each=50), get("squad")).ambiguities == ("longer_in_words",)
    several = dataclasses.replace(squad(3), supporting_facts=(Support(0, 0), Support(0, 2)))
    assert classify(several, get("squad")).ambiguities == ("evidence_in_several_sentences",)


@pytest.mark.parametrize(
    ("supports", "expected", "kinds"),
    [
        (((0, 0), (1, 0)), "two_hop", ()),
        (((0, 0), (1, 0), (1, 1)), "three_hop", ("fewer_paragraphs_than_facts",)),
        (((0, 0), (0, 1), (1, 0), (1, 1)), "three_hop", ("fewer_paragraphs_than_facts",)),
        (((0, 0), (1, 0), (2, 0)), "three_hop", ()),
        (((0, 0),), "two_hop", ("outside_mapping",)),
        (tuple((0, n) for n in range(6)), "three_hop", ("fewer_paragraphs_than_facts", "outside_mapping")),
        (tuple((0, n) for n in range(12)), "three_hop", ("fewer_paragraphs_than_facts", "outside_mapping")),
    ],
)
def test_hotpotqa_goes_by_its_marked_sentences(supports: tuple, expected: str, kinds: tuple) -> None:
    asked = question("hotpotqa", ["a b."] * 12, ["c d."] * 12, ["e f."] * 3, supports=supports)
    done, found = classify(asked, get("hotpotqa"))
    assert (done.category, found) == (expected, kinds)
    assert done.n_facts == len(supports) and done.hops == len({p for p, _ in supports})
    assert category(asked, "source") == expected


def test_a_hop_count_that_comes_with_the_data_is_first_in_both_rule_sets() -> None:
    asked = question("hotpotqa", ["a.", "b.", "c."], ["d."], supports=((0, 0), (0, 1), (1, 0)), hops=2)
    assert category(asked) == category(asked, "source") == "three_hop"
    asked = dataclasses.replace(asked, dataset="musique")
    for hops, expected in ((2, "two_hop"), (3, "three_hop"), (4, "three_hop")):
        known = dataclasses.replace(asked, hops=hops)
        assert category(known) == category(known, "source") == expected
        done, kinds = classify(known, get("musique"))
        assert done.hops == hops and done.reason.startswith(f"{hops} hops in the decomposition")
        assert kinds == (("more_hops_than_three",) if hops == 4 else ())
    one = classify(dataclasses.replace(asked, hops=1), get("musique"), "source")
    assert one.question.category == "two_hop" and one.ambiguities == ("outside_mapping",)


@pytest.mark.parametrize("asked", [squad(6), squad(12), question("hotpotqa", ["a.", "b."], ["c."], supports=((0, 1),))])
def test_classifying_a_classified_question_changes_nothing(asked: Question) -> None:
    for rule_set in ("evidence", "source"):
        once = classify(asked, get(asked.dataset), rule_set)
        assert classify(once.question, get(asked.dataset), rule_set) == once


@pytest.mark.parametrize(
    ("sentences", "words_each", "text", "expected", "rule"),
    [
        (3, 5, "Who is it?", "simple_recall", "no other rule"),
        (1, 5, "How is it?", "simple_recall", "no other rule"),
        (3, 5, "Why is it?", "simple_recall", "2-4 facts and 'why'"),  # two_hop, which SQuAD does not map to
        (3, 5, "In WHICH year?", "simple_recall", "2-4 facts and 'which'"),
        (3, 5, "And somehow, who?", "simple_recall", "no other rule"),
        (5, 5, "Who?", "long_context", "5-7 facts"),
        (7, 5, "How many?", "long_context", "5-7 facts"),
        (8, 5, "Who?", "long_context", "5-9 facts"),  # three_hop, which SQuAD does not map to
        (2, 75, "Why?", "long_context", "150-299 words"),
        (2, 150, "Why?", "stress_test", "300 words reached"),
        (10, 5, "Who?", "stress_test", "10 facts"),
    ],
)
def test_the_source_rules_in_their_order(sentences: int, words_each: int, text: str, expected: str, rule: str) -> None:
    done, kinds = classify(squad(sentences, words_each, text=text), get("squad"), "source")
    assert done.category == expected and rule in done.reason and done.rule_set == "source"
    assert (kinds == ("outside_mapping",)) == ("'" in rule or rule == "5-9 facts")


def test_the_source_rules_count_plain_pieces_where_evidence_counts_sentences() -> None:
    asked = question("squad", ["Mr. A. Rossi met Dr. B. Bianchi and Prof. C. Verdi."], supports=((0, 0),))
    assert classify(asked, get("squad"), "evidence").question.n_facts == 1
    assert classify(asked, get("squad"), "source").question.n_facts == 7


@pytest.mark.parametrize("rule_set", ["source", "evidence"])
def test_triviaqa_is_always_a_query(rule_set: str) -> None:
    done, kinds = classify(question("triviaqa", text="How many?"), get("triviaqa"), rule_set)
    assert (done.category, done.level, kinds) == ("query_dataset", None, ())
    assert (done.n_facts, done.context_words, done.evidence_distance, done.hops) == (0, 0, (), None)


@pytest.mark.parametrize("rule_set", ["source", "evidence"])
def test_drop_is_always_combined(rule_set: str) -> None:
    for sentences in (1, 6, 30):
        done, kinds = classify(dataclasses.replace(squad(sentences), dataset="drop"), get("drop"), rule_set)
        assert (done.category, done.level, kinds, done.n_facts) == ("combined", 5, (), sentences)


@pytest.mark.parametrize(
    ("sentences", "words_each", "evidence", "source"),
    [
        (0, 0, "long_context", "long_context"),
        (3, 5, "long_context", "long_context"),
        (6, 5, "long_context", "long_context"),
        (9, 5, "long_context", "long_context"),
        (3, 120, "long_context", "stress_test"),
        (10, 5, "stress_test", "stress_test"),
    ],
)
def test_natural_questions_are_long_contexts_or_stress_tests(
    sentences: int, words_each: int, evidence: str, source: str
) -> None:
    supports = ((0, 0),) if sentences else ()
    asked = dataclasses.replace(squad(sentences, words_each), dataset="natural_questions")
    asked = dataclasses.replace(asked, supporting_facts=tuple(Support(*place) for place in supports))
    assert (category(asked), category(asked, "source")) == (evidence, source)
    if not sentences:
        done, kinds = classify(dataclasses.replace(asked, context=()), get("natural_questions"))
        assert kinds == ("outside_mapping", "no_context") and "there is no context" in done.reason


def test_every_data_set_maps_to_the_categories_it_should() -> None:
    recall, hops = ("simple_recall", "long_context", "stress_test"), ("two_hop", "three_hop")
    assert {name: get(name).categories for name in names()} == {
        "squad": recall,
        "squad_v2": recall,
        "natural_questions": ("long_context", "stress_test"),
        "hotpotqa": hops,
        "musique": hops,
        "triviaqa": ("query_dataset",),
        "drop": ("combined",),
    }


@given(st.sampled_from(["squad", "hotpotqa", "triviaqa"]), st.sampled_from(["source", "evidence"]), st.data())
def test_a_category_is_always_one_that_the_data_set_maps_to(name: str, rule_set: str, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=3))
    places = [(p, s) for p, size in enumerate(sizes) for s in range(size)]
    supports = data.draw(st.lists(st.sampled_from(places), min_size=1, unique=True))
    asked = question(name, *(["some words here."] * size for size in sizes), supports=tuple(supports))
    done, _ = classify(asked, get(name), rule_set)
    assert done.category in get(name).categories
    assert done.reason and done.level == LEVEL_OF_CATEGORY[done.category]


def folder_of(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    context = "Rome is old. Milan is not."
    rows = [
        {
            "id": f"s{n}",
            "title": "T",
            "context": context + " It rains." * (n % 12),
            "question": "What is old?",
            "answers": {"text": ["Rome"], "answer_start": [0]},
        }
        for n in range(40)
    ]
    (data / "squad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "trivia.json").write_text(
        json.dumps([{"id": f"t{n}", "question": "Who?", "golden_answers": ["Puck"]} for n in range(5)])
    )
    return data


def test_the_stage_writes_a_question_table_and_its_summary_byte_for_byte_the_same(tmp_path: Path) -> None:
    data = folder_of(tmp_path)
    results = [
        classify_folder(names, data, per_dataset=20, per_category=6, seed=5)
        for names in (["squad", "triviaqa"], ["triviaqa", "squad", "squad"])
    ]
    for number, result in enumerate(results):
        write(result, tmp_path / str(number) / "questions.parquet")
    paths = [tmp_path / str(number) / "questions.parquet" for number in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert summary_path(paths[0]).read_bytes() == summary_path(paths[1]).read_bytes()
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["questions.parquet", "questions.summary.json"]

    table = pq.read_table(paths[0])
    assert table.schema.equals(QUESTION_SCHEMA)
    questions = from_table(table)
    assert tuple(questions) == results[0].questions
    assert Counter(q.category for q in questions) == {
        "simple_recall": 6,
        "long_context": 6,
        "stress_test": 6,
        "query_dataset": 5,
    }
    assert all(q.reason and q.rule_set == "evidence" and q.context_words is not None for q in questions)

    summary = json.loads(summary_path(paths[0]).read_text())
    assert summary["questions"] == summary["table"]["rows"] == 23
    assert summary["datasets"]["squad"]["files"][0]["file"] == "squad.jsonl"
    assert summary["datasets"]["triviaqa"]["taken"] == 5
    assert {entry["category"] for entry in summary["shortfalls"]} == {
        "two_hop",
        "three_hop",
        "combined",
        "query_dataset",
    }
    assert str(tmp_path) not in summary_path(paths[0]).read_text()


def test_bad_records_follow_the_tolerance_and_are_in_the_summary(tmp_path: Path) -> None:
    data = folder_of(tmp_path)
    with open(data / "squad.jsonl", "a") as file:
        file.write("{broken\n")
    with pytest.raises(InputError, match="1 of 41 SQuAD v1.1 records cannot be used"):
        classify_folder(["squad"], data)
    result = classify_folder(["squad"], data, fail_over=0.1)
    assert result.summary["datasets"]["squad"]["bad"] == {"broken_json": 1}
    assert result.summary["datasets"]["squad"]["records"] == 41


def test_i3_a_single_question_is_enough_and_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([{"id": "t", "question": "Who?", "golden_answers": ["Puck"]}]))
    assert len(classify_folder(["triviaqa"], tmp_path).questions) == 1
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(InputError, match="no TriviaQA file"):
        classify_folder(["triviaqa"], tmp_path)


def test_wrong_arguments_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'evidence'"):
        classify_folder(["squad"], tmp_path, rule_set="evidences")
    with pytest.raises(UsageError, match="did you mean 'squad'"):
        classify_folder(["sqad"], tmp_path)
    with pytest.raises(UsageError, match="--per-dataset -1"):
        classify_folder(["squad"], tmp_path, per_dataset=-1)
    with pytest.raises(UsageError, match="from 0 to 1"):
        classify_folder(["squad"], folder_of(tmp_path), fail_over=1.5)


@pytest.mark.slow
@pytest.mark.timeout(400)  # of a busy machine; what is promised is processor time
def test_all_real_questions_are_classified_in_time_by_both_rule_sets(shared_data: Path) -> None:
    start = time.process_time()
    gathered = gather(names(), shared_data)
    result = classify_gathered(gathered, per_dataset=0, per_category=0)
    assert time.process_time() - start < 60
    found = {name: account["categories"] for name, account in result.summary["datasets"].items()}
    assert {name: sum(counts.values()) for name, counts in found.items()} == {
        "squad": 4961 + 11877,
        "squad_v2": 3782 + 536,
        "hotpotqa": 446,
        "triviaqa": 662 + 4 + 2,
        "musique": 200,
        "drop": 4908 + 281 + 73 + 493,
        "natural_questions": 2410 + 1800 + 1788 + 59 + 1 + 1 + 1,
    }
    assert len(result.questions) == 34_285
    assert all(set(found[name]) == set(get(name).categories) for name in found)
    assert found["hotpotqa"] == {"two_hop": 307, "three_hop": 139}
    assert found["musique"] == {"two_hop": 145, "three_hop": 32 + 23}
    for asked in result.questions[::97]:
        assert asked.context_words == len(asked.context_text().split())
        assert len(asked.evidence_distance) == len(asked.evidence_tokens) == len(asked.supporting_facts)
        assert all(distance <= (asked.context_tokens or 0) for distance in asked.evidence_tokens)
    some = [asked for asked in gathered.questions if asked.dataset == "squad"][::7]
    source, evidence = (Counter(category(asked, rule_set) for asked in some) for rule_set in ("source", "evidence"))
    assert set(source) == set(evidence) == set(found["squad"])
    assert source["stress_test"] > evidence["stress_test"]  # plain cuts and 300 words reach it more often
