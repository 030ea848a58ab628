"""`--dry-run` says time and memory, and how they were estimated."""

from __future__ import annotations

import json

import torch
from mplat.commands import main
from mplat.models import load
from mplat.models.probe import training_row


def test_an_evaluation_says_its_cost_from_a_batch(capsys, tmp_path):
    words = ["eval", "--model", "tiny-mamba", "--per-level", "2", "--max-new-tokens", "2", "--steering", "none"]
    assert main([*words, "--dry-run", "--json", "--out", str(tmp_path / "no")]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["seconds"] > 0 and cost["memory_bytes"] > 2**20 and "one batch of 12 prompts" in cost["how"]
    assert not (tmp_path / "no").exists()


def test_a_training_says_its_cost_from_a_row(capsys, tmp_path):
    words = ["train", "--arch", "mamba2", "--size", "nano", "--set", "batch_size=2", "--set", "sequence_length=32"]
    assert main([*words, "--set", "steps=7", "--dry-run", "--out", str(tmp_path / "no")]) == 0
    out = capsys.readouterr().out
    assert "time: about " in out and "estimated: one row of 32 tokens took" in out and "times 14 rows" in out


def test_what_is_kept_for_the_way_back_grows_with_the_row():
    model = load("tiny-mamba")
    short, long = (training_row(model, n)[1] for n in (16, 64))
    assert 2 * short < long <= 4.5 * short and all(p.grad is None for p in model.parameters())
    assert long >= 64 * model.config.vocab_size * torch.finfo(torch.float32).bits // 8  # the logits, at the least
