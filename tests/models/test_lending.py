"""A process keeps the models that it works with, and not all that it ever had."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from interp_jobs import reader
from mplat.core.errors import UsageError
from mplat.models import lending


def test_the_last_two_that_were_loaded_stay_and_what_is_lent_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "_LENT", {})
    monkeypatch.setattr(lending, "_LOADED", {})
    models = [reader(seed=seed) for seed in range(3)]
    names = [str(model.save(tmp_path / str(number))) for number, model in enumerate(models)]
    loaded = [lending.open_model(name, model.digest) for name, model in zip(names, models, strict=True)]
    assert lending.open_model(names[1], models[1].digest) is loaded[1]
    assert lending.open_model(names[2], models[2].digest) is loaded[2]
    again = lending.open_model(names[0], models[0].digest)
    assert again is not loaded[0] and again.digest == loaded[0].digest
    assert list(lending._LENT) == [models[2].digest, models[0].digest]
    with lending.lent(models[1]):
        assert lending.open_model(names[1], models[1].digest) is models[1]


def test_a_lent_model_is_used_on_whichever_card_it_is_and_not_for_another_kind_of_device() -> None:
    model = SimpleNamespace(digest="d", device=torch.device("cuda:1"))
    with lending.lent(model):  # type: ignore[arg-type]
        assert lending.open_model("nowhere", "d", "cuda") is lending.open_model("nowhere", "d") is model
        with pytest.raises(UsageError):
            lending.open_model("nowhere", "d", "cpu")
