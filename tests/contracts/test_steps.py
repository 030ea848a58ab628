"""What every registered analysis promises, on every kind of model: rows or tensors and no failure (what a model has not
is said in a row), the same again from the same arguments, and a place in the report.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from adapter_zoo import adapted
from interp_jobs import asked, reader
from model_zoo import ARCHITECTURES
from mplat.datasets.factual import facts_world_prompts
from mplat.interp import Cache, StepResult, all_steps, config_model, run_steps
from mplat.interp.engine.inputs import Given
from mplat.interp.engine.texts import PlainText
from mplat.interp.engine.view import EVERY
from mplat.models import LanguageModel
from mplat.report import load as load_report
from mplat.report import render
from mplat.report.content import ShownTable
from report_runs import record

NAMES = sorted(all_steps())
ADAPTED = {"gpt2": {"n_positions": 400}, "jamba": {}}  # attention alone, and a hybrid
STATUSES = {"ok", "not_applicable"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the models and of one cache for each: what a step needs is computed once."""
    return tmp_path_factory.mktemp("steps")


@cache
def model_of(kind: str, folder: Path) -> LanguageModel:
    if kind not in ADAPTED:
        return reader(kind)
    model = adapted(kind, folder / kind, vocab_size=1024, **ADAPTED[kind])
    model.tokenizer = reader().tokenizer
    return model


def run(name: str, kind: str, folder: Path, at: str) -> StepResult:
    step = all_steps()[name]
    small = {other: dict(entry.settings.small) for other, entry in all_steps().items()}
    config: Any = config_model().model_validate({"batch_size": 4, "steps": (name,), **small})
    given = Given(facts=facts_world_prompts(2), texts=[PlainText("a", "Rome is in the south.")])
    others = [reader(kind if kind not in ADAPTED else "mamba", seed=seed) for seed, _ in enumerate(step.others, 1)]
    results = run_steps(
        model_of(kind, folder), asked(), config, given=given, others=others, cache=Cache(folder / f"{kind} {at}")
    )
    return results[name]


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *ADAPTED])
@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_result_without_failures_and_a_place_in_the_report(name: str, kind: str, folder: Path) -> None:
    result = run(name, kind, folder, "here")
    assert result.bad == {} and (result.rows or result.tensors)
    for part, table in result.tables.items():
        for row in table.to_pylist() if "status" in table.column_names else ():
            assert row["status"] in STATUSES, (part, row)
            if row["status"] == "not_applicable":  # says where, and holds no measured number
                assert not any(isinstance(value, float) for value in row.values()), (part, row)
    check_report(result, folder / f"report {kind} {name}", drawn=kind == "stable_mamba_attached")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_tables(name: str, folder: Path) -> None:
    assert all_steps()[name].meaning, "the docstring's first line stands in `mplat interp ls`"
    here, again = (run(name, "mamba2", folder, at) for at in ("here", "again"))
    assert here.key == again.key and here.tables.keys() == again.tables.keys()
    for part, table in here.tables.items():
        assert table.equals(again.tables[part]), part


def check_report(result: StepResult, folder: Path, *, drawn: bool) -> None:
    """The step stands in the report: by its view, which names existing tables and columns, or by its first rows."""
    folder.mkdir()
    files = {part: f"{result.step}-{part}.parquet" for part in result.tables}
    for part, table in result.tables.items():
        pq.write_table(table, folder / files[part])
    steps = {result.step: {"parts": files}}
    (folder / "run.json").write_text(json.dumps(record("interp", "nano", details={"steps": steps})))
    report = load_report([folder / "run.json"])
    (shown,) = report.interpretations
    (entry,) = shown.steps
    assert entry.step == result.step and entry.title and not shown.missing
    assert sum(file.rows for file in entry.files) == result.rows
    assert entry.shown or entry.notes or not result.rows
    view, tables = all_steps()[result.step].view, result.tables
    for part in () if view is None else view.parts:
        for name in tables if part.part == EVERY else [part.part]:
            assert {*part.columns_read()} <= {*tables[name].column_names}, part.title
    if drawn:  # every figure
        assert render(report).count("<svg") == sum(not isinstance(one, ShownTable) for one in entry.shown)
