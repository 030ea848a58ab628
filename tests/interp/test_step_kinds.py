"""What a step can be beside a table of one model: tensors, several models, something trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
import torch
from interp_jobs import asked, reader
from mplat.core.errors import InputError, UsageError
from mplat.interp import Cache, Job, Observer, config_model, plan_steps, run_plan
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.fitting import Minibatch, Schedule, fit
from mplat.interp.engine.questions import encode
from mplat.interp.engine.run_record import run_into
from mplat.interp.engine.step import Step, StepOutput, StepSettings, Tables
from mplat.models import LanguageModel
from mplat.runtime import open_session
from mplat.runtime.record import read_run
from safetensors.torch import load_file
from tokenizer_zoo import llama_kind

SCHEMA = pa.schema([("question_id", pa.string()), ("score", pa.float64())])
WIDTH = pa.schema([("question_id", pa.string()), ("stream", pa.list_(pa.float32()))])


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


@torch.no_grad()
def batch_scores(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    tokens, mask = batch.prompts()
    scores = model(tokens, mask, last_only=True)[:, -1].double().logsumexp(-1)
    rows = [{"question_id": i.id, "score": float(s)} for i, s in zip(batch.items, scores, strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@torch.no_grad()
def batch_streams(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    tokens, mask = batch.prompts()
    with model.capture("blocks.0.resid_post@-1") as captured:
        model(tokens, mask)
    streams = captured["blocks.0.resid_post"][:, 0].float().tolist()
    rows = [{"question_id": i.id, "stream": s} for i, s in zip(batch.items, streams, strict=True)]
    return pa.Table.from_pylist(rows, schema=WIDTH)


def tensors_of_many_kinds() -> dict[str, torch.Tensor]:
    drawn = torch.arange(12, dtype=torch.float64).reshape(3, 4) / 7
    return {
        "transposed": drawn.T, "row": drawn[1], "half": drawn.bfloat16(), "number": torch.tensor(3),
        "nothing": torch.zeros(0, 2), "trained": torch.ones(2, requires_grad=True),
    }  # fmt: skip


def directions(job: Job) -> StepOutput:
    """A table and tensors."""
    table = pa.Table.from_pylist([{"question_id": item.id, "score": 1.0} for item in job.items], schema=SCHEMA)
    return StepOutput({"": table}, {"": tensors_of_many_kinds(), "more": {"seed": torch.tensor(job.seed)}})


def norms(job: Job) -> Tables:
    """Reads tensors of the step before."""
    row = job.upstream_tensors["directions"][""]["row"]
    return {"": pa.table({"norm": [float(row.norm())]})}


def shift(job: Job) -> Tables:
    """Scores of the first model and of every other."""
    columns = {}
    for number in range(len(job.models)):
        found = job.map(batch_scores, SCHEMA, {}, model=number)
        columns |= {f"{name}_{number}": found[name] for name in SCHEMA.names}
    return {"": pa.table(columns)}


@torch.no_grad()
def batch_scaled(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    rows = [{"question_id": item.id, "score": arguments["factor"] * item.length} for item in batch.items]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def called(job: Job, *names: str | None) -> Tables:
    """One function under each of the names, with a factor of its own; the last one's rows come batch by batch."""
    *first, last = names
    found = [job.map(batch_scaled, SCHEMA, {"factor": 1.0 + i}, name=name) for i, name in enumerate(first)]
    return {"": pa.concat_tables([*found, *job.batches(batch_scaled, SCHEMA, {"factor": 10.0}, name=last)])}


class ProbeSettings(StepSettings):
    steps: int = 60


def probe(job: Job) -> StepOutput:
    """A linear probe of whether a prompt is long, on the residual stream of its last token."""
    rows = job.map(batch_streams, WIDTH, {}).to_pylist()
    x = torch.tensor([row["stream"] for row in rows], dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    lengths = {item.id: float(len(item.prompt)) for item in job.items}
    y = torch.tensor([lengths[row["question_id"]] for row in rows], dtype=torch.float64)
    y = (y > y.median()).double()

    def loss(parameters: Mapping[str, torch.Tensor], batch: Minibatch) -> torch.Tensor:
        noisy = x + 0.01 * torch.randn(x.shape, generator=batch.generator, dtype=x.dtype)
        scores = noisy[batch.examples] @ parameters["weight"] + parameters["bias"]
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, y[batch.examples])

    start = {"weight": torch.zeros(x.shape[1], dtype=x.dtype), "bias": torch.zeros((), dtype=x.dtype)}
    schedule = Schedule(job.settings.steps, batch_size=4, checkpoint_every=10)
    fitted = fit(
        "probe", start, loss, examples=len(x), schedule=schedule, seed=job.seed, folder=job.folder,
        progress=job.progress,
    )  # fmt: skip
    table = pa.table({"step": range(len(fitted.losses)), "loss": fitted.losses})
    return StepOutput({"": table}, {"": fitted.parameters})


