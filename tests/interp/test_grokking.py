"""`grokking` on a planted training, whose rule and memory grow when they are told to, and on models of other things."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import asked, reader
from model_zoo import nano
from mplat.datasets import modular_addition as task
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.engine.batches import Item
from mplat.interp.engine.graph import all_steps
from mplat.interp.engine.step import Job, StepOutput
from mplat.interp.methods.addition import addition_of
from mplat.interp.methods.fourier import basis
from mplat.interp.methods.weight_measures import effective_rank, sum_of_squares
from mplat.models import LanguageModel
from mplat.models.files.training_record import TrainingRecord

P, KEYS = 13, (2, 5)
STEPS = sorted({round(10 ** (k / 6)) for k in range(25)})  # 1 to 10,000


def items(p: int = P, *, sides: bool = True) -> list[Item]:
    seen = task.trained_on(p, 0.4, 0)
    return [
        Item(f"{a}+{b}", (a, b, sign), (c,), category=(task.TRAINED if s else task.HELD_OUT) if sides else None)
        for (a, b, sign, c), s in zip(task.equations(p).tolist(), seen.tolist(), strict=True)
    ]


def part(step: int, begins: float, ends: float) -> float:
    """0 up to 10 ** begins, 1 from 10 ** ends on."""
    return min(1.0, max(0.0, (math.log10(step) - begins) / (ends - begins)))


def logits(step: int) -> torch.Tensor:
    """A memory of what is trained on from step 10 to 100 that goes again from 1000, a rule from step 100 to 10,000."""
    a = torch.arange(P)
    of = (a[:, None, None] + a[None, :, None] - a).double()
    rule = sum(torch.cos(2 * math.pi * k * of / P) for k in KEYS)
    seen = torch.from_numpy(task.trained_on(P, 0.4, 0)).view(P, P)
    memory = torch.zeros(P, P, P, dtype=torch.float64)
    memory[a[:, None], a, (a[:, None] + a) % P] = seen.double()
    strength = 12 * part(step, 1, 2) * (1 - 0.9 * part(step, 3, 4))
    return strength * memory + 6 * part(step, 2, 4) * rule


def checkpoint(step: int, seed: int = 0) -> LanguageModel:
    model = nano("mamba", seed=seed, vocab_size=16)
    model.training_record = TrainingRecord(step, step * 100)
    return model


def run(
    models: Sequence[LanguageModel], given: Sequence[Item], said: Mapping[int, torch.Tensor] | None = None, **how: Any
) -> dict[str, list[dict[str, Any]]]:
    """Rows by part; `said`: logits by training step, instead of the models' own."""
    step = all_steps()["grokking"]

    def answer(function: Any, schema: pa.Schema, arguments: Mapping[str, Any], *, model: int = 0) -> pa.Table:
        assert said is not None and function.__name__ == "batch_numbers"
        values = said[models[model].training_record.step].float().numpy().reshape(-1, arguments["p"])
        return pa.table(
            {
                "question_id": [i.id for i in given],
                "logits": [v.tobytes() if np.isfinite(v).all() else None for v in values],
            },
            schema=schema,
        )

    job = Job(
        models[0], given, (), (0, 1), step.settings.model_validate({"permutations": 99} | how), 0,
        {}, answer, others=models[1:],
    )  # fmt: skip
    found = step.function(job)
    assert not isinstance(found, StepOutput)
    return {name: table.to_pylist() for name, table in found.items()}


def of(rows: list[dict[str, Any]], measure: str) -> dict[int, float]:
    return {row["step"]: row["value"] for row in rows if row["measure"] == measure and row["status"] == "ok"}


@pytest.fixture(scope="module")
def planted() -> dict[str, list[dict[str, Any]]]:
    order = [STEPS[-1], *STEPS[:-1]]  # the last one is analysed, the others are named
    return run([checkpoint(step) for step in order], items(), {step: logits(step) for step in STEPS})


