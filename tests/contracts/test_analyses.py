"""What every registered analysis promises, on every kind of model: rows or tensors and no failure (what a model has not
is said in a row), the same again from the same arguments, and a place in the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from mplat.report import Report, render
from mplat.report import load as load_report
from mplat.report.content import Curves, ShownTable, ValueMap
from report_runs import record

NAMES = sorted(all_steps())
Shown = ValueMap | Curves | ShownTable
ADAPTED = {"gpt2": {"n_positions": 400}, "jamba": {}}  # attention alone, and a hybrid
PLAIN = ("mamba2", "gpt2")  # with a recurrence alone, and without one
WHOLE = "stable_mamba_attached"
KINDS = [kind for kind in (*ARCHITECTURES, *ADAPTED) if kind not in (*PLAIN, WHOLE)]
STATUSES = {"ok", "not_applicable"}
#: analyses that learn or search long, and see a model through its sites alone: not tried on models like others
LONG = {
    "sae", "dictionary", "superposition", "sparse_probing", "probes", "spd", "apd", "parameter_clusters", "circuits",
    "patching", "interchange",
}  # fmt: skip
LIKE_OTHERS = {"mamba", "mamba2", "falcon_mamba", "stable_mamba", "dense_mamba", "hyena", "black_mamba", "gpt2"}


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


def run(names: Sequence[str], kind: str, folder: Path, at: str) -> Mapping[str, StepResult]:
    """The results of these steps on a model of this kind, with as many further models as the first compares."""
    small = {name: dict(step.settings.small) for name, step in all_steps().items()}
    config: Any = config_model().model_validate({"batch_size": 4, "steps": tuple(names), **small})
    given = Given(facts=facts_world_prompts(2), texts=[PlainText("a", "Rome is in the south.")])
    others = [reader(seed=seed) for seed, _ in enumerate(all_steps()[names[0]].others, 1)]
    cache = Cache(folder / f"{kind} {at}")
    return run_steps(model_of(kind, folder), asked(), config, given=given, others=others, cache=cache)


def check(result: StepResult, folder: Path) -> None:
    assert result.bad == {} and (result.rows or result.tensors), result.step
    for part, table in result.tables.items():
        for row in table.to_pylist() if "status" in table.column_names else ():
            assert row["status"] in STATUSES, (result.step, part, row)
            if row["status"] == "not_applicable":  # says where, and holds no measured number
                assert not any(isinstance(value, float) for value in row.values()), (result.step, part, row)
    report = report_of([result], folder)
    (shown,) = report.interpretations
    (entry,) = shown.steps
    assert entry.step == result.step and entry.title and not shown.missing
    assert sum(file.rows for file in entry.files) == result.rows
    assert entry.shown or entry.notes or not result.rows
    assert not any("several values" in note for note in entry.notes)
    view, tables = all_steps()[result.step].view, result.tables
    for part in () if view is None else view.parts:
        for name in tables if part.part == EVERY else [part.part]:
            assert {*part.columns_read()} <= {*tables[name].column_names}, part.title


def of_one_model(kind: str) -> list[str]:
    """The analyses that are tried on a model of this kind."""
    return [name for name in NAMES if not all_steps()[name].others and not (kind in LIKE_OTHERS and name in LONG)]


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_has_a_result_without_failures(name: str, folder: Path) -> None:
    """One half of them with a recurrence, one without: the slow tests below try each on both, and on further kinds."""
    assert all_steps()[name].meaning, "the docstring's first line stands in `mplat interp ls`"
    kind = PLAIN[NAMES.index(name) % 2]
    check(run([name], kind, folder, "here")[name], folder / f"{name} of {kind}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_of_models_with_and_without_a_recurrence(name: str, folder: Path) -> None:
    """The same arguments give the same tables, on whichever model."""
    results = {kind: run([name], kind, folder, "here")[name] for kind in PLAIN}
    for kind, result in results.items():
        check(result, folder / f"{name} of {kind}, once more")
    here, again = results["mamba2"], run([name], "mamba2", folder, "again")[name]
    assert here.key == again.key and here.tables.keys() == again.tables.keys()
    for part, table in here.tables.items():
        assert table.equals(again.tables[part]), part


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_fourth_analysis_of_another_kind_of_model(kind: str, folder: Path) -> None:
    """Another fourth of them on each kind, so that every analysis is tried on several."""
    names = [name for name in of_one_model(kind) if (NAMES.index(name) + KINDS.index(kind)) % 4 == 0]
    for name, result in run(names, kind, folder, "here").items():
        check(result, folder / f"{kind} {name}")


@pytest.mark.slow
def test_every_analysis_of_the_kind_that_has_most_is_drawn(folder: Path) -> None:
    """Attention, a recurrence and memory: on one page, of every analysis a figure of each kind that it has."""
    results = run(of_one_model(WHOLE), WHOLE, folder, "here")
    for name, result in results.items():
        check(result, folder / f"{WHOLE} {name}")
    report = report_of([*results.values()], folder / "drawn")
    (shown,) = report.interpretations
    assert {entry.step for entry in shown.steps} == {*results}
    steps = [replace(entry, shown=one_of_each_kind(entry.shown)) for entry in shown.steps]
    figures = sum(not isinstance(one, ShownTable) for entry in steps for one in entry.shown)
    page = render(replace(report, interpretations=(replace(shown, steps=tuple(steps)),)))
    assert page.count("<svg") == figures > 0


def one_of_each_kind(shown: Sequence[Shown]) -> tuple[Shown, ...]:
    """Without figures of a kind that another one of the same analysis is of: drawing them takes longest."""
    kinds = {(type(one), getattr(one, "path", False), bool(getattr(one, "names", ()))): one for one in shown}
    return tuple(one for one in shown if isinstance(one, ShownTable) or any(one is other for other in kinds.values()))


def report_of(results: Sequence[StepResult], folder: Path) -> Report:
    """Of a run with these steps alone: each stands there by its view, which names existing tables and columns, or by
    its first rows."""
    folder.mkdir()
    steps = {}
    for result in results:
        files = {part: f"{result.step}-{part}.parquet" for part in result.tables}
        for part, table in result.tables.items():
            pq.write_table(table, folder / files[part])
        steps[result.step] = {"parts": files}
    (folder / "run.json").write_text(json.dumps(record("interp", "nano", details={"steps": steps})))
    return load_report([folder / "run.json"])
