"""Weights that are not those that were written are one sentence wherever a digest of them is known."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from model_zoo import nano
from mplat.core.errors import InputError
from mplat.models import load
from mplat.models.files import catalog
from mplat.train import checkpoint
from train_runs import small_model


def flip(path: Path) -> None:
    """One bit of the last weight."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_an_exported_model_is_compared_with_the_record_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    nano("mamba").save(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    record = {"command": "train", "files": {"model/model.safetensors": digest}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    before = load(folder).digest
    flip(folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: is not the file that was written here.*run\.json says"):
        load(folder)
    for other in ("{", "[]", '{"command": "train"}', '{"command": "eval", "files": {"model/model.safetensors": "a"}}'):
        (tmp_path / "run.json").write_text(other)  # nothing is known of it
        assert load(folder).digest != before


def test_a_checkpoint_is_compared_with_its_manifest(tmp_path: Path) -> None:
    model = small_model()
    path = checkpoint.save(tmp_path / "checkpoints", model, torch.optim.AdamW(model.parameters()), {"step": 4})
    load(f"{tmp_path}@4")
    flip(path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: is not the file .*manifest\.json says"):
        load(f"{tmp_path}@4")


def test_a_shipped_model_is_what_was_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, folder = next(iter(catalog.shipped().items()))
    load(name)
    shutil.copytree(folder, tmp_path / name)
    monkeypatch.setattr(catalog, "shipped", lambda: {name: tmp_path / name})
    flip(tmp_path / name / "model.safetensors")
    with pytest.raises(InputError, match=f"{name}: is not what was shipped.*reinstall"):
        load(name)
    load(tmp_path / name)  # a folder of one's own
