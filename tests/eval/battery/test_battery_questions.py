"""What every task of the battery promises of its questions, and what single tasks do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.datasets.prompting.prompts import unusable
from mplat.datasets.records import from_table, to_table
from mplat.eval.battery import questions, task_names
from mplat.eval.battery.task import find_task, task_of
from mplat.eval.battery.tasks.format_following import FORMS, worked
from mplat.models import load
from mplat.scoring.metrics import names as metric_names
from mplat.scoring.metrics import score
from mplat.scoring.metrics.checkable_rules import keeps

TASKS = task_names()
RIGHT = {  # an answer that keeps the rule, by rule and value
    "words": lambda n: "word " * int(n), "items": lambda n: ", ".join(["thing"] * int(n)), "upper": lambda _: "RAIN",
    "lower": lambda _: "rain", "number": lambda _: "12", "quoted": lambda _: '"Rain"',
    "starts_with": lambda word: f"{word} it is", "ends_with": lambda word: f"It is {word}.",
    "contains": lambda word: f"So {word} it is", "without": lambda letter: "b c d",
    "json": lambda key: f'{{"{key}": 1}}',
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lambada") / "passages.jsonl"
    texts = [f"She said it {n} times, and then she went on to say it {n} times more" for n in range(30)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def right(question) -> str:
    if question.metric != "checkable_rules":
        return question.answers[0]
    name, _, value = question.answers[0].partition(" ")
    return RIGHT[name](value)


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_questions_can_be_asked_and_judged(name, file):
    made = questions([name], 3, 1, lambada=file)
    assert len({q.id for q in made}) == len(made) > 0
    per_category = [sum(q.category == category for q in made) for category in {q.category for q in made}]
    assert set(per_category) == {3}
    for question in made:
        assert task_of(question.dataset) == name and question.prompt and not question.prompt.endswith(" ")
        assert unusable(question, set(metric_names())) == ""
        assert score(question.metric, right(question), question.gold()).em == 1.0
        assert score(question.metric, "", question.gold()).em == 0.0
    assert find_task(name).asks and from_table(to_table(made)) == made


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_questions_and_more_only_add(name, file):
    few, more, other = (questions([name], n, seed, lambada=file) for n, seed in ((2, 1), (5, 1), (2, 2)))
    assert few == questions([name], 2, 1, lambada=file)
    assert {q.id: q.prompt for q in few}.items() <= {q.id: q.prompt for q in more}.items()
    assert [q.prompt for q in few] != [q.prompt for q in other]


def test_without_a_file_the_tasks_that_read_one_are_left_out(file):
    assert {task_of(q.dataset) for q in questions(None, 1)} == set(TASKS) - {"lambada"}
    assert {task_of(q.dataset) for q in questions(None, 1, lambada=file)} == set(TASKS)


def test_prompts_do_not_end_in_the_answers_first_token():
    """Names are two tokens of the shipped tokenizer with the space before them: a prompt ends before that space."""
    tokenizer = load("tiny-mamba").tokenizer
    for question in questions(["associative_recall", "levels", "needle"], 1):
        alone = tokenizer.encode(f"{question.prompt} {question.answers[0]}")
        assert alone[: len(tokenizer.encode(question.prompt))] == tokenizer.encode(question.prompt)


def test_the_evidence_of_names_is_found_in_the_prompt_and_tokens_are_counted():
    tokenizer = load("tiny-mamba").tokenizer
    for question in questions(["associative_recall", "copying", "needle"], 2, 0, tokenizer):
        assert question.context_tokens == len(tokenizer.encode(question.prompt))
        (behind,) = question.evidence_tokens
        if question.category.startswith("needle"):
            assert abs(behind - int(question.distance_target or 0)) <= 5
        if question.category == "copy_4":
            assert behind == 0


def test_a_needles_texts_differ_in_its_place_alone():
    by_question: dict[str, list] = {}
    for question in questions(["needle"], 2):
        by_question.setdefault(question.group, []).append(question)
    assert len(by_question) == 2
    for made in by_question.values():
        assert len(made) == 5 and len({q.prompt for q in made}) == 5
        assert len({q.answers for q in made}) == len({tuple(sorted(q.prompt.split())) for q in made}) == 1


def test_a_pair_is_there_once_and_a_query_is_new():
    before = set()
    for question in questions(["associative_recall"], 20):
        *lines, asked = question.prompt.split("\n")
        pairs = int(question.category.removeprefix("recall_"))
        stated = dict(line.split(":") for line in lines[:pairs])
        assert len(stated) == len(set(stated.values())) == pairs
        assert stated[asked.removesuffix(":")].strip() == question.answers[0]
        queried = lines[pairs:]
        assert all(line in lines[:pairs] for line in queried) and not any(line.startswith(asked) for line in queried)
        before.add(len(queried))
    assert before == {0, 1, 2, 3}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.rule)
def test_a_worked_example_keeps_its_rule_and_the_rule_does_not_hold_of_anything(form):
    rule = f"{form.rule} {form.values[0]}" if form.values else form.rule
    (answer,) = re.findall(r"\nA: (.*)\n$", worked(form))
    assert keeps(answer, rule)
    assert not all(keeps(text, rule) for text in ("Zzz zzz zzz, zzz zzz zzz", "a"))


def test_what_is_no_rule_is_an_input_error():
    for rule in ("rhymes", "words", "words many", "upper case", "starts_with"):
        with pytest.raises(InputError, match="rule"):
            keeps("text", rule)
    assert not keeps("  ", "without e") and not keeps('{"a": 1', "json a") and not keeps("[1]", "json a")


def test_passages_of_lambada_end_before_their_last_word(file):
    made = questions(["lambada"], 4, lambada=file)
    assert all(q.prompt.endswith(" times") and q.answers == ("more",) for q in made) and len(made) == 4
    assert score("begins_with", " more, he said", ["more"]).em == 1.0
    assert score("begins_with", "no more", ["more"]).em == 0.0


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no battery task 'nedle'; did you mean 'needle'"):
        questions(["nedle"])
    with pytest.raises(UsageError, match="name it with --lambada FILE"):
        questions(["lambada"])
    with pytest.raises(UsageError, match="none twice"):
        questions(["levels", "levels"])
    with pytest.raises(UsageError, match="at least one question"):
        questions(["levels"], 0)
    bad = tmp_path / "bad.jsonl"
    for content, message in (('{"txt": "a b"}\n', "no text in it"), ('{"text": "word"}\n', "ends with a space"),
                             ("[]", "no text|holds no passage")):  # fmt: skip
        bad.write_text(content)
        with pytest.raises(InputError, match=message):
            questions(["lambada"], lambada=bad)
