"""The shipped models: size, format, recipe, and what they can do on names and sentences they never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mplat.core.config import load_config
from mplat.datasets.facts import prompts
from mplat.models import LanguageModel, load
from mplat.models.files.catalog import shipped
from mplat.scoring.metrics import score
from mplat.train.train_config import TrainConfig
from safetensors.torch import load_file

NAMES = tuple(shipped())
PER_LEVEL, FEW = 100, 35  # of the first and the last level, and of those between
FIRST = ("tiny-mamba", "tiny-mamba2")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name == FIRST[0] else pytest.mark.slow) for name in NAMES]
)
def model(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    yield load(request.param)


def test_they_are_small() -> None:
    assert {*FIRST} <= {*NAMES}
    for name in NAMES:
        folder = shipped()[name]
        weights = load_file(folder / "model.safetensors")
        # models stored since decays are kept in float32 have these so
        kept = {n for n, t in weights.items() if t.dtype == torch.float32}
        assert {t.dtype for n, t in weights.items() if n not in kept} == {torch.float16}
        assert all(n.rpartition(".")[2] in ("A_log", "D") for n in kept)
        assert (folder / "model.safetensors").stat().st_size <= 4 * 1024**2
        assert 0.5e6 <= load(name).n_parameters <= 2e6


def test_recipe_log_and_curve_are_kept(model: LanguageModel) -> None:
    folder = shipped()[model.name]
    assert (folder / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "seed:" in (folder / "training.yaml").read_text()
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any(row["kind"] == "train" for row in rows) and any(row["kind"] != "train" for row in rows)
    assert (folder / "DIGEST").read_text().strip() == model.digest


@pytest.fixture(scope="module")
def exact_match(model: LanguageModel) -> dict[int, float]:
    made = prompts(per_level=PER_LEVEL, seed=11)  # training watched seed 0
    questions = [
        q for level in range(1, 7) for q in [q for q in made if q.level == level][: FEW if 1 < level < 6 else None]
    ]
    right: dict[int, list[float]] = {}
    for start in range(0, len(questions), 50):
        batch = questions[start : start + 50]
        for question, answer in zip(batch, model.generate([q.prompt or "" for q in batch], 8), strict=True):
            right.setdefault(question.level or 0, []).append(
                score("squad_v1", answer, list(question.answers)).em or 0.0
            )
    return {level: sum(values) / len(values) for level, values in right.items()}


@pytest.mark.slow
def test_recall_on_held_out_entities_and_templates(exact_match: dict[int, float]) -> None:
    assert exact_match[1] >= 0.9


def test_the_first_two_also_answer_across_two_hops(model: LanguageModel, exact_match: dict[int, float]) -> None:
    if model.name in FIRST:
        assert exact_match[1] >= 0.95
        assert exact_match[2] >= 0.6


def test_steering_has_something_to_move(exact_match: dict[int, float]) -> None:
    assert sum(0.15 <= value <= 0.85 for value in exact_match.values()) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_in_configs_is_the_one_it_was_trained_with(name: str, root: Path) -> None:
    recipe = load_config(TrainConfig, root / "configs" / "train" / f"{name}.yaml", [])
    assert recipe == load_config(TrainConfig, shipped()[name] / "training.yaml", [])
