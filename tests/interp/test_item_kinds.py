"""A step takes questions, factual prompts or plain texts; each kind is read once, and only where a step takes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interp_jobs import asked, reader
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.datasets.factual import facts_world_prompts
from mplat.interp import Cache, Job, all_steps, config_model, plan_steps, run_plan
from mplat.interp.engine import inputs
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.inputs import Given
from mplat.interp.engine.step import Kind, Step, StepSettings, Tables
from mplat.interp.engine.texts import PlainText, encode_texts, read_texts
from mplat.models import LanguageModel
from mplat.models.decoding.text import encode_text

SCHEMA = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.int32())), ("kind", pa.string())])


def batch_ids(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    rows = [{"id": i.id, "tokens": i.tokens if hasattr(i, "tokens") else i.prompt, "kind": type(i).__name__}
            for i in batch.items]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def lengths(job: Job) -> Tables:
    """How long each item is."""
    return {"": job.map(batch_ids, SCHEMA, {})}


def known(**kinds: Kind) -> dict[str, Step]:
    plain = Step("x", 1, (), StepSettings, False, lengths)
    return {name: dataclasses.replace(plain, name=name, items=kind) for name, kind in kinds.items()}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


GIVEN = Given(
    asked(), facts_world_prompts(3), [PlainText("one", "Rome is old."), PlainText("two", "So is Paris, too.")]
)


def test_each_step_gets_the_items_of_its_kind_and_each_kind_is_encoded_once(model, tmp_path, monkeypatch) -> None:
    steps = known(ask="questions", know="facts", know_too="facts", read="texts")
    encoded: list[str] = []
    whole = inputs.encode_kind
    monkeypatch.setattr(
        "mplat.interp.engine.run.encode_kind", lambda kind, *more: encoded.append(kind) or whole(kind, *more)
    )
    plan = plan_steps(model, config=config_model().model_validate({"steps": tuple(steps)}), given=GIVEN, known=steps)
    assert encoded == ["questions", "facts", "texts"]
    found = run_plan(plan, cache=Cache(tmp_path))
    assert sorted(found["ask"].table["id"].to_pylist()) == sorted(q.id for q in GIVEN.questions or ())
    assert sorted(found["know"].table["id"].to_pylist()) == sorted(p.id for p in GIVEN.facts or ())
    for row in found["read"].table.to_pylist():
        text = next(one.text for one in GIVEN.texts or () if one.id == row["id"])
        assert tuple(row["tokens"]) == encode_text(model.tokenizer, text).ids
    assert {name: set(result.table["kind"].to_pylist()) for name, result in found.items()} == {
        "ask": {"Item"}, "know": {"FactItem"}, "know_too": {"FactItem"}, "read": {"Item"},
    }  # fmt: skip


def test_a_key_has_what_its_own_step_reads_and_nothing_else(model) -> None:
    steps = known(ask="questions", know="facts", read="texts")
    config = config_model().model_validate({"steps": tuple(steps)})

    def keys(given: Given) -> dict[str, str]:
        plan = plan_steps(model, config=config, given=given, known=steps)
        return {name: planned.key.digest for name, planned in plan.steps.items()}

    base = keys(GIVEN)
    for changed, other in (
        ("ask", GIVEN._replace(questions=asked(seed=1))),
        ("know", GIVEN._replace(facts=facts_world_prompts(3, seed=5))),
        ("read", GIVEN._replace(texts=[PlainText("one", "Rome is new."), *(GIVEN.texts or ())[1:]])),
    ):
        now = keys(other)
        assert [name for name in base if now[name] != base[name]] == [changed]


def test_what_nobody_named_is_not_read_and_not_run(model, tmp_path) -> None:
    plan = plan_steps(model, asked())
    assert set(plan.inputs) == {"questions"} and {s.step.items for s in plan.steps.values()} == {"questions"}
    every = all_steps()
    other = {name for name, step in every.items() if step.items != "questions" or not step.takes(0)}
    assert set(plan.left_out) == other
    facts = config_model().model_validate({"facts": "generated", "limit": 2})
    alone = {name for name, step in every.items() if step.items == "facts" and not step.others}
    assert alone <= plan_steps(model, asked(), facts).steps.keys()
    with pytest.raises(UsageError, match="name a file of them with --texts FILE"):
        plan_steps(model, config=config_model().model_validate({"steps": ("read",)}), known=known(read="texts"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "Rome is old.\n\nSo is Paris.\n"), ("a.jsonl", '{"text": "Rome is old."}\n{"text": "So is Paris."}\n'),
     ("a.csv", "text,more\nRome is old.,1\nSo is Paris.,2\n")],
)  # fmt: skip
def test_texts_are_lines_or_records(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert [one.text for one in read_texts(tmp_path / name)] == ["Rome is old.", "So is Paris."]


def test_texts_that_cannot_be_read_are_an_error_with_their_place(model, tmp_path) -> None:
    for content, message in (
        ('{"text": 3}\n', "no `text` here"),
        ('{"prompt": "a"}\n', "no `text`"),
        ("\n", "no text"),
    ):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(InputError, match=message):
            read_texts(tmp_path / "a.jsonl")
    found = encode_texts(model, [PlainText("long", "Rome is old. " * 50)], max_tokens=7)
    assert found.lengths == [7]


def test_the_command_runs_a_step_over_facts_and_says_what_it_leaves_out(tmp_path, capsys) -> None:
    folder, out = reader().save(tmp_path / "model"), tmp_path / "out"
    words = ["interp", "--model", str(folder), "--address", "none", "--cache", str(tmp_path / "cache"), "--json"]
    own = ["--steps", "knockout", "--facts", "generated", "--limit", "3", "--out", str(out)]
    assert main([*words, *own]) == 0, capsys.readouterr().err
    assert [step["step"] for step in json.loads(capsys.readouterr().out)["steps"]] == ["knockout"]
    rows = pq.read_table(out / "knockout-prompts.parquet").to_pylist()
    texts = pq.read_table(out / "facts.parquet").to_pylist()
    assert {row["id"] for row in rows} == {row["id"] for row in texts} and len(texts) == 3
    assert not (out / "prompts.parquet").exists()
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "causal_trace" in said.err and "causal_trace" not in str(json.loads(said.out)["steps"])
