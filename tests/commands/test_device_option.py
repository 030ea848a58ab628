"""`--device`: every command that computes with models asks for it where it loads them, before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mplat.commands import main
from mplat.models import load
from mplat.steering import Part, Recipe

MODEL = ["--model", "tiny-mamba"]
COMMANDS = {
    "interp": [*MODEL, "--steps", "activations"],
    "interp --explain": [*MODEL, "--questions", "FILE", "--explain", "a"],
    "interp --sweep": [*MODEL, "--steps", "activations", "--sweep", "batch_size=2,4"],
    "compare": ["tiny-mamba", "tiny-hyena"],
    "eval": [*MODEL, "--per-level", "2"],
    "eval battery": [*MODEL, "--tasks", "levels", "--per-task", "1"],
    "perplexity": ["FILE", *MODEL],
    "refine": ["FILE", "--reference", "tiny-mamba", "--teacher", "tiny-mamba2"],
    "steer apply": ["RECIPE", *MODEL, "--prompt", "a"],
    "steer discover": [*MODEL, "--per-level", "2"],
    "steer vectors": ["facts", *MODEL, "--per-level", "2"],
    "trace": [*MODEL, "--prompt", "Rome is in the south", "--subject", "Rome"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    texts = folder / "texts.jsonl"
    texts.write_text('{"id": "a", "text": "Rome is in", "prompt": "Rome is in", "answers": ["Rome"]}\n')
    recipe = Recipe((Part("scale_channels", "mixer_out", (0, 1), 0.0),), load("tiny-mamba").digest)
    return {"FILE": str(texts), "RECIPE": str(recipe.save(folder / "recipe.json"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_gpu_that_is_not_there_is_one_sentence(
    name: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    command = [word for word in name.split() if not word.startswith("--")]
    words = [*command, *(files.get(word, word) for word in COMMANDS[name]), "--device", "cuda"]
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert "device 'cuda' cannot be used: " in err
