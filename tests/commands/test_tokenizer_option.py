"""`--tokenizer`: every command that asks a model in words can be told where its tokenizer is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.commands import main
from mplat.core.errors import UsageError
from mplat.models import ModelConfig, build, load
from mplat.models.lending import loadable, open_model

PROMPT = "Bekdok lives in Kanbak."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as state-spaces publishes them, without a tokenizer, and documents to read."""
    folder = tmp_path_factory.mktemp("no-tokenizer")
    config = ModelConfig("mamba2", vocab_size=1100, d_model=16, n_layers=2, state_size=4, head_dim=8)
    build(config).save(folder / "model", layout="original")
    (folder / "pile.jsonl").write_text(json.dumps({"text": PROMPT, "meta": {"pile_set_name": "FreeLaw"}}) + "\n")
    return folder


def commands(place: Path) -> dict[str, list[str]]:
    model = ["--model", str(place / "model"), "--address", "none", "--json"]
    return {
        "perplexity": ["perplexity", str(place / "pile.jsonl"), *model, "--set", "resamples=200"],
        "trace": ["trace", *model, "--prompt", PROMPT, "--subject", "Bekdok", "--samples", "2", "--dry-run"],
        "interp": ["interp", *model, "--steps", "activations", "--per-level", "1", "--dry-run"],
        "eval": ["eval", *model, "--per-level", "4", "--dry-run"],
    }


@pytest.mark.parametrize("command", ["perplexity", "trace", "interp", "eval"])
def test_a_model_without_a_tokenizer_is_given_one(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*commands(place)[command], "--out", str(tmp_path / "out")]
    assert main(words) == 3
    assert "--tokenizer" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main([*words, "--tokenizer", "tiny-mamba2"]) == 0, capsys.readouterr()
    assert main([*words, "--tokenizer", str(tmp_path / "nothing")]) == 3
    assert "no tokenizer" in capsys.readouterr().out


def test_a_worker_loads_the_same_tokenizer(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    model = load("model", tokenizer="tiny-mamba2")
    words = loadable(model)
    assert words == {"model": str(place / "model"), "tokenizer": "tiny-mamba2"}
    monkeypatch.chdir(tmp_path)
    name, tokenizer = words["model"], words["tokenizer"]
    assert name is not None and open_model(name, model.digest, tokenizer=tokenizer).digest == model.digest
    with pytest.raises(UsageError, match="a worker loaded .* with digest"):
        open_model(name, "0" * 64)
