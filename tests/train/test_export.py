"""What an exported folder says to programs that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_zoo import nano
from mplat.datasets.tokens.tokenizer import SHIPPED
from mplat.models import load
from mplat.train.export import export
from transformers import AutoTokenizer


@pytest.mark.parametrize(("arch", "own", "length"), [("hyena", {"max_length": 96}, 96), ("mamba", {}, 2048)])
def test_the_tokenizer_says_how_far_the_model_sees(arch: str, own: dict, length: int, tmp_path: Path) -> None:
    model = nano(arch, vocab_size=1024, dtype=torch.float32, **own)
    digest = export(model, "float32", SHIPPED, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == length
    found = load(tmp_path / "model")
    assert found.digest == digest and found.tokenizer is not None
    assert found.tokenizer("a b")["input_ids"] == AutoTokenizer.from_pretrained(SHIPPED)("a b")["input_ids"]


def test_a_tokenizer_that_says_it_keeps_its_word(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for file in SHIPPED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 128}))
    export(nano("mamba", vocab_size=1024, dtype=torch.float32), "float32", folder, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == 128
