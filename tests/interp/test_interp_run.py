"""Nothing is computed twice, everything that can change a result changes its key, and `why` can name it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from interp_jobs import asked, reader
from mplat import report
from mplat.core.errors import InputError, UsageError
from mplat.datasets.records import Question
from mplat.interp import (
    Cache,
    InterpConfig,
    Observer,
    StepResult,
    bottleneck_channels,
    config_model,
    plan_steps,
    run_plan,
    run_steps,
)
from mplat.interp.engine.graph import all_steps, in_order
from mplat.interp.engine.key import differences, nearest
from mplat.interp.engine.questions import encode
from mplat.interp.engine.run_record import run_into
from mplat.interp.engine.work import BatchWorker, build_worker
from mplat.models import LanguageModel, load
from mplat.models.lending import lent
from mplat.runtime import open_session
from mplat.runtime.record import read_run


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return asked()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each forward pass: its number of rows."""
    seen: list[int] = []
    forward = LanguageModel.forward

    def counted(self, tokens, *args, **kwargs):
        seen.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "forward", counted)
    return seen


SMALL = {name: dict(step.settings.small) for name, step in all_steps().items() if name != "bottlenecks"}
FEW = {"resamples": 100, "detector_resamples": 20, "detector_draws": 19, "layer_draws": 19}


def config(**values: object) -> InterpConfig:
    return config_model().model_validate({"batch_size": 4, "bottlenecks": FEW} | SMALL | values)


@pytest.mark.parametrize("steps", [("bottlenecks",), pytest.param(None, marks=pytest.mark.slow)])
def test_a_second_run_computes_nothing_and_gives_the_same_tables(model, questions, tmp_path, passes, steps) -> None:
    cache = Cache(tmp_path)
    chosen = config(steps=steps)
    first = run_steps(model, questions, chosen, cache=cache)
    assert [*first] == [step.name for step in in_order(steps)] and passes
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    passes.clear()
    second = run_steps(model, questions, chosen, cache=cache)
    assert passes == [] and {result.seconds for result in second.values()} == {None}
    assert "bottlenecks" in second
    for name, result in second.items():
        assert all(result.tables[part].equals(first[name].tables[part]) for part in result.tables)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert not (tmp_path / ".work").exists() or not list((tmp_path / ".work").iterdir())


def test_only_what_is_needed_is_computed(model, questions, tmp_path, passes) -> None:
    cache = Cache(tmp_path)
    assert list(run_steps(model, questions, config(steps=("attribution",)), cache=cache)) == ["attribution"]
    assert passes == [4, 2]  # six prompts in batches of four: one pass each
    passes.clear()
    run_steps(model, questions, config(steps=("bottlenecks",)), cache=cache)
    # layers, sites; all, top, eight random sets, and what either half of the prompts chooses where that is another set
    least, most = (2 * 2 * (1 + top + 8) for top in (1, 3))
    ablations = (len(passes) - 2) / 2 - 1  # delta_sensitivity, then clean and ablated; attribution is there
    assert least <= ablations <= most
    # a cached result needs nothing, so what it was made from may be gone
    for step in ("attribution", "delta_sensitivity"):
        for entry in cache.entries(step):
            cache.remove(step, entry.key)
    passes.clear()
    assert list(run_steps(model, questions, config(steps=("bottlenecks",)), cache=cache)) == ["bottlenecks"]
    assert passes == []


def test_fresh_computes_again_what_was_there(model, questions, tmp_path, passes) -> None:
    first = run_steps(model, questions, config(steps=("attribution",)), cache=Cache(tmp_path))
    passes.clear()
    second = run_steps(model, questions, config(steps=("attribution",)), cache=Cache(tmp_path), fresh=True)
    assert passes == [4, 2]
    assert first["attribution"].table.equals(second["attribution"].table)


def test_a_flipped_bit_is_found_and_the_step_computed_again(model, questions, tmp_path, passes) -> None:
    first = run_steps(model, questions, config(steps=("attribution",)), cache=Cache(tmp_path))["attribution"]
    path = tmp_path / "attribution" / first.key / "part-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 4]) + whole[1001:])
    passes.clear()
    warnings: list[str] = []
    cache = Cache(tmp_path, warn=warnings.append)
    second = run_steps(model, questions, config(steps=("attribution",)), cache=cache)["attribution"]
    assert passes == [4, 2] and second.table.equals(first.table) and path.read_bytes() == whole
    assert len(warnings) == 1 and str(path) in warnings[0]
    assert len(list((tmp_path / ".quarantine").iterdir())) == 1


