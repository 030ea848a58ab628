"""Every analysis runs on every kind of model: what a model does not have is said in a row, and is no failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from adapter_zoo import adapted
from interp_jobs import asked, reader
from mplat.datasets.factual import facts_world_prompts
from mplat.interp import Cache, StepResult, all_steps, config_model, run_steps
from mplat.interp.engine.inputs import Given
from mplat.interp.engine.texts import PlainText
from mplat.interp.engine.view import EVERY
from mplat.models import LanguageModel, load
from mplat.report import load as load_report
from mplat.report import render
from mplat.report.content import ShownTable
from report_runs import record

FEW = {
    "batch_size": 4, "bottlenecks": {"resamples": 100, "random_draws": 1}, "selection": {"draws": 100},
    "fact_tracing": {"prompts": 3, "samples": 1, "distances": (0, 4)}, "layer_specialisation": {"resamples": 100},
    "memory_decay": {"resamples": 100, "traced": "all"},
    "causal_trace": {"samples": 1, "sites": ("resid_post",), "correct_only": False, "resamples": 100},
    "attribution_patching": {"samples": 1, "sites": ("resid_post",), "correct_only": False, "resamples": 100},
    "path_patching": {"samples": 1, "correct_only": False},
}  # fmt: skip
STATUSES = {"ok", "not_applicable"}


def config(**values: Any) -> Any:
    return config_model().model_validate(FEW | values)


def model_of(name: str, folder: Path) -> LanguageModel:
    if name not in ("gpt2", "jamba"):
        return reader(name)
    model = adapted(name, folder, vocab_size=1024, **({"n_positions": 400} if name == "gpt2" else {}))
    model.tokenizer = reader().tokenizer
    return model


@pytest.mark.parametrize("name", ["hyena", "striped_hyena", "moe_mamba", "stable_mamba_attached", "gpt2", "jamba"])
def test_every_step_runs_on_every_kind_of_model(name: str, tmp_path: Path) -> None:
    model = model_of(name, tmp_path / "model")
    alone = tuple(name for name, step in all_steps().items() if not step.others)
    given = Given(facts=facts_world_prompts(2), texts=[PlainText("a", "Rome is in the south.")])
    results = run_steps(model, asked(), config(steps=alone), given=given, cache=Cache(tmp_path / "cache"))
    assert results.keys() == set(alone)
    for step, result in results.items():
        assert result.bad == {} and result.rows > 0, step
        for part, table in result.tables.items():
            if "status" in table.column_names:
                assert set(table["status"].to_pylist()) <= STATUSES, (step, part)
                for row in table.to_pylist():
                    if row["status"] == "not_applicable":  # says where, and holds no measured number
                        assert not any(isinstance(value, float) for value in row.values()), (step, part, row)
    check_report(results, tmp_path, drawn=name == "stable_mamba_attached")


def check_report(results: Mapping[str, StepResult], folder: Path, *, drawn: bool) -> None:
    """Every step stands in the report: by its view, which names existing tables and columns, or by its first rows."""
    steps = {}
    for name, result in results.items():
        files = {part: f"{name}-{part}.parquet" for part in result.tables}
        for part, table in result.tables.items():
            pq.write_table(table, folder / files[part])
        steps[name] = {"parts": files}
    (folder / "run.json").write_text(json.dumps(record("interp", "nano", details={"steps": steps})))
    report = load_report([folder / "run.json"])
    (run,) = report.interpretations
    assert [entry.step for entry in run.steps] == list(results) and not run.missing
    for entry in run.steps:
        assert entry.title and {file.rows for file in entry.files} and (entry.shown or entry.notes), entry.step
        assert sum(file.rows for file in entry.files) == results[entry.step].rows
        assert not any("several values" in note for note in entry.notes), entry.step
        view, tables = all_steps()[entry.step].view, results[entry.step].tables
        for part in () if view is None else view.parts:
            for name in tables if part.part == EVERY else [part.part]:
                assert {*part.columns_read()} <= {*tables[name].column_names}, (entry.step, part.title)
    if drawn:  # every figure of every step
        figures = sum(not isinstance(shown, ShownTable) for entry in run.steps for shown in entry.shown)
        assert render(report).count("<svg") == figures > 10


@pytest.mark.ray
def test_analyses_of_prompts_are_the_same_from_workers_elsewhere(tmp_path: Path) -> None:
    from mplat.runtime import open_session

    reader("mamba2").save(tmp_path / "model")
    model = load(tmp_path / "model")
    chosen = config(batch_size=2, steps=("memory_decay",))
    here = run_steps(model, asked(), chosen, cache=Cache(tmp_path / "here"))
    with open_session("local", actors=2) as session:
        there = run_steps(model, asked(), chosen, cache=Cache(tmp_path / "there"), session=session)
    assert here.keys() == there.keys() >= {"fact_tracing"}
    for step, result in here.items():
        assert result.key == there[step].key
        for part in sorted(path.name for path in (tmp_path / "here" / step / result.key).glob("*.parquet")):
            one, two = ((tmp_path / side / step / result.key / part).read_bytes() for side in ("here", "there"))
            assert one == two, (step, part)