def test_measures_of_a_planted_training_are_those_of_its_rule_and_memory(planted: dict) -> None:
    rows = planted["measures"]
    assert [row["step"] for row in rows[:: len(rows) // len(STEPS)]] == STEPS
    train, held_out = of(rows, "train_loss"), of(rows, "held_out_loss")
    excluded, restricted = of(rows, "excluded_loss"), of(rows, "restricted_loss")
    assert train[1] == pytest.approx(math.log(P)) and train[100] < 0.01 < 2 < held_out[100]
    assert of(rows, "train_accuracy")[100] == 1.0 and of(rows, "held_out_accuracy")[10_000] == 1.0
    assert excluded[100] < 0.01 and excluded[10_000] > 1.5 and restricted[10_000] < 0.1 < 1 < restricted[100]
    assert of(rows, "excluded_loss_control")[10_000] < 0.1, "without as many other frequencies nothing is lost"
    assert of(rows, "gap")[100] == pytest.approx(held_out[100] - train[100])


def test_key_frequencies_are_the_planted_ones(planted: dict) -> None:
    rows = planted["frequencies"]
    assert {row["frequency"] for row in rows if row["key"]} == set(KEYS)
    last = {row["frequency"]: row["share"] for row in rows if row["step"] == 10_000}
    assert sum(last.values()) > 0.9 and min(last[k] for k in KEYS) > 0.4 > 0.05 > max(
        share for k, share in last.items() if k not in KEYS)  # fmt: skip


def test_the_excluded_loss_rises_before_the_held_out_loss_falls(planted: dict) -> None:
    phases = {row["phase"]: row for row in planted["phases"]}
    three = [phases[name] for name in ("memorisation", "circuit formation", "cleanup")]
    assert all(row["status"] == "ok" and row["p"] <= 0.01 for row in three)
    assert three[0]["begins"] < three[1]["begins"] and three[0]["ends"] <= 147
    assert three[0]["before"] > three[0]["after"] and three[1]["before"] < three[1]["after"]
    assert phases["weights"]["status"] == "not_applicable"  # the planted checkpoints have the same weights


def test_an_exported_model_is_its_last_checkpoint_and_two_trainings_are_none(planted: dict) -> None:
    said = {step: logits(step) for step in STEPS}
    doubled = run([checkpoint(STEPS[-1]), *map(checkpoint, STEPS)], items(), said)
    assert doubled["measures"] == planted["measures"] and doubled["phases"] == planted["phases"]
    mixed = run([checkpoint(STEPS[-1], seed=1), *map(checkpoint, STEPS)], items(), said)
    assert len(mixed["measures"]) > len(planted["measures"])
    assert [row["at"] for row in mixed["frequencies"] if row["frequency"] == 1] == list(range(len(STEPS) + 1))
    assert {row["status"] for row in mixed["phases"]} == {"not_applicable"}


def test_logits_that_are_not_finite_are_no_measures() -> None:
    broken = logits(STEPS[-1])
    broken[0, 0, 0] = torch.nan
    found = run([checkpoint(STEPS[-1])], items(), {STEPS[-1]: broken})
    bad = {row["measure"] for row in found["measures"] if row["status"] == "model_nonfinite"}
    assert (
        bad >= {"loss", "accuracy", "gap", "restricted_loss"} and found["frequencies"][0]["status"] == "model_nonfinite"
    )


def test_questions_without_sides_have_no_excluded_loss_and_no_phases_of_it() -> None:
    found = run([checkpoint(STEPS[-1])], items(sides=False), {STEPS[-1]: logits(STEPS[-1])})
    rows = {row["measure"]: row for row in found["measures"]}
    assert rows["restricted_loss"]["value"] < 0.1 and rows["loss"]["status"] == "ok"
    for name in ("excluded_loss", "excluded_loss_control", "train_loss", "gap"):
        assert rows[name]["status"] == "not_applicable" and "trained" in rows[name]["reason"], name
    assert {row["status"] for row in found["phases"]} == {"not_applicable"}


def test_only_all_equations_of_one_modulus_are_an_addition() -> None:
    whole = items()
    found = addition_of(whole)
    assert found is not None and found.p == P and int(found.trained.sum()) == task.n_trained(P, 0.4)
    wrong = dataclasses.replace(whole[0], answer=(1,))
    other_sign = dataclasses.replace(whole[0], prompt=(0, 0, 14))
    twice = dataclasses.replace(whole[1], prompt=whole[0].prompt, answer=whole[0].answer)
    for change in (whole[1:], [wrong, *whole[1:]], [other_sign, *whole[1:]], [whole[0], twice, *whole[2:]]):
        assert addition_of(change) is None
    assert addition_of(items(sides=False)).trained is None


def test_models_of_other_things_have_the_general_measures_only(tmp_path: Path) -> None:
    models = [reader(seed=seed) for seed in (0, 1)]
    models[0].training_record = TrainingRecord(200, 1000, 0.5, 2.0)
    models[1].training_record = TrainingRecord(100, 500, 1.5, 2.5)
    config = config_model().model_validate({"steps": ("grokking",), "batch_size": 4, "grokking": {"permutations": 99}})
    result = run_steps(models[0], asked(), config, others=models[1:], cache=Cache(tmp_path))["grokking"]
    rows = result.tables["measures"].to_pylist()
    assert [row["step"] for row in rows if row["measure"] == "gap"] == [100, 200]
    assert of(rows, "gap") == {100: 1.0, 200: 1.5} and of(rows, "train_loss") == {100: 1.5, 200: 0.5}
    assert of(rows, "embedding_rank")[200] == pytest.approx(effective_rank(models[0].embedding.weight))
    fourier = [row for row in rows if row["measure"] in ("restricted_loss", "excluded_loss", "embedding_gini")]
    assert {row["status"] for row in fourier} == {"not_applicable"} and "modulo" in fourier[0]["reason"]
    models[0].training_record = TrainingRecord(300, 1000)
    again = run_steps(models[0], asked(), config, others=models[1:], cache=Cache(tmp_path))["grokking"]
    assert again.key != result.key, "how long a model was trained is part of what is looked at"


def test_without_further_models_it_is_one_checkpoint(tmp_path: Path) -> None:
    config = config_model().model_validate({"steps": ("grokking",)})
    result = run_steps(reader(), asked(), config, cache=Cache(tmp_path))["grokking"]
    rows = {row["measure"]: row for row in result.tables["measures"].to_pylist()}
    assert rows["loss"]["status"] == "ok" and rows["train_loss"]["status"] == "not_applicable" and not result.bad


def test_effective_rank_is_exp_of_the_entropy_of_the_singular_values() -> None:
    assert effective_rank(3.0 * torch.eye(7)) == pytest.approx(7.0)
    assert effective_rank(torch.outer(torch.arange(1.0, 5.0), torch.ones(6))) == pytest.approx(1.0)
    values = np.array([3.0, 1.0])
    shares = values / values.sum()
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(
        float(np.exp(-(shares * np.log(shares)).sum())))  # fmt: skip
    assert effective_rank(torch.zeros(2, 2)) is None
    assert effective_rank(basis(11)) == pytest.approx(11.0)


def test_the_sum_of_squares_is_of_what_weight_decay_acts_on() -> None:
    model = nano("mamba")
    before = sum_of_squares(model)
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.A_log.mul_(3)
            block.norm.weight.mul_(3)
    assert sum_of_squares(model) == before
    with torch.no_grad():
        model.embedding.weight.mul_(2)
    assert sum_of_squares(model) - before == pytest.approx(
        3 * float(model.embedding.weight.detach().square().sum()) / 4
    )


def test_in_kept_trainings_modulo_31_the_excluded_loss_rises_before_the_held_out_loss_falls(root: Path) -> None:
    """benchmarks/grokking.py: one block of Mamba, several seeds and shares. Not each of them ends with the rule."""
    runs = json.loads((root / "benchmarks" / "results" / "grokking.json").read_text())["runs"]
    assert len(runs) >= 4 and {one["p"] for one in runs} == {31}
    grokked = [one for one in runs if one["curves"][-1]["held_out_accuracy"] > 0.98]
    assert len(grokked) >= 2
    for one in runs:
        curves = {row["step"]: row for row in one["curves"]}
        begins = {row["phase"]: row["begins"] for row in one["phases"] if row["status"] == "ok"}
        assert begins["memorisation"] < begins["circuit formation"]
        if one in grokked:
            assert begins["circuit formation"] < begins["cleanup"], (one["seed"], one["train_fraction"])
        # in numbers: three times its least value, where the held-out loss is above chance yet
        least = min(curves.values(), key=lambda row: row["excluded_loss"])
        later = [row for step, row in curves.items() if step > least["step"]]
        risen = next(row for row in later if row["excluded_loss"] > 3 * least["excluded_loss"])
        assert risen["held_out_loss"] > math.log(31) and risen["train_accuracy"] > 0.98
        assert risen["excluded_loss"] > 3 * risen["excluded_loss_control"]
    for one in grokked:
        last = one["curves"][-1]
        assert last["restricted_loss"] < 0.05 < 2 < last["restricted_loss_control"]
        assert last["excluded_loss_control"] < 0.05 < 1 < last["excluded_loss"]