def test_an_interrupted_step_continues_where_it_was(model, questions, tmp_path, passes) -> None:
    class Impatient(Observer):
        def progress(self, progress) -> None:
            if progress.shards_done == 2:
                raise KeyboardInterrupt

    chosen = config(steps=("attribution",), batch_size=1)
    whole = run_steps(model, questions, chosen, cache=Cache(tmp_path / "a"))["attribution"]
    passes.clear()
    with pytest.raises(KeyboardInterrupt):
        run_steps(model, questions, chosen, cache=Cache(tmp_path / "b"), observer=Impatient())
    assert passes == [1, 1]
    again = run_steps(model, questions, chosen, cache=Cache(tmp_path / "b"))["attribution"]
    assert len(passes) == 6 and again.table.equals(whole.table)


def test_f12_batches_that_memory_was_too_small_for_are_said_of_the_result(
    model, questions, tmp_path, monkeypatch
) -> None:
    run = BatchWorker.run

    def frugal(self, payload):
        if len(payload["items"]) > 2:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        return run(self, payload)

    class Listener(Observer):
        def __init__(self) -> None:
            self.warned: list[str] = []

        def warn(self, text: str) -> None:
            self.warned.append(text)

    chosen = config(steps=("attribution",))
    whole = run_steps(model, questions, chosen, cache=Cache(tmp_path / "a"), observer=(quiet := Listener()))
    monkeypatch.setattr(BatchWorker, "run", frugal)
    for observer in (Listener(), Listener()):  # computed, and read
        found = run_steps(model, questions, chosen, cache=Cache(tmp_path / "b"), observer=observer)["attribution"]
        for row, right in zip(found.table.to_pylist(), whole["attribution"].table.to_pylist(), strict=True):
            assert row == pytest.approx(right, rel=1e-3, abs=1e-6)
        assert len(observer.warned) == 1 and "1 of its batches" in observer.warned[0]
    assert quiet.warned == []
    out = tmp_path / "out"
    with open_session("none") as session:
        run_into(out, plan_steps(model, questions, chosen), cache=Cache(tmp_path / "b"), session=session)
    assert [len(shards) for shards in read_run(out).details["cut"].values()] == [1]
    (said,) = report.load([out]).in_pieces
    assert "attribution: 1 of its batches" in said


def test_of_two_runs_on_one_cache_one_computes_and_the_other_reads(model, questions, tmp_path, passes) -> None:
    chosen = config(steps=("attribution",), batch_size=1)
    whole = run_steps(model, questions, chosen, cache=Cache(tmp_path / "a"))["attribution"]
    alone, cache, said, waits = len(passes), Cache(tmp_path / "b"), [], threading.Event()
    found: list[StepResult] = []

    class Second(Observer):
        def say(self, text: str) -> None:
            said.append(text)
            waits.set()

    def second() -> None:
        found.append(run_steps(model, questions, chosen, cache=cache, observer=Second())["attribution"])

    thread = threading.Thread(target=second)

    class First(Observer):
        def progress(self, progress) -> None:
            if progress.shards_done == 2:
                thread.start()
                assert waits.wait(60)

    passes.clear()
    first = run_steps(model, questions, chosen, cache=cache, observer=First())["attribution"]
    thread.join(60)
    assert len(passes) == alone and first.table.equals(whole.table) and found[0].table.equals(whole.table)
    assert said[0].startswith("attribution: another run computes it, whose result is waited for: pid ")
    assert said[1:] == ["attribution: computed by another run meanwhile"]
    assert not list(tmp_path.rglob("*.lock"))


def keys(model: LanguageModel, questions: list[Question], **values: object) -> dict[str, tuple[str, dict]]:
    plan = plan_steps(model, questions, config(**values))
    return {name: (planned.key.digest, dict(planned.key.components)) for name, planned in plan.steps.items()}


