"""The examples of docs/planted-models.md run, and its new task is a planted model in every architecture."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mplat.models import load
from mplat.models.planted import ablated, find_planted, isolated, planted_names
from mplat.models.planted.task import TASKS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "planted-models.md"
*EXAMPLES, TASK = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.slow
def test_the_examples_print_what_stands_beside_them(tmp_path: Path) -> None:
    script = "\n".join(EXAMPLES)
    promised = re.findall(r"^\s*print\(.*\)  # (.*)$", script, re.M)
    assert len(promised) == len(re.findall(r"^\s*print\(", script, re.M)) > 7
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == promised


def test_the_page_names_every_task() -> None:
    said = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text("utf-8"), re.M))
    assert said == set(TASKS.names()) - {"colour"}


@torch.no_grad()
def test_the_new_task_answers_by_its_circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    file = tmp_path / "colour.py"
    file.write_text(TASK, "utf-8")
    spec = importlib.util.spec_from_file_location("mplat.models.planted.tasks.colour", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    names = [name for name in planted_names() if "colour" in name]
    assert len(names) == 3
    for name in names:
        planted, model = find_planted(name), load(name)
        prompts = planted.prompts(12)
        texts = [[planted.words.index(word) for word in prompt.words] for prompt in prompts]
        right = torch.tensor([planted.words.index(prompt.answer) for prompt in prompts])

        def share(*edits, model=model, texts=texts, right=right) -> float:
            with model.edit(*edits):
                return float((model(texts, last_only=True)[:, 0].argmax(-1) == right).double().mean())

        assert share() == share(*isolated(model, planted.truth.parts)) == 1.0
        assert share(*ablated(model, planted.truth.of("value"))) == planted.chance
    find_planted.cache_clear()