STEPS = {
    "directions": Step("directions", 1, (), StepSettings, True, directions),
    "norms": Step("norms", 1, ("directions",), StepSettings, False, norms),
    "shift": Step("shift", 1, (), StepSettings, False, shift, others=("later checkpoint", ...)),
    "probe": Step("probe", 1, (), ProbeSettings, True, probe),
    "named": Step("named", 1, (), StepSettings, False, lambda job: called(job, None, "doubled", "tenfold")),
    "unnamed": Step("unnamed", 1, (), StepSettings, False, lambda job: called(job, None, None)),
    "misnamed": Step("misnamed", 1, (), StepSettings, False, lambda job: called(job, None, "../elsewhere")),
}


def plan(model: LanguageModel, *steps: str, others: tuple[LanguageModel, ...] = (), **values: Any) -> Any:
    config = config_model().model_validate({"steps": steps or None, "batch_size": 4} | values)
    return plan_steps(model, asked(), config, known=STEPS, others=others)


def test_tensors_come_back_as_they_were_given_and_are_computed_once(model, tmp_path) -> None:
    cache = Cache(tmp_path / "cache")
    run_plan(plan(model, "directions", "norms"), cache=cache)
    again = run_plan(plan(model, "directions", "norms"), cache=cache)
    assert {result.seconds for result in again.values()} == {None}
    found = again["directions"].tensors
    assert list(found) == ["", "more"] and int(found["more"]["seed"]) == 0
    for name, value in tensors_of_many_kinds().items():
        assert found[""][name].dtype == value.dtype and torch.equal(found[""][name], value.detach())
    assert again["norms"].table["norm"].to_pylist() == [float(tensors_of_many_kinds()["row"].norm())]
    assert run_plan(plan(model, "directions", seed=3), cache=cache)["directions"].key != again["directions"].key
    with pytest.raises(KeyError):
        found[""]["absent"]


def test_a_damaged_tensor_is_set_aside_and_computed_again(model, tmp_path) -> None:
    warnings: list[str] = []
    cache = Cache(tmp_path / "cache", warn=warnings.append)
    chosen = plan(model, "directions")
    key = run_plan(chosen, cache=cache)["directions"].key
    path = cache.place("directions", key) / "part-00000.safetensors"
    whole = path.read_bytes()
    (entry,) = cache.entries()
    assert cache.verify(entry) == [] and sum(part.tensors for part in entry.parts) == 7
    assert key in whole.decode("latin-1")  # the file itself says what it is of
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    assert "part-00000.safetensors: damaged" in cache.verify(entry)[0]
    again = run_plan(chosen, cache=cache)["directions"]
    assert again.seconds is not None and len(warnings) == 1 and path.read_bytes() == whole
    assert len(list((cache.folder / ".quarantine").iterdir())) == 1


def test_the_folder_of_a_run_holds_its_tensors(model, tmp_path) -> None:
    chosen = plan(model, "directions", "norms")
    cache = Cache(tmp_path / "cache")
    with open_session("none") as session:
        run_into(tmp_path / "run", chosen, cache=cache, session=session)
        record = read_run(tmp_path / "run")
        assert record.files.keys() == {
            "directions.parquet", "directions.safetensors", "directions-more.safetensors", "norms.parquet",
            "prompts.parquet",
        }  # fmt: skip
        kept = record.details["steps"]["directions"]["tensors"]
        assert kept == {"": "directions.safetensors", "more": "directions-more.safetensors"}
        assert torch.equal(
            load_file(tmp_path / "run" / "directions.safetensors")["row"], tensors_of_many_kinds()["row"]
        )
        run_into(tmp_path / "run", plan(model, "norms"), cache=cache, session=session, replace=True)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_step_is_given_several_models_and_each_is_part_of_its_key(model, tmp_path) -> None:
    second, third = reader(seed=1), reader(seed=2)
    third.tokenizer = llama_kind()  # reads the same questions as other tokens
    table = run_plan(plan(model, "shift", others=(second, third)), cache=Cache(tmp_path))["shift"].table
    lengths = set()
    for number, its in enumerate((model, second, third)):
        items = {item.id: item for item in encode(its, asked(), max_tokens=512).items}
        lengths.add(sum(len(item.prompt) for item in items.values()))
        scores = dict(zip(*(table[f"{name}_{number}"].to_pylist() for name in ("question_id", "score")), strict=True))
        assert scores.keys() == items.keys()
        for id_, score in scores.items():
            with torch.no_grad():
                alone = its(torch.tensor([items[id_].prompt]))[0, -1].double().logsumexp(-1)
            assert score == pytest.approx(float(alone), abs=1e-4)
    assert len(lengths) == 2
    keys = {plan(model, "shift", others=o).steps["shift"].key.digest for o in ((second,), (third,), (second, third))}
    assert len(keys) == 3
    assert plan(model, "directions", "shift", others=(second,)).steps["directions"].key == (
        plan(model, "directions").steps["directions"].key  # a step that compares nothing does not see them
    )