def test_everything_that_can_change_a_result_changes_its_key(model, questions) -> None:
    base = keys(model, questions)
    changes: list[tuple[str, dict[str, tuple[str, dict]]]] = [
        ("settings.sites", keys(model, questions, attribution={"sites": ("mixer_out", "mixer.delta", "mixer.x")})),
        ("layers", keys(model, questions, layers=(1,))),
        ("batches", keys(model, questions, batch_size=3)),
        ("data", keys(model, questions[:-1])),
        ("data", keys(model, [questions[0], *questions[:0:-1]])),
        ("model", keys(reader(seed=1), questions)),
        ("model", keys(reader(dtype=torch.float64), questions)),
        ("model", keys(reader("mamba2"), questions)),
    ]
    for component, other in changes:
        assert other["attribution"][0] != base["attribution"][0], component
        first = differences(other["attribution"][1], base["attribution"][1])[0]
        assert first.name.startswith(component), (component, first)


def test_f25_keys_follow_what_a_step_uses(model, questions) -> None:
    base = keys(model, questions)
    seeded = keys(model, questions, seed=5)
    changed = {name for name in base if seeded[name][0] != base[name][0]}
    steps = in_order(None)
    drawing = {step.name for step in steps if step.seeded}
    assert changed == drawing | {step.name for step in steps if drawing & set(step.needs)} > {"bottlenecks"}
    upstream = keys(model, questions, delta_sensitivity={"sites": ("mixer_out", "mixer.delta", "mixer.x")})
    changed = {name for name in base if upstream[name][0] != base[name][0]}
    assert changed == {"delta_sensitivity", "bottlenecks", "delta_neurons"}
    assert [d.name for d in differences(upstream["bottlenecks"][1], base["bottlenecks"][1])] == [
        "upstream.delta_sensitivity"
    ]
    # the same model from a folder, under another name, is the same model
    assert keys(model, questions) == base


def test_a_changed_weight_changes_the_key(questions) -> None:
    model = reader()
    before = keys(model, questions)
    with torch.no_grad():
        model.backbone.norm_f.weight[0] += 1e-3
    after = keys(model, questions)
    assert all(before[name][0] != after[name][0] for name in before)


@pytest.mark.slow
def test_f25_why_names_the_first_difference_to_the_nearest_result(model, questions, tmp_path) -> None:
    cache = Cache(tmp_path)
    for values in ({"seed": 1, "layers": (0,)}, {}):
        run_steps(model, questions, config(steps=("bottlenecks",), **values), cache=cache)
    plan = plan_steps(model, questions, config(bottlenecks=FEW | {"resamples": 101}))
    others = {entry.key: entry.components for entry in cache.entries("bottlenecks")}
    found = nearest(plan.steps["bottlenecks"].key, others)
    assert found is not None and str(found[1][0]) == "settings.resamples (100 -> 101)" and len(found[1]) == 1
    assert nearest(plan.steps["bottlenecks"].key, {}) is None


def test_i4_questions_that_cannot_be_used_are_left_out_with_a_status(model, questions, tmp_path) -> None:
    odd = [
        dataclasses.replace(questions[0], id="no answer", answers=()),
        dataclasses.replace(questions[0], id="no prompt", prompt="  "),
        dataclasses.replace(questions[0], id="long", prompt=" word" * 3000),
    ]
    result = run_steps(model, [*questions, *odd], config(steps=("activations",)), cache=Cache(tmp_path))["activations"]
    for part in result.tables.values():
        statuses = {r["question_id"]: (r["status"], r["vector"] is None) for r in part.to_pylist()}
        assert [statuses[q.id] for q in odd] == [("bad_input", True), ("bad_input", True), ("too_long", True)]
        assert {statuses[q.id] for q in questions} == {("ok", False)}
    with pytest.raises(InputError, match="none of the 3 questions"):
        plan_steps(model, odd)
    with pytest.raises(InputError, match="there are no questions"):
        plan_steps(model, [])
    with pytest.raises(InputError, match="more than once"):
        plan_steps(model, [questions[0], questions[0]])


