"""Sizes that cannot lie in this machine's memory are refused by key, before anything is allocated or read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.models import ModelConfig, build, load, memory
from mplat.train.train_config import TrainConfig

SHAPE: dict[str, Any] = {"arch": "mamba", "vocab_size": 512, "d_model": 64, "n_layers": 2}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"d_model": 60_000, "n_layers": 90}, "d_model (60,000)"),
        ({"n_layers": 4096, "d_model": 4096}, "n_layers (4,096)"),
        ({"vocab_size": 8_000_000, "d_model": 8192}, "vocab_size (8,000,000)"),
        ({"expand": 1024, "d_model": 2048, "n_layers": 40}, "expand (1,024)"),
    ],
)
def test_a_model_larger_than_the_memory_is_refused_by_key(
    changes: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "physical_bytes", lambda: 2 * 10**11)
    config = ModelConfig.from_dict(SHAPE | changes)
    with pytest.raises(UsageError) as error:
        build(config)
    assert key in str(error.value) and "200.0 GB of memory" in str(error.value)
    if config.n_layers < 100:  # shapes alone take none
        assert build(config, device="meta").n_parameters * 4 > 2 * 10**11


def test_what_fits_is_built_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig.from_dict(SHAPE)
    needed = 4 * build(config, device="meta").n_parameters
    monkeypatch.setattr(memory, "physical_bytes", lambda: needed)
    assert 4 * build(config).n_parameters == needed
    monkeypatch.setattr(memory, "physical_bytes", lambda: needed - 1)
    with pytest.raises(UsageError, match="parameters with 4 bytes for each would take"):
        build(config)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "state_size", "conv_kernel"])
def test_an_absurd_size_in_a_folder_is_found_before_the_weights_are_read(key: str, tmp_path: Path) -> None:
    content = ModelConfig.from_dict(SHAPE).to_hf()
    (tmp_path / "config.json").write_text(json.dumps(content | {key: 10**12}))
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(InputError, match=f"config.json: {key} must be a whole number from 1 to .*, not 1000000000000"):
        load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 10**12}, {"sequence_length": 10**12}, {"batch_size": 10**6}, {"sequence_length": 10**7},
        {"micro_batch_size": 10**9}, {"model": {"d_model": 10**9}}, {"model": {"n_layers": 10**6}},
        {"model": {"vocab_size": 10**10}}, {"evaluation": {"prompts_per_level": 10**9}},
        {"evaluation": {"batch_size": 10**9}},
    ],
)  # fmt: skip
def test_absurd_sizes_of_a_training_are_refused_by_key(changes: dict[str, Any]) -> None:
    (key, value), *_ = changes.items()
    with pytest.raises(ValueError, match=next(iter(value)) if isinstance(value, dict) else key):
        TrainConfig(**changes)


def test_a_training_that_cannot_fit_is_refused_before_data_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mplat.train import setup
    from mplat.train.run_folder import RunFolder

    def prepare(**changes: Any) -> setup.Setup:
        return setup.prepare(TrainConfig(device="cpu", **changes), RunFolder(tmp_path), dry_run=True)

    monkeypatch.setattr(memory, "physical_bytes", lambda: 10**8)
    assert prepare(model={"size": "nano"}).shape.d_model == 64
    whole = {"model": {"size": "nano"}, "cross_entropy": "whole"}
    for changes, words in (
        ({"model": {"d_model": 16_384}}, "16 bytes for each would take .* make d_model"),
        ({"batch_size": 128, **whole}, "scores of one forward pass .* make batch_size"),
        ({**whole, "model": {"size": "nano", "vocab_size": 20_000}}, "scores of one forward pass .* make vocab_size"),
        ({"model": {"size": "nano"}, "batch_size": 1024}, "inputs of all blocks .* make batch_size"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare(**changes)
