"""Scaling a subspace and editing features of a dictionary, against their formulas written out in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Edit, Features, LanguageModel, ProjectOut, ScaleSubspace, load_edits, save_edits
from torch import Tensor

SITE, D = "blocks.1.mixer_out", 24


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(model: LanguageModel, text: Tensor, site: str, *edits: Edit) -> Tensor:
    with torch.no_grad(), model.edit(*edits), model.capture(site) as acts:
        model(text)
    return acts[site]


@pytest.mark.parametrize("factor", [0.0, -1.5, 3.0])
def test_a_subspace_is_scaled_and_its_complement_is_kept(factor: float) -> None:
    model, text = nano("mamba2"), tokens(2, 7)
    x = seen(model, text, SITE)
    basis = drawn(3, D) * torch.tensor([1e-6, 1.0, 1e5], dtype=torch.float64)[:, None]
    projector = torch.linalg.pinv(basis) @ basis
    found = seen(model, text, SITE, ScaleSubspace(SITE, basis, factor))
    torch.testing.assert_close(found, x + (factor - 1) * x @ projector.T, rtol=0, atol=1e-10)
    one = basis[:1]
    removed = seen(model, text, SITE, ProjectOut(SITE, one[0]))
    torch.testing.assert_close(seen(model, text, SITE, ScaleSubspace(SITE, one[0], 0.0)), removed, rtol=0, atol=1e-12)


def test_a_subspace_of_chosen_channels_and_of_a_state() -> None:
    model, text = nano("mamba2"), tokens(2, 7)
    channels, basis = [3, 1, 9], drawn(2, 3)
    x = seen(model, text, SITE)
    expected = x.clone()
    part = x[:, 2][:, channels]
    expected[:, 2, channels] = part - part @ (torch.linalg.pinv(basis) @ basis).T
    found = seen(model, text, SITE, ScaleSubspace(SITE, basis, 0.0, channels=channels, positions=[2]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    h = seen(model, text, "blocks.0.mixer.h@3")
    basis = drawn(2, *h.shape[2:])
    flat = basis.flatten(1)
    expected = h + h.flatten(2).matmul((torch.linalg.pinv(flat) @ flat).T).view_as(h)
    edit = ScaleSubspace("blocks.0.mixer.h", basis, 2.0, positions=[3])
    torch.testing.assert_close(seen(model, text, "blocks.0.mixer.h@3", edit), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_features_are_scaled_and_set_by_their_formula(threshold: float | None) -> None:
    model, text = nano("mamba"), tokens(2, 7)
    x = seen(model, text, SITE)
    E, b, W, centre = drawn(4, D, seed=1), drawn(4, seed=2), drawn(4, D, seed=3), 0.1 * drawn(D, seed=4)
    made = {"centre": centre}
    if threshold is not None:
        made |= {"threshold": torch.full((4,), threshold), "activation": "jumprelu"}
    expected = torch.zeros_like(x)
    for of, (factor, value) in {"scale": (2.5, None), "set": (None, drawn(4, seed=5).abs())}.items():
        for row in range(2):
            for t in range(7):
                z = E @ (x[row, t] - centre) + b
                f = z.clamp(min=0) if threshold is None else z * (z > threshold)
                change = (factor - 1) * f if of == "scale" else value - f
                expected[row, t] = x[row, t] + change @ W
        options = {"factor": factor} if of == "scale" else {"value": value}
        found = seen(model, text, SITE, Features(SITE, E, b, W, **made, **options))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_the_identity_keeps_every_bit(arch: str, dtype: torch.dtype) -> None:
    model, text = nano(arch).to(dtype), tokens(2, 7)
    plain = model(text)
    E = drawn(4, D)
    for edit in (ScaleSubspace(SITE, E, 1.0), Features(SITE, E, torch.ones(4), E), Features(SITE, E, 0.0, E, factor=1)):
        with model.edit(edit):
            assert torch.equal(model(text), plain)
    with model.edit(ScaleSubspace(SITE, E, 1.5, positions=[4])):
        changed = model(text)
    assert torch.equal(changed[:, :4], plain[:, :4]) and not torch.equal(changed[:, 4], plain[:, 4])


def test_what_is_refused() -> None:
    E = drawn(4, D)
    for make, text in [
        (lambda: ScaleSubspace(SITE, torch.stack([E[0], 2 * E[0]]), 2.0), "linearly dependent"),
        (lambda: ScaleSubspace(SITE, torch.zeros(1, D), 2.0), "linearly dependent"),
        (lambda: ScaleSubspace(SITE, drawn(5, 3), 2.0), "linearly dependent"),
        (lambda: ScaleSubspace(SITE, E, float("nan")), "finite"),
        (lambda: ScaleSubspace(SITE, E * float("nan"), 2.0), "not finite"),
        (lambda: Features(SITE, E, 0.0, E[:3]), "not of one shape"),
        (lambda: Features(SITE, E, torch.zeros(3), E), "should be"),
        (lambda: Features(SITE, E, 0.0, E, centre=torch.zeros(3)), "should be"),
        (lambda: Features(SITE, E, 0.0, E, factor=2.0, value=1.0), "not both"),
        (lambda: Features(SITE, E, 0.0, E, activation="jumprelu"), "threshold"),
        (lambda: Features(SITE, E, 0.0, E, threshold=1.0), "threshold"),
        (lambda: Features(SITE, E, 0.0, E, activation="rely"), "relu"),
    ]:
        with pytest.raises(UsageError, match=text):
            make()
    model = nano("mamba")
    for edit in (ScaleSubspace(SITE, drawn(2, 23), 2.0), Features(SITE, drawn(2, 23), 0.0, drawn(2, 23), factor=2.0)):
        with pytest.raises(UsageError, match="width of 23"), model.edit(edit):
            model(tokens(1, 3))


@torch.no_grad()
def test_they_are_stored_and_share_beginnings(tmp_path: Path) -> None:
    model, text = nano("mamba"), tokens(2, 7)
    E = drawn(4, D)
    edits = [
        ScaleSubspace(SITE, E[:2], 0.3, channels=None, positions=[1, -1]),
        Features(SITE, E, 0.1, E, threshold=torch.full((4,), 0.2), activation="jumprelu", value=2.0),
    ]
    save_edits(tmp_path, edits)
    with model.edit(*edits):
        expected = model(text)
    with model.edit(*load_edits(tmp_path)):
        assert torch.equal(model(text), expected)
    assert not any(edit.of_rows for edit in edits)
