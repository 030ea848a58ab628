"""Operators on what a layer remembers do what their formulas say, where the part says."""

from __future__ import annotations

import pytest
import torch
from model_zoo import nano, tokens
from mplat import load
from mplat.core.errors import InputError, UsageError
from mplat.models import Add, Interpolate, LanguageModel, Replace, Scale
from mplat.steering import Part, states_of
from torch import Tensor

LAYER = 1


def steered(model: LanguageModel, text: Tensor, *edits: object) -> Tensor:
    with torch.no_grad(), model.edit(*edits):  # type: ignore[arg-type]
        return model(text)


def drawn(model: LanguageModel, site: str) -> Tensor:
    shape = next(s.axes for s in model.sites() if s.name == f"blocks.{LAYER}.{site}")
    return torch.randn(*(int(n) for n in shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "stable_mamba", "dense_mamba"])
def test_writes_are_scaled_deleted_and_moved_towards_an_atom(arch: str) -> None:
    model, text = nano(arch), tokens(2, 7)
    site = f"blocks.{LAYER}.mixer.write"
    atom = drawn(model, "mixer.write")
    for part, edit in [
        (Part("edit_write", "", (LAYER,), 0.0), Scale(site, 0.0)),
        (Part("edit_write", "", (LAYER,), -2.0, channels=(1, 4)), Scale(site, -2.0, channels=[1, 4])),
        (Part("edit_write", "", (LAYER,), 1.0, "share", tensors={"atom": atom}), Replace(site, atom)),
        (Part("edit_write", "", (LAYER,), 0.25, "share", tensors={"atom": atom}), Interpolate(site, atom, 0.25)),
    ]:
        found = steered(model, text, *part.edits(model))
        torch.testing.assert_close(found, steered(model, text, edit), rtol=0, atol=1e-12)
        assert not torch.allclose(found, model(text))
    for strength, unit, tensors in ((1.0, "share", {}), (0.0, "factor", {"atom": atom})):
        with pytest.raises(InputError, match="atom"):
            Part("edit_write", "", (LAYER,), strength, unit, tensors=tensors).check(model)


@pytest.mark.parametrize("site", ["mixer.h", "mixer.h_post", "mixer.conv_state", "mixer.h_init", "mixer.conv_init"])
def test_states_are_added_to_scaled_and_blended(site: str) -> None:
    model, text = nano("mamba2"), tokens(2, 7)
    full, vector = f"blocks.{LAYER}.{site}", drawn(model, site)
    size = vector.square().mean().sqrt()
    cases = [
        (Part("add_state", site, (LAYER,), 2.0, tensors={"vector": vector}), Add(full, 2.0 * vector)),
        (
            Part("add_state", site, (LAYER,), 2.0, "rms", tensors={"vector": vector}, scales=(0.5,)),
            Add(full, vector / size),
        ),
        (Part("blend_state", site, (LAYER,), 0.5, tensors={"state": vector}), Interpolate(full, vector, 0.5)),
    ]
    if not site.endswith("_init"):
        gains = torch.tensor([2.0, 0.0])
        expected = Scale(full, torch.tensor([1.5, 0.5])[:, None], channels=[0, 3])
        cases.append((Part("scale_state", site, (LAYER,), 0.5, "share", (0, 3), {"gains": gains}), expected))
    for part, edit in cases:
        part.check(model)
        found = steered(model, text, *part.edits(model))
        torch.testing.assert_close(found, steered(model, text, edit), rtol=0, atol=1e-12)
        assert not torch.allclose(found, model(text))
    with pytest.raises(InputError, match="zero everywhere"):
        Part("add_state", site, (LAYER,), 1.0, tensors={"vector": 0 * vector}).check(model)


def test_an_architecture_without_a_state_is_refused_with_what_fits() -> None:
    with pytest.raises(InputError, match="operators that fit it"):
        Part("edit_write", "", (0,), 0.0).check(nano("hyena"))


def test_blending_wholly_after_the_last_token_is_the_other_prompts_state() -> None:
    """With h and window of all layers replaced, what follows is what follows the other prompt."""
    model = load("tiny-mamba2").double()
    first, other = " Zakdor lives in Nornik.", " Sisgat lives in Karfen. It is"
    parts = states_of(model, [other], positions="all")
    assert {(p.layers, p.site) for p in parts} == {((i,), s) for i in range(4) for s in ("mixer.h", "mixer.conv_state")}
    onward = torch.tensor([model.tokenizer(" the town").input_ids])  # type: ignore[misc]
    with torch.no_grad():
        _, state = model([first], return_state=True)
        _, wanted = model([other], return_state=True)
        last = len(model.tokenizer(first).input_ids) - 1  # type: ignore[misc]
        edits = [Interpolate(p.full_sites()[0], p.tensors["state"], 1.0, positions=[last]) for p in parts]
        with model.edit(*edits):
            _, blended = model([first], return_state=True)
        torch.testing.assert_close(model(onward, state=blended), model(onward, state=wanted), rtol=0, atol=1e-10)
        assert not torch.allclose(model(onward, state=state), model(onward, state=wanted))


def test_states_of_several_prompts_are_averaged_and_wrong_asks_refused() -> None:
    model = load("tiny-mamba")
    one, two = " Zakdor lives in Nornik.", " Sisgat lives in Karfen."
    (a,), (b,), (both,) = (states_of(model, p, layers=[2], sites=["mixer.h"]) for p in ([one], [two], [one, two]))
    torch.testing.assert_close(both.tensors["state"], (a.tensors["state"] + b.tensors["state"]) / 2)
    assert both.positions == "last"
    for options, text in [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [one], "sites": ["mixer.delta"]}, "holds no state"),
        ({"prompts": [one], "sites": ["mixer.stable.h"]}, "has none of"),
    ]:
        with pytest.raises(UsageError, match=text):
            states_of(model, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="layer 1"):
        states_of(load("tiny-moe-mamba"), [one], layers=[0, 1])