def test_models_that_no_step_can_be_given_are_refused(model) -> None:
    assert "shift" not in plan(model).steps and "shift" in plan(model, others=(model,)).steps
    with pytest.raises(UsageError, match=r"shift: takes further models \(later checkpoint, any number more\), and 0"):
        plan(model, "shift")
    with pytest.raises(UsageError, match="none of the steps compares"):
        plan(model, "norms", others=(model,))
    small = reader(seed=1)
    small.config = dataclasses.replace(small.config, vocab_size=9)
    small.tokenizer = None
    with pytest.raises(InputError, match="its vocabulary of 9 does not hold token"):
        plan(model, "shift", others=(small,))


class Counts(Observer):
    """Of every word on how far a call is, how many batches an earlier run had made."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.resumed: list[int] = []

    def progress(self, progress: Any) -> None:
        self.resumed.append(progress.resumed_shards)
        if len(self.resumed) == self.stop_at:
            raise KeyboardInterrupt


def test_a_function_is_run_twice_under_two_names_and_an_interrupted_call_is_continued(model, tmp_path) -> None:
    whole = run_plan(plan(model, "named"), cache=Cache(tmp_path / "whole"))["named"].table
    scores = whole["score"].to_pylist()
    one, two, three = (scores[i : i + 6] for i in (0, 6, 12))
    assert len(scores) == 18 and two == [2 * score for score in one] and three == [10 * score for score in one]
    cache = Cache(tmp_path / "halved")
    with pytest.raises(KeyboardInterrupt):  # each call tells its start and two batches: within the second call
        run_plan(plan(model, "named"), cache=cache, observer=Counts(stop_at=5))
    observer = Counts()
    again = run_plan(plan(model, "named"), cache=cache, observer=observer)["named"].table
    assert again.equals(whole) and observer.resumed == [2, 1, 1, 0, 0, 0]


def test_a_function_that_is_run_twice_under_one_name_is_refused(model, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"^unnamed: job.map is called twice for 'batch_scaled' of model 0.*name="):
        run_plan(plan(model, "unnamed"), cache=Cache(tmp_path))
    with pytest.raises(UsageError, match=r"^misnamed: .*letters, digits and _, not '\.\./elsewhere'"):
        run_plan(plan(model, "misnamed"), cache=Cache(tmp_path))


class Interrupts(Observer):
    def __init__(self, at: int) -> None:
        self.at = at
        self.seen: list[tuple[int, int]] = []

    def progress(self, progress: Any) -> None:
        if progress.name == "probe" and progress.shards == 60:
            self.seen.append((progress.shards_done, progress.resumed_shards))
            if progress.shards_done == self.at:
                raise KeyboardInterrupt


def test_a_step_that_trains_goes_on_where_it_was_interrupted_and_gives_the_same_bits(model, tmp_path) -> None:
    whole = run_plan(plan(model, "probe"), cache=Cache(tmp_path / "whole"))["probe"]
    losses = whole.table["loss"].to_pylist()
    assert losses[-1] < 0.5 * losses[0]  # it learned something
    cache = Cache(tmp_path / "halved")
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan(model, "probe"), cache=cache, observer=Interrupts(30))
    assert cache.read("probe", whole.key) is None
    observer = Interrupts(-1)
    halved = run_plan(plan(model, "probe"), cache=cache, observer=observer)["probe"]
    assert observer.seen == [(40, 30), (50, 30), (60, 30)]
    files = [
        {p.name: p.read_bytes() for p in c.place("probe", whole.key).iterdir()}
        for c in (Cache(tmp_path / "whole"), cache)
    ]
    assert files[0] == files[1] and halved.key == whole.key and len(files[0]) == 3
    assert not list((cache.folder / ".work").iterdir())
