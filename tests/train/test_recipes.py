"""The recipes of published sizes: each model has its published number of parameters, and a plan says what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.commands import main
from mplat.config import load_config
from mplat.models import memory
from mplat.train.disk import disk
from mplat.train.estimate import estimate
from mplat.train.loop import train
from mplat.train.optimizer import learning_rate
from mplat.train.run_folder import RunFolder
from mplat.train.setup import Setup, prepare
from mplat.train.train_config import TrainConfig
from train_runs import config

RECIPES = Path(__file__).parents[2] / "configs" / "train"
# Millions. Mamba, Mamba-2: the published files. Hyena: its paper's names. Of others, the name itself.
PUBLISHED = {
    "mamba": (129.1, 371.5, 793.2, 1372.2),
    "mamba2": (129.0, 368.3, 780.2, 1343.7),
    "hyena": (125, 355, 760, 1316),
    "striped-hyena": (130, 370, 790, 1400),
    "stable-mamba": (130, 370, 790, 1400),
}
SIZES = {"130m": (24, 768), "370m": (48, 1024), "790m": (48, 1536), "1.4b": (48, 2048)}  # Mamba's layers and width


def expected(family: str, size: str) -> float:
    """Millions of parameters that one token uses, of what is published or by hand from Mamba's."""
    place = list(SIZES).index(size)
    layers, d = SIZES[size]
    mamba = PUBLISHED["mamba"][place]
    if family == "miniplm":  # Falcon's vocabulary in place of GPT-NeoX's
        return mamba + (65024 - 50280) * d / 1e6
    if family == "dense-mamba":  # a gate of rank d/16 from every layer to the 2 d channels of each of two below
        gates = (layers - 1) * d * d / 16 + (2 * (layers - 2) + 1) * (d / 16) * 2 * d
        return mamba + gates / 1e6
    if family == "moe-mamba":  # every other block an expert of 2 * 3 d * d, about as large as the block it replaces
        blocks = mamba - 50280 * d / 1e6
        return blocks / 2 + layers / 2 * 6 * d * d / 1e6 + 50264 * d / 1e6
    return PUBLISHED[family][place]


def recipe(name: str) -> TrainConfig:
    return load_config(TrainConfig, RECIPES / f"{name}.yaml", [])


NAMES = sorted(path.stem for path in RECIPES.glob("*-*.yaml") if path.stem.rpartition("-")[2] in SIZES)


def test_every_architecture_has_a_recipe_of_every_size():
    families = ("mamba", "mamba2", "dense-mamba", "moe-mamba", "hyena", "striped-hyena", "stable-mamba", "miniplm")
    assert sorted(f"{family}-{size}" for family in families for size in SIZES) == NAMES


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A plan of a recipe for a text, as of a machine that its weights fit into."""
    monkeypatch.setattr(memory, "physical_bytes", lambda: 2**40)
    (tmp_path / "text.txt").write_text("A text of some words. " * 40, encoding="utf-8")

    def plan(name: str) -> Setup:
        overrides = ["data.text.paths=[" + json.dumps(str(tmp_path / "text.txt")) + "]", "device=cpu", "threads=1"]
        chosen = load_config(TrainConfig, RECIPES / f"{name}.yaml", overrides)
        return prepare(chosen, RunFolder(tmp_path / "out"), dry_run=True)

    return plan


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_has_the_published_model_and_says_what_it_takes(planned, name):
    family, _, size = name.rpartition("-")
    setup = planned(name)
    active = setup.count_active_parameters()
    assert active / 1e6 == pytest.approx(expected(family, size), rel=0.02)
    cost = estimate(setup)
    parameters, tokens = setup.count_parameters(), setup.config.total_steps * setup.config.tokens_per_step
    assert cost.memory_bytes >= 16 * parameters and cost.disk_bytes is not None
    assert cost.disk_bytes == pytest.approx(
        (4 * 12 + 4) * parameters, rel=0.01
    )  # 2 latest, the best, one being written
    assert cost.tokens_per_second == pytest.approx(tokens / cost.seconds)
    assert 6 * active * tokens / cost.seconds < 1e14  # no processor does more


def test_rates_are_five_times_those_of_gpt_3_and_batches_half_a_million_tokens():
    gpt3 = {"130m": 6e-4, "370m": 3e-4, "790m": 2.5e-4, "1.4b": 2e-4}
    for family in ("mamba", "mamba2"):
        for size, rate in gpt3.items():
            chosen = recipe(f"{family}-{size}")
            assert chosen.optimizer.learning_rate == pytest.approx(5 * rate) and chosen.tokens_per_step == 2**19
            assert learning_rate(chosen, chosen.warmup_steps - 1) == chosen.optimizer.learning_rate
            assert learning_rate(chosen, chosen.total_steps - 1) == pytest.approx(1e-5)
            assert chosen.optimizer.betas == (0.9, 0.95) and chosen.optimizer.weight_decay == 0.1


def test_a_recipe_without_data_is_refused_in_a_sentence(capsys, tmp_path):
    assert main(["train", str(RECIPES / "mamba-130m.yaml"), "--out", str(tmp_path / "run")]) != 0
    assert "give a file with --data" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_command_says_all_five(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A text of some words. " * 40, encoding="utf-8")
    words = [
        "train",
        str(RECIPES / "mamba2-130m.yaml"),
        "--data",
        str(text),
        "--dry-run",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "parameters: 128,989,632" in out and " tokens/s; memory: about 1.9 GiB; disk: at most about 6.25 GiB" in out
    assert "time: about " in out and not (tmp_path / "run").exists()


def test_the_disk_is_what_a_run_leaves(tmp_path):
    chosen = config(steps=6, checkpoint={"every": 1, "keep_latest_k": 3}, evaluation={"every": 2})
    train(chosen, tmp_path)
    setup = prepare(chosen, RunFolder(tmp_path), dry_run=True)
    needed = disk(setup, setup.count_parameters())

    def size(pattern: str) -> int:
        return sum(path.stat().st_size for path in tmp_path.glob(pattern))

    lying = len(list((tmp_path / "checkpoints").iterdir()))
    assert 3 <= lying < needed.checkpoints  # one more lies there while it is written
    assert size("checkpoints/*/*.safetensors") == pytest.approx(
        needed.checkpoint_bytes * lying / needed.checkpoints, rel=0.05
    )
    assert size("model/*.safetensors") == pytest.approx(needed.export_bytes, rel=0.1)