@pytest.mark.parametrize(
    ("layers", "message"), [((2,), "blocks 0 to 1"), ((-1,), "no block -1"), ((0, 0), "once"), ((), "at least one")]
)
def test_layers_out_of_range_are_usage_errors(model, questions, layers, message) -> None:
    with pytest.raises(UsageError, match=message):
        plan_steps(model, questions, config(layers=layers))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activations": {"sites": ("mixer_ot",)}}, "activations: no site 'mixer_ot'.*did you mean 'mixer_out'"),
        ({"activations": {"sites": ("mixer.h",), "positions": "all"}}, "activations: .*list positions"),
        ({"attribution": {"sites": ("mixer_ot",)}}, "attribution: no site"),
        ({"attribution": {"sites": ("mixer.h",)}}, "attribution: .*one axis of channels"),
        ({"delta_sensitivity": {"sites": ("delta", "mixer.delta")}}, "delta_sensitivity: .*once"),
        ({"bottlenecks": {"sites": ("mixer_ot",)}}, "bottlenecks: no site"),
        (
            {"attribution": {"sites": ("mixer_out",)}},
            r"bottlenecks: .*'mixer.delta', which attribution\.sites does not",
        ),
    ],
)
def test_settings_that_the_model_cannot_fulfil_are_refused_before_anything_is_computed(
    model, questions, values, message
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_steps(model, questions, config(**values))


def test_bottleneck_channels_are_those_of_largest_attribution(model, questions, tmp_path, passes) -> None:
    told: list[tuple[str, int, int]] = []

    def find(**values: object) -> list[int]:
        place = {"layer": 1, "site": "delta", "k": 3} | values
        return bottleneck_channels(
            model, questions, cache_dir=tmp_path, progress=lambda *told_: told.append(told_), **place
        )

    found = find()
    assert passes == [6]
    assert told[-1] == ("attribution of mamba on 6 prompts", 1, 1) and told[0][1:] == (0, 1)
    rows = run_steps(
        model, questions, config_model().model_validate({"steps": ("attribution",)}), cache=Cache(tmp_path)
    )
    here = [r for r in rows["attribution"].table.to_pylist() if (r["layer"], r["site"]) == (1, "mixer.delta")]
    assert found == [r["channel"] for r in sorted(here, key=lambda r: -abs(r["attribution"]))][:3]
    assert find(k=1) == found[:1] and len(find(layer=0, site="mixer_out", k=24)) == 24
    assert passes == [6]  # one pass answered all of them
    find(site="mixer.gate")
    assert passes == [6, 6]
    for values, message in (({"layer": 2}, "blocks 0 to 1"), ({"site": "dleta"}, "no site"), ({"k": 0}, "1 to 48")):
        with pytest.raises(UsageError, match=message):
            find(**values)


def test_a_worker_loads_the_model_by_name_and_checks_that_it_is_the_one(saved, questions) -> None:
    data = encode(saved, questions[:2], max_tokens=500)
    payload = {"shard": "00000-x", "items": [item.to_json() for item in data.items]}
    arguments = {
        "function": "mplat.interp.steps.attribution:batch_attribution",
        "arguments": {"layers": [0], "sites": ["mixer_out"]},
        "digest": saved.digest,
        "device": "cpu",
        "dtype": "float32",
    }
    elsewhere = build_worker(model=saved.name, **arguments).run(payload)
    with lent(saved):
        here = build_worker(model="a name that is not asked for", **arguments).run(payload)
    assert elsewhere.equals(here) and elsewhere["batch"].to_pylist() == ["00000-x"]
    with pytest.raises(UsageError, match="this run's model has"):
        build_worker(model=saved.name, **arguments | {"digest": "0" * 64})
    with pytest.raises(UsageError, match="cannot load the model of this run by its name"):
        build_worker(model="mamba", **arguments | {"digest": "0" * 64})


@pytest.fixture
def saved(model: LanguageModel, tmp_path: Path) -> Iterator[LanguageModel]:
    model.save(tmp_path / "model")
    yield load(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.ray
def test_workers_elsewhere_give_the_same_tables(saved, questions, tmp_path, ray_workers) -> None:
    chosen = config(batch_size=2, steps=("delta_sensitivity", "attribution", "bottlenecks"))
    here = run_steps(saved, questions, chosen, cache=Cache(tmp_path / "a"))
    there = Cache(tmp_path / "b")
    run_steps(saved, questions, chosen.model_copy(update={"steps": ("delta_sensitivity", "attribution")}), cache=there)
    observer = Recorder()
    plan = plan_steps(saved, questions, chosen.model_copy(update={"steps": ("bottlenecks",)}))
    run_plan(plan, cache=there, session=ray_workers(2), observer=observer)
    assert observer.begun == ["bottlenecks"]
    for name in ("attribution", "delta_sensitivity", "bottlenecks"):
        files = [tmp_path / side / name / here[name].key / "part-00000.parquet" for side in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()


class Recorder(Observer):
    """Which steps were computed."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, part: str, detail: str = "") -> None:
        self.begun.append(part)
