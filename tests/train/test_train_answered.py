"""Texts with marked answers: which tokens are answers, each target once an epoch, and what is no such text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.facts import Difficulty, training_text
from mplat.datasets.readers.answered import AnsweredText, read
from mplat.datasets.tokens.tokenizer import open_tokenizer
from mplat.train import train
from mplat.train.data import open_source
from mplat.train.sources.answered import ANSWER, FILLER, OTHER, START, Rows, encoded, packed
from train_runs import config

ENCODER, TOKENIZER = open_tokenizer(None)
END = TOKENIZER.eos_id


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def facts(n, first=0):
    made = [training_text(3, i, Difficulty(max_facts=4)) for i in range(first, first + n)]
    return [{"text": text, "answers": spans} for text, spans in made]


def test_the_tokens_of_an_answer_are_those_between_its_places():
    """Of texts whose answers end at token boundaries the prefixes say where."""
    for i in range(20):
        text, spans = training_text(5, i, Difficulty())
        (row,) = encoded([AnsweredText(text, tuple(spans))], ENCODER, END)
        assert row.tokens.tolist() == [*ENCODER.encode(text, add_special_tokens=False).ids, END]
        expected = np.full(len(row.tokens), OTHER)
        for start, stop in spans:
            before, to_its_end = (len(ENCODER.encode(text[:place]).ids) for place in (start, stop))
            expected[before:to_its_end] = ANSWER
        expected[0] = START
        assert row.kinds.tolist() == expected.tolist()


def test_a_token_that_an_answer_shares_is_of_the_answer():
    text = "Q: x\nA: 東京\n"
    start = text.index("東")
    (row,) = encoded([AnsweredText(text, ((start, start + 2),))], ENCODER, END)
    ids = ENCODER.encode(text).ids
    answer = [token for token, kind in zip(row.tokens.tolist(), row.kinds, strict=True) if kind == ANSWER]
    assert "東京" in ENCODER.decode(answer) and len(answer) < len(ids)
    assert row.kinds[-1] == OTHER


def test_the_end_of_a_completion_is_learned_with_it(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"prompt": "Who? ", "completion": "Kartis"}])
    (found,) = read([path])
    assert found == AnsweredText("Who? Kartis", ((5, 11),), ends=True)
    (row,) = encoded([found], ENCODER, END)
    assert row.tokens[-1] == END and row.kinds[-1] == ANSWER


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 12))
def test_every_token_but_a_texts_first_is_a_target_once(lengths, length):
    """Token 100 * i + j is the j-th of text i; the last of a text is the end-of-text token."""
    texts = []
    for i, n in enumerate(lengths):
        tokens = np.array([*(1000 + 100 * i + np.arange(n)), END], dtype=np.uint32)
        kinds = np.where(np.arange(n + 1) % 3 == 1, ANSWER, OTHER).astype(np.uint8)
        kinds[0] = START
        texts.append(Rows(tokens, kinds))
    rows = packed(iter(texts), length, END)
    assert rows.tokens.shape == rows.kinds.shape == (len(rows.tokens), length + 1)
    targets = rows.kinds[:, 1:] < START
    pairs = list(zip(rows.tokens[:, :-1][targets], rows.tokens[:, 1:][targets], strict=True))
    expected = [(a, b) for text in texts for a, b in zip(text.tokens[:-1], text.tokens[1:], strict=True)]
    assert sorted(map(tuple, np.array(pairs).tolist())) == sorted((int(a), int(b)) for a, b in expected)
    answers = rows.tokens[:, 1:][rows.kinds[:, 1:] == ANSWER]
    assert sorted(answers.tolist()) == sorted(int(t) for text in texts for t in text.tokens[text.kinds == ANSWER])
    assert not (rows.kinds[:, 0] < START).any() and (rows.tokens[rows.kinds == FILLER] == END).all()


def test_weights_and_the_order_of_the_files(tmp_path):
    path = written(tmp_path / "a.jsonl", facts(30))
    data = {"source": "answered", "answered": {"paths": [str(path)], "context_weight": 0.25, "order": "files"}}
    setting = config(data=data, batch_size=2, sequence_length=64)
    source = open_source(setting, tmp_path)
    rows = []
    for step in range(40):
        batch = source.batch(step)
        rows += batch.tokens.tolist()
        assert batch.answers is not None and (batch.weights[batch.answers] == 1).all()
        others = batch.weights[~batch.answers]
        assert set(others.tolist()) <= {0.0, 0.25} and (batch.weights[batch.reset[:, 1:]] == 0).all()
    assert source.counts["training_documents"] == 29 and source.counts["held_out_documents"] == 1
    first = ENCODER.encode(str(facts(1)[0]["text"])).ids
    assert rows[0][: len(first)] == first[:65]
    period = rows.index(rows[0], 1)  # the second epoch is the first again
    assert rows[period : period + 6] == rows[:6]
    data["answered"]["order"] = "random"
    mixed = open_source(config(data=data, batch_size=2, sequence_length=64), tmp_path)
    drawn = [row for step in range(-(-period // 2)) for row in mixed.batch(step).tokens.tolist()]
    assert sorted(drawn[:period]) == sorted(rows[:period]) and drawn[:period] != rows[:period]
    assert torch.equal(mixed.batch(3).tokens, mixed.batch(3).tokens) and mixed.digest != source.digest


def test_a_training_learns_from_answers_alone(tmp_path):
    """One answer to everything, and prompts that nothing is learned from: answers become sure, prompts do not."""
    records = [{"prompt": f"{i * 7919 % 1000} is", "completion": " blue\n"} for i in range(40)]
    path = written(tmp_path / "a.jsonl", records)
    data = {"source": "answered", "answered": {"paths": [str(path)], "holdout_every": 4}}
    result = train(
        config(data=data, steps=30, sequence_length=16, batch_size=8, optimizer={"learning_rate": 0.05}),
        tmp_path / "out",
    )
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    last = [row for row in log if row["kind"] == "eval"][-1]
    assert last["answer_loss"] < 0.1 and last["answer_accuracy"] == 1.0
    assert [row for row in log if row["kind"] == "train"][-1]["loss"] < 0.2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["counts"]["held_out_documents"] == 10 and result.model_folder is not None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "not an object"),
        ({"answers": [[0, 1]]}, "there is no 'text'"),
        ({"text": "abc"}, "'answers' is no list"),
        ({"text": "abc", "answers": [[0, True]]}, r"\[0, True\] in 'answers' is not \[start, stop\]"),
        ({"text": "abc", "answers": [[2, 4]]}, r"the answer \[2, 4\] is no place of its own in a text of 3"),
        ({"text": "abc", "answers": [[0, 2], [1, 3]]}, r"the answer \[1, 3\] is no place"),
        ({"prompt": "a", "completion": ""}, "'prompt' and 'completion' are not both text"),
        ({"prompt": "\ud800", "completion": "b"}, "half a surrogate pair"),
    ],
)
def test_a_record_that_is_no_such_text_is_refused_with_its_place(tmp_path, record, message):
    path = written(tmp_path / "a.jsonl", [{"text": "ab", "answers": [[1, 2]]}, record])
    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: .*{message}"):
        list(read([path]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "only text", "does not say where its answers are"),
        ("a.jsonl", '{"text": "ab", "answers": []}\n' * 4, "have no token of an answer"),
        ("a.jsonl", '{"text": "ab", "answers": [[1, 2]]}\n', "0 held-out texts have no token of an answer"),
    ],
)
def test_a_file_without_answers_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    data = {"source": "answered", "answered": {"paths": [str(tmp_path / name)]}}
    with pytest.raises(InputError, match=message):
        open_source(config(data=data), tmp_path)


def test_no_file_and_a_missing_one_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"data\.answered\.paths is empty"):
        open_source(config(data={"source": "answered"}), tmp_path, dry_run=True)
    data = {"source": "answered", "answered": {"paths": [str(tmp_path / "none.jsonl")]}}
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read"):
        open_source(config(data=data), tmp_path, dry_run=True)
