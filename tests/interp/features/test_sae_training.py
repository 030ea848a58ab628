"""Planted sparse features are found by every kind of autoencoder, latents that died come back, and what is trained is
what is used: scales are folded exactly, norms are kept, and the same bits come out after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mplat.core.errors import InputError
from mplat.interp.engine.fitting import Minibatch, Schedule, fit
from mplat.interp.methods.sae.examples import Held
from mplat.interp.methods.sae.kinds import SAE_KINDS, Options
from mplat.interp.methods.sae.kinds.batch_topk import batch_largest
from mplat.interp.methods.sae.kinds.jumprelu import jumped, step
from mplat.interp.methods.sae.kinds.topk import largest
from mplat.interp.methods.sae.measures import mean_max_cosine, measure
from mplat.interp.methods.sae.training import Trained, Training, finished, inputs_of, train
from planted_features import planted_features

KINDS = tuple(SAE_KINDS.names())  # a new kind is tried by being there
PLANTED = planted_features()
UNEVEN = planted_features(even=False)  # the first features are the most frequent: what prefixes are for
SHORT = Schedule(12, 64, 5e-3, warm_up=3, decay=4, checkpoint_every=4)


def trained(kind: str, steps: int = 400, *, seed: int = 0, silent_for: int = 2000) -> Trained:
    x = (UNEVEN if kind == "matryoshka" else PLANTED).x
    options = Options(24, k=2, nested=(0.5, 1.0))
    schedule = Schedule(steps, 256, 8e-3, warm_up=steps // 20, decay=steps // 3)
    return train(SAE_KINDS.get(kind), Held(x), options, schedule, seed=seed, silent_for=silent_for)


def test_the_kinds_are_those_of_the_field() -> None:
    assert {"batch_topk", "jumprelu", "matryoshka", "relu", "topk"} <= set(KINDS)
    assert all(SAE_KINDS.get(kind).name == kind for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_features_are_recovered_by_every_kind(kind: str) -> None:
    planted = UNEVEN if kind == "matryoshka" else PLANTED
    dictionary = trained(kind).dictionary
    assert mean_max_cosine(planted.directions, dictionary.W_dec) > 0.95
    assert mean_max_cosine(planted.directions, torch.randn(24, 16, generator=torch.Generator().manual_seed(1))) < 0.7
    found = measure(dictionary, Held(planted.x))
    assert found.explained_variance > 0.8 and found.dead_share == 0
    if kind == "topk":
        assert found.l0 <= 2
    elif kind != "relu":
        assert found.l0 == pytest.approx(2, abs=0.25)
    norms = dictionary.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(24), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_the_inputs_scale_changes_nothing(kind: str) -> None:
    """Latents and reconstructions of raw activations are those of the normalised ones, rescaled."""
    x = 7.0 * PLANTED.x[:512] + 3.0
    kind_of = SAE_KINDS.get(kind)
    training = Training(kind_of, Options(24, k=2), Held(x), inputs_of(Held(x)))
    parameters = training.start(0)
    parameters["b_enc"] = torch.linspace(-0.5, 0.5, 24)
    parameters["b_dec"] = torch.linspace(-1, 1, 16)
    normalised = training.batch(torch.arange(512))
    torch.testing.assert_close(normalised.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    assert float((normalised**2).mean()) == pytest.approx(1.0, rel=1e-5)
    dictionary, scale = finished(training, parameters), training.inputs.scale
    z = (normalised - parameters["b_dec"]) @ parameters["W_enc"] + parameters["b_enc"]
    codes = kind_of.codes(z, parameters, training.options)
    torch.testing.assert_close(dictionary.latents(x) * scale, codes, rtol=1e-4, atol=1e-4)
    back = (codes @ parameters["W_dec"] + parameters["b_dec"]) / scale + training.inputs.mean
    torch.testing.assert_close(dictionary.decoded(dictionary.latents(x)), back, rtol=1e-4, atol=1e-4)


def test_latents_compete_for_k_a_row_or_k_a_row_on_average() -> None:
    z = torch.tensor([[3.0, 1.0, -1.0], [0.5, 0.25, 2.0]])
    assert largest(z, 1).tolist() == [[3, 0, 0], [0, 0, 2]]
    assert batch_largest(z, 1).tolist() == [[3, 0, 0], [0, 0, 2]]
    assert batch_largest(torch.tensor([[3.0, 1.0], [0.5, -0.25]]), 1).tolist() == [[3, 1], [0, 0]]
    assert batch_largest(-torch.ones(2, 3), 2).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_slopes_of_a_jump_are_those_of_its_average_over_the_band() -> None:
    """Rajamanoharan et al. 2024, equations 11 and 12, by hand: in the band, outside of it, to both arguments."""
    z = torch.tensor([[1.2, 0.9, 3.0, -1.0]], requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
    value = jumped(z, threshold, 0.5)
    assert value.tolist() == [[pytest.approx(1.2), 0.0, 3.0, 0.0]]
    of_z, of_threshold = torch.autograd.grad(value.sum(), (z, threshold))
    assert of_z.tolist() == [[1, 0, 1, 0]] and of_threshold.tolist() == [-2, -2, 0, 0]  # -(theta / bandwidth)
    active = step(z, threshold, 0.5)
    of_z, of_threshold = torch.autograd.grad(active.sum(), (z, threshold))
    assert active.tolist() == [[1, 0, 1, 0]] and of_z.tolist() == [[2, 2, 0, 0]]
    assert of_threshold.tolist() == [-2, -2, 0, 0]


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_a_latent_that_died_comes_back(kind: str) -> None:
    """One is started far below its threshold: nothing but the auxiliary loss reaches it."""

    def alive(silent_for: int) -> bool:
        training = Training(
            SAE_KINDS.get(kind), Options(24, k=2), Held(PLANTED.x), inputs_of(Held(PLANTED.x)), silent_for
        )
        start = training.start(0)
        start["b_enc"][5] = -8.0
        found = fit("sae", start, training.loss, examples=len(PLANTED.x), schedule=Schedule(300, 256, 3e-2), seed=0,
                    after=training.after)  # fmt: skip
        return bool((finished(training, found.parameters).latents(PLANTED.x)[:, 5] > 0).any())

    assert alive(silent_for=1000) and not alive(silent_for=10**9)


def test_a_trained_autoencoder_does_not_depend_on_being_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options, loss = SAE_KINDS.get("batch_topk"), Options(24, k=2), Training.loss

    def stops(self: Training, parameters: Mapping[str, torch.Tensor], batch: Minibatch) -> torch.Tensor:
        if batch.step == 9:
            raise KeyboardInterrupt
        return loss(self, parameters, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "loss", stops)
        train(kind, Held(PLANTED.x), options, SHORT, seed=0, silent_for=100, folder=tmp_path)
    seen: list[int] = []

    def counted(self: Training, parameters: Mapping[str, torch.Tensor], batch: Minibatch) -> torch.Tensor:
        seen.append(batch.step)
        return loss(self, parameters, batch)

    monkeypatch.setattr(Training, "loss", counted)
    resumed, whole = (
        train(kind, Held(PLANTED.x), options, SHORT, seed=0, silent_for=100, folder=folder)
        for folder in (tmp_path, None)
    )
    assert seen == [*range(8, 12), *range(12)]  # from the last checkpoint on
    assert resumed.losses == whole.losses
    for name, tensor in whole.dictionary.tensors().items():
        assert torch.equal(tensor, resumed.dictionary.tensors()[name]), name
    other = train(kind, Held(PLANTED.x), options, SHORT, seed=1, silent_for=100)
    assert not torch.equal(other.dictionary.W_dec, whole.dictionary.W_dec)


def test_activations_that_are_all_the_same_teach_nothing() -> None:
    with pytest.raises(InputError, match="5 activations that are all the same"):
        train(SAE_KINDS.get("relu"), Held(torch.ones(5, 4)), Options(8), SHORT, seed=0)
