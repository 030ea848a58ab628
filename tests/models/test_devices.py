"""What a model's device decides: what workers are told, what cached results are named by, which models are lent.

No GPU is needed: a model says that it is on one.
"""

from __future__ import annotations

import pytest
import torch
from interp_jobs import reader
from mplat.eval import answers, baselines, finding, side_effects
from mplat.interp.engine import work
from mplat.models import LanguageModel, lending
from mplat.models.provenance import backend, computation_key
from mplat.perplexity import perplexity_worker
from mplat.refine import refine_worker

MAKERS = [module.make_worker for module in (answers, baselines, finding, side_effects, perplexity_worker,
                                            refine_worker)]  # fmt: skip


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch):
    """`on_gpu(name)`: all models are on the second GPU, which has this name."""

    def put(name: str) -> None:
        monkeypatch.setattr(LanguageModel, "device", property(lambda self: torch.device("cuda:1")))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)

    return put


def test_what_is_cached_of_one_kind_of_device_is_never_that_of_another(on_gpu) -> None:
    model, keys = reader(), []
    keys.append(computation_key(model))
    assert keys[0]["backend"]["device"] == backend(model)["device"] == "cpu"
    for name in ("Card A", "Card B"):
        on_gpu(name)
        keys.append(computation_key(model))
        assert keys[-1]["backend"]["device"] == backend(model)["device"] == f"cuda {name}"
        different = [part for part in keys[-1] if keys[-1][part] != keys[0][part]]
        assert different == ["backend"], "nothing else tells them apart"
    assert keys[1] != keys[2]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__module__)
def test_workers_are_told_to_compute_on_the_gpu_that_they_were_given(
    make, on_gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def open_model(name: str, digest: str, device: str, *more: object) -> None:
        told.append(device)
        raise InterruptedError

    monkeypatch.setattr(f"{make.__module__}.open_model", open_model)
    on_gpu("Card A")
    opens = lending.opens(reader())
    names = make.__code__.co_varnames[: make.__code__.co_argcount]
    with pytest.raises(InterruptedError):
        make(**opens, **{name: {"examples": (), "development": ()} for name in names if name not in opens})
    assert told == ["cuda"], "its first visible one, whatever number the driver's has"


def test_the_steps_of_interp_tell_their_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(work, "open_model", lambda name, digest, device, *more: told.append(device))
    work.build_worker("math:sin", {}, "m", "d", "cuda", "float32")
    assert told == ["cuda"]
