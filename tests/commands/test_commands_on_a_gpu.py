"""Commands with `--device cuda` on a pretended GPU: their files are those of the CPU by the same kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_stages import content, inputs, words
from mplat.commands import main
from mplat.models.kernels import backend
from pretended_gpu import OnGpu, pretended_gpu

# Beside results, what a device has of its own: states of its generator, and parts named by what computed them.
OWN = ("optimizer.safetensors", "trainer.json", "manifest.json", "config.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of the texts that others are given."""
    place = inputs(tmp_path_factory.mktemp("inputs"))
    texts = place / "texts.jsonl"
    texts.write_text("".join(texts.read_text().splitlines(keepends=True)[:40]))
    return place


def command(stage: str, place: Path, out: Path, device: str) -> list[str]:
    given = ["--set", f"device={device}"] if stage == "train" else ["--device", device, "--address", "none"]
    return [word.replace("=400", "=20") for word in words(stage, place, out)] + given + ["--quiet"]


def results(folder: Path) -> dict[str, Any]:
    """Files by name; of JSON files what they hold, but for the device."""
    kept = {name: data for name, data in content(folder).items() if Path(name).name not in OWN and "part-" not in name}
    return {name: without_device(json.loads(data)) if name.endswith(".json") else data for name, data in kept.items()}


def without_device(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_device(part) for key, part in value.items() if key not in ("device", "key", "digest")}
    return value


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "perplexity", "refine", "trace"])
def test_a_command_makes_on_a_gpu_the_files_that_it_makes_on_the_cpu(
    stage: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend.PREFERENCE, "cpu", ("torch",))
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(command(stage, place, here, "cpu")) == 0
    with pretended_gpu(monkeypatch):
        before = OnGpu.made
        assert main(command(stage, place, there, "cuda")) == 0
        assert OnGpu.made - before > 1000, "all of it was computed elsewhere"
    expected = results(here)
    assert results(there) == expected and expected
