"""`scaling` on a family whose losses are planted: the exponent is found, too few models are refused, sizes are what is
asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import asked, reader
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.engine.graph import all_steps
from mplat.interp.engine.step import Asked, Job, StepOutput
from mplat.interp.methods.answer_table import batch_answer_table
from mplat.models import LanguageModel
from mplat.models.files.training_record import TrainingRecord

WIDTHS = (16, 24, 40, 64, 104)
ALPHA, FLOOR = 0.5, 0.4


def family(count: int = len(WIDTHS)) -> list[LanguageModel]:
    """Models of one shape and several widths, the largest first: the order given is not that of size."""
    return [nano("mamba", d_model=width) for width in reversed(WIDTHS[:count])]


def items(count: int = 90) -> list[Item]:
    return [Item(f"q{i}", (1, 2, 3), (4, 5), group=f"document {i // 3}") for i in range(count)]


def run(
    models: Sequence[LanguageModel], given: Sequence[Item], loss: Any, seed: int = 0, **settings: Any
) -> dict[str, list[dict[str, Any]]]:
    """Rows by part, where model m answers question i with loss(size of m, i, m) nats."""
    step = all_steps()["scaling"]

    def answer(function: Any, schema: pa.Schema, arguments: Mapping[str, Any], *, model: int = 0) -> pa.Table:
        assert function is batch_answer_table
        nats = [loss(models[model].n_parameters, i, model) for i in range(len(given))]
        rows = [{"question_id": item.id, "logprob": -value, "tokens": 2, "correct": value < 1.0, "state_bytes": 8.0,
                 "status": "ok"} for item, value in zip(given, nats, strict=True)]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=schema)

    job = Job(
        models[0], given, (), (0,), step.settings.model_validate({"resamples": 300} | settings), seed, {}, answer,
        others=models[1:],
    )  # fmt: skip
    found = step.function(job)
    assert not isinstance(found, StepOutput)
    return {name: table.to_pylist() for name, table in found.items()}


def fit(rows: Mapping[str, list[dict[str, Any]]], law: str = "power law", measure: str = "loss") -> dict[str, Any]:
    (found,) = [row for row in rows["fits"] if (row["law"], row["measure"]) == (law, measure)]
    return found


def noisy(floor: float = 0.0, seed: int = 0, noise: float = 0.2) -> Any:
    """The law, times how hard a document is (for every model alike) and what each model makes of each question."""
    rng = np.random.default_rng(seed)
    hard, own = rng.gamma(4, 1 / 4, 30), rng.gamma(1 / noise**2, noise**2, (90, len(WIDTHS)))
    return lambda size, i, m: float((floor + 100 * size**-ALPHA) * hard[i // 3] * own[i, m])


def test_a_planted_exponent_is_found_and_lies_in_its_interval() -> None:
    found = fit(run(family(), items(), noisy()))
    assert found["alpha_low"] < ALPHA < found["alpha_high"] and found["alpha"] == pytest.approx(ALPHA, abs=0.1)
    assert found["alpha_high"] - found["alpha_low"] < 0.2 and found["p"] == pytest.approx(1 / 120)
    assert found["alpha_least"] < found["alpha"] < found["alpha_most"] and found["floor"] is None
    exact = run(family(), items(), lambda size, i, m: FLOOR + 100 * size**-ALPHA)
    with_floor = fit(exact, "power law with a floor")
    assert with_floor["alpha"] == pytest.approx(ALPHA, rel=1e-4) and with_floor["floor"] == pytest.approx(
        FLOOR, rel=1e-4
    )
    assert fit(exact)["curvature"] > 0.0 and fit(exact)["alpha"] < ALPHA, "a law without the floor it needs"


def test_losses_that_do_not_depend_on_size_have_no_exponent() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.gamma(25, 1 / 25, (90, len(WIDTHS)))
    found = fit(run(family(), items(), lambda size, i, m: float(drawn[i, m])))
    assert found["alpha_low"] < 0 < found["alpha_high"] and found["p"] > 0.01


@pytest.mark.parametrize(
    ("count", "statuses"), [(2, ["not_applicable"] * 2), (3, ["ok", "not_applicable"]), (4, ["ok"] * 2)]
)
def test_too_few_models_are_said_to_be_too_few(count: int, statuses: list[str]) -> None:
    rows = run(family(count), items(), lambda size, i, m: 100 * size**-ALPHA, measures=["loss"])
    assert [row["status"] for row in rows["fits"]] == statuses
    refused = [row for row in rows["fits"] if row["status"] != "ok"]
    assert all(f"{count} different sizes" in row["reason"] and row["alpha"] is None for row in refused)


def test_models_of_one_size_are_one_point() -> None:
    models = [nano("mamba", seed=seed) for seed in range(4)]
    rows = run(models, items(), lambda size, i, m: 1.0 + m)
    assert {row["status"] for row in rows["fits"]} == {"not_applicable"} and "1 different" in rows["fits"][0]["reason"]
    assert [row["model"] for row in rows["models"]] == ["mamba", "mamba (2)", "mamba (3)", "mamba (4)"]


def test_an_error_of_zero_is_no_power_law_and_one_group_has_no_interval() -> None:
    rows = run(family(), items(), lambda size, i, m: 0.5 + (m == 0))
    assert "is 0" in fit(rows, measure="error")["reason"]
    single = [Item(f"q{i}", (1,), (2,), group="the same") for i in range(5)]
    found = fit(run(family(), single, lambda size, i, m: 100 * size**-ALPHA))
    assert found["alpha"] == pytest.approx(ALPHA) and found["alpha_low"] is None and found["curvature_low"] is None


def test_against_tokens_of_training() -> None:
    """Checkpoints of one run have one number of parameters and several numbers of tokens."""
    models = [nano("mamba", seed=seed) for seed in range(5)]
    tokens = [1000, 4000, 16_000, 64_000, 256_000]
    for model, count in zip(models, tokens, strict=True):
        model.training_record = TrainingRecord(count // 10, count)
    by_place = dict(enumerate(tokens))
    found = run(models, items(), lambda size, i, m: 30 * by_place[m] ** -0.3, against="tokens")
    assert fit(found)["alpha"] == pytest.approx(0.3) and [row["size"] for row in found["models"]] == tokens
    check = all_steps()["scaling"].check
    settings = all_steps()["scaling"].settings.model_validate({"against": "tokens"})
    check(Asked(models[0], (0,), settings, {}, models[1:]))
    with pytest.raises(UsageError, match="does not say on how many tokens"):
        check(Asked(models[0], (0,), settings, {}, [nano("mamba")]))


def test_what_is_drawn_is_measured_and_fitted() -> None:
    rows = run(family(), items(), noisy(), measures=["loss", "improbability"])
    for measure in ("loss", "improbability"):
        drawn = [row for row in rows["curves"] if row["measure"] == measure]
        measured = [row for row in drawn if row["series"] == "measured"]
        assert [row["size"] for row in measured] == sorted(row["size"] for row in measured)
        assert all(row["low"] < row["value"] < row["high"] for row in measured)
        line = [row for row in drawn if row["series"] == "power law"]
        first = fit(rows, measure=measure)
        assert line[0]["value"] == pytest.approx(first["amplitude"] * line[0]["size"] ** -first["alpha"])


def test_columns_of_efficiency_are_what_models_hold(tmp_path: Path) -> None:
    """On real forward passes: the state of a recurrence is that of the model, attention keeps more with every token."""
    model = nano("mamba", dtype=torch.float32)
    given = [Item("a", (1, 2, 3), (4,)), Item("b", tuple(range(1, 20)), (4, 5))]
    rows = batch_answer_table(model, Batch(given, model.device), {}).to_pylist()
    assert [row["state_bytes"] for row in rows] == [model.zero_state(1).n_bytes] * 2
    tokens = torch.tensor([[*given[1].prompt, 4]])
    logprobs = model(tokens).detach().double().log_softmax(-1)[0]
    assert rows[1]["logprob"] == pytest.approx(float(logprobs[-2, 4] + logprobs[-1, 5]), rel=1e-6)
    growing = nano("stable_mamba_attached", dtype=torch.float32)
    short, long = batch_answer_table(growing, Batch(given, growing.device), {}).to_pylist()
    alone = batch_answer_table(growing, Batch(given[:1], growing.device), {}).to_pylist()[0]
    assert long["state_bytes"] > short["state_bytes"] == pytest.approx(alone["state_bytes"])


def test_the_same_arguments_give_the_same_tables(tmp_path: Path) -> None:
    config = config_model().model_validate({"steps": ("scaling",), "batch_size": 4, "scaling": {"resamples": 100}})
    others = [reader(seed=1), reader("mamba2")]
    here, again = (
        run_steps(reader(), asked(), config, others=others, cache=Cache(tmp_path / at))["scaling"] for at in ("a", "b")
    )
    assert here.key == again.key and not here.bad
    for part, table in here.tables.items():
        assert table.equals(again.tables[part]), part
