"""A process keeps the models that it works with, and not all that it ever had."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from interp_jobs import reader
from mplat.core.errors import UsageError
from mplat.eval import answers, baselines, finding, side_effects
from mplat.interp.engine import work
from mplat.models import lending
from mplat.perplexity import perplexity_worker
from mplat.refine import refine_worker


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


WORKERS = [
    (answers, {"conditions": [], "max_new_tokens": 1, "stop": []}),
    (baselines, {"taught": {"examples": [], "development": []}}),
    (finding, {"plan": None, "asked": []}),
    (side_effects, {"conditions": [], "separators": []}),
    (perplexity_worker, {"method": "carried", "window": 1}),
    (refine_worker, {}),
]


@pytest.mark.parametrize(("module", "arguments"), WORKERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_worker_opens_its_model_as_the_driver_says(module, arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same kind of device too, whichever GPU of it the driver has."""

    class Opened(Exception):
        pass

    def open_model(*given):
        raise Opened(given)

    monkeypatch.setattr(module, "open_model", open_model)
    model = reader()
    wanted = lending.opens(model) | {"device": "cuda"}
    with pytest.raises(Opened) as caught:
        module.make_worker(**wanted, **arguments)
    assert caught.value.args[0] == (model.name, model.digest, "cuda", "float32", None)
    assert lending.opens(model)["device"] == "cpu"


def test_a_batch_worker_opens_its_model_on_the_kind_of_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(work, "open_model", lambda *given: opened.append(given))
    work.build_worker(f"{__name__}:reader", {}, "m", "d", "cuda", "float64", "t")
    assert opened == [("m", "d", "cuda", "float64", "t")]


def test_a_lent_model_is_used_on_whichever_card_it_is_and_not_for_another_kind_of_device() -> None:
    model = SimpleNamespace(digest="d", device=torch.device("cuda:1"))
    with lending.lent(model):  # type: ignore[arg-type]
        assert lending.open_model("nowhere", "d", "cuda") is lending.open_model("nowhere", "d") is model
        with pytest.raises(UsageError):
            lending.open_model("nowhere", "d", "cpu")
