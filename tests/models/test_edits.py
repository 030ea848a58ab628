"""Edits do exactly what they say at every site, compose in order, undo themselves, and can be stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import (
    Add,
    Clamp,
    Edit,
    Interpolate,
    LanguageModel,
    ProjectOut,
    Replace,
    Scale,
    load_edits,
    save_edits,
)  # fmt: skip
from torch import Tensor

STATE = ("mixer.write", "mixer.h", "mixer.h_post", "mixer.conv_state")


@pytest.fixture(params=STATE_SPACE)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


def names(model: LanguageModel) -> list[str]:
    return [s.name for s in model.sites() if not s.name.startswith("blocks.0.") and not s.constant]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_identity_edits_are_bit_identical_at_every_site(model: LanguageModel, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    text = tokens(2, 9)
    plain = model(text)
    for name in names(model):
        width = next(s.shape[2] for s in model.sites() if s.name == name)
        for edit in (
            Scale(name, 1.0),
            Add(name, 0.0, positions=[2, -1]),
            Interpolate(name, 3.0, weight=0.0, channels=[0, int(width) - 1]),
        ):
            with model.edit(edit):
                assert torch.equal(model(text), plain), edit


@torch.no_grad()
def test_every_site_can_be_read_and_an_edit_there_is_felt(model: LanguageModel) -> None:
    text = tokens(2, 9)
    plain = model(text)
    with model.capture(*(s.name for s in model.sites())) as acts:
        assert torch.equal(model(text), plain)
    for site in (s for s in model.sites() if not s.constant):
        value = acts[site.name]
        assert tuple(value.shape) == (2, 9, *site.shape[2:])
        assert str(value.dtype) == f"torch.{site.dtype}"
        with model.edit(Scale(site.name, 1.5, positions=[3])), model.capture(site.name) as edited:
            changed = model(text)
        assert not torch.equal(changed, plain), site.name
        assert torch.equal(changed[:, :3], plain[:, :3]), site.name
        expected = value.clone()
        expected[:, 3] *= 1.5
        if not site.name.endswith(STATE):  # for states, later values follow from the edited one
            torch.testing.assert_close(edited[site.name], expected, rtol=0, atol=0)


@torch.no_grad()
def test_each_kind_of_edit_by_its_formula(model: LanguageModel) -> None:
    text, site = tokens(3, 7), "blocks.1.mixer_out"
    with model.capture(site) as acts:
        model(text)
    x = acts[site]
    d = x.shape[-1]
    direction, mean = torch.randn(d, dtype=x.dtype), torch.randn(d, dtype=x.dtype)
    unit = direction / direction.norm()
    cases: list[tuple[Edit, Tensor]] = [
        (Scale(site, 5.0), 5.0 * x),
        (Scale(site, mean), mean * x),
        (Add(site, mean), x + mean),
        (Clamp(site, -0.1, 0.2), x.clamp(-0.1, 0.2)),
        (Replace(site, 0.25), torch.full_like(x, 0.25)),
        (ProjectOut(site, direction), x - (x @ unit)[..., None] * unit),
        (Interpolate(site, mean, 0.3), x + 0.3 * (mean - x)),
    ]
    for edit, expected in cases:
        with model.edit(edit), model.capture(site) as seen:
            model(text)
        torch.testing.assert_close(seen[site], expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_channels_and_positions_touch_nothing_else(model: LanguageModel) -> None:
    text, site = tokens(2, 8), "blocks.0.mixer.x"
    with model.capture(site) as acts:
        model(text)
    expected = acts[site].clone()
    for t in (2, 7):
        for c in (1, 5):
            expected[:, t, c] = -3.0
    for edit in (
        Replace(site, -3.0, channels=[1, 5], positions=[2, -1]),
        Replace(f"{site}[1,5]@[2,-1]", -3.0),
        Replace(f"{site}@[2,7][1,5]", [[-3.0, -3.0], [-3.0, -3.0]]),
    ):
        with model.edit(edit), model.capture(site, f"{site}[1,5]@[2,-1]") as seen:
            model(text)
        assert torch.equal(seen[site], expected)
        assert torch.equal(seen[f"{site}[1,5]@[2,-1]"], torch.full((2, 2, 2), -3.0, dtype=torch.float64))


@torch.no_grad()
def test_edits_compose_in_order_and_are_undone(model: LanguageModel) -> None:
    text, site = tokens(1, 5), "blocks.0.mixer_out"
    plain = model(text)
    with model.edit(Scale(site, 2.0), Add(site, 1.0)):
        first = model(text)
        with model.edit(Scale(site, 3.0)):
            nested = model(text)
        assert torch.equal(model(text), first)
    with model.edit(Add(site, 1.0), Scale(site, 2.0)):
        assert not torch.allclose(model(text), first)
    with model.edit(Scale(site, 2.0), Add(site, 1.0), Scale(site, 3.0)):
        assert torch.equal(model(text), nested)
    with pytest.raises(RuntimeError, match="boom"), model.edit(Scale(site, 2.0)):
        raise RuntimeError("boom")
    assert torch.equal(model(text), plain)


@torch.no_grad()
def test_a_value_with_a_time_axis_is_laid_over_the_sequence(model: LanguageModel) -> None:
    """Also with padding and across chunks: entry t of the value belongs to token t."""
    text, site = tokens(2, 6), "blocks.1.resid_post"
    value = torch.randn(2, 6, model.config.d_model, dtype=torch.float64)
    with model.edit(Replace(site, value)):
        whole = model(text)
        first, state = model(text[:, :2], return_state=True)
        second = model(text[:, 2:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-11)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), text], 1)
    mask = torch.arange(9)[None].expand(2, -1) >= 3
    with model.capture(site) as acts:
        model(padded, mask)
    with model.edit(Replace(site, acts[site])), model.capture(site) as again:
        model(padded, mask)
    assert torch.equal(acts[site][mask], again[site][mask])


@torch.no_grad()
def test_phase_limits_where_an_edit_acts(model: LanguageModel) -> None:
    text, site = tokens(1, 4), "blocks.0.mixer_out"
    plain, state = model(text, return_state=True)
    next_token = tokens(1, 1, seed=2)
    onward = model(next_token, state=state)
    with model.edit(Scale(site, 4.0, phase="decode")):
        assert torch.equal(model(text), plain)
        assert not torch.equal(model(next_token, state=state), onward)
    with model.edit(Scale(site, 4.0, phase="prefill")):
        assert not torch.equal(model(text), plain)
        assert torch.equal(model(next_token, state=state), onward)


@torch.no_grad()
def test_an_edit_or_capture_that_never_fires_raises(model: LanguageModel) -> None:
    text = tokens(1, 4)
    with pytest.raises(UsageError, match="never fired"), model.edit(Scale("blocks.0.mixer_out", 2.0, positions=[9])):
        model(text)
    with pytest.raises(UsageError, match="never fired"), model.edit(Scale("blocks.0.mixer_out", 2.0, phase="decode")):
        model(text)
    with pytest.raises(UsageError, match="never fired"), model.edit(Scale("blocks.0.mixer_out", 2.0)):
        pass
    for spec in ("blocks.0.mixer.h@[7]", "blocks.0.mixer.delta@-5"):
        with pytest.raises(UsageError, match="never fired"), model.capture(spec):
            model(text)
    with pytest.raises(UsageError, match="too short"), model.capture("embed@3"):
        model(tokens(2, 4), torch.tensor([[True] * 4, [True, True, False, False]]))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("blocks.0.mixer.detla", "did you mean 'blocks.{i}.mixer.delta'"),
        ("blocks.7.mixer.delta", "layers 0 to 1"),
        ("blocks.0.mixer_out[24]", "channels 0 to 23"),
        ("router", "valid: .*embed"),
        ("embed@[1", "not of the form"),
        ("embed@[1]@[2]", "positions twice"),
        ("embed@x", "not of the form"),
        ("embed@[2:1]", "range"),
    ],
)
def test_wrong_sites_are_named_with_the_nearest_right_one(spec: str, text: str) -> None:
    model = nano("mamba")
    for use in (lambda: model.capture(spec), lambda: model.edit(Scale(spec, 2.0))):
        with pytest.raises(UsageError, match=text), use():
            pass


def test_wrong_values_are_refused_where_they_are_written() -> None:
    for make, text in [
        (lambda: Scale("embed", float("nan")), "not finite"),
        (lambda: Scale("embed", 1.0, phase="later"), "phase"),
        (lambda: Clamp("embed", 2.0, 1.0), "above"),
        (lambda: Clamp("embed"), "low, high"),
        (lambda: ProjectOut("embed", torch.zeros(4)), "zero vector"),
        (lambda: Scale("embed[1]", 1.0, channels=[2]), "both"),
        (lambda: Scale("embed", 1.0, positions=[]), "empty"),
        (lambda: Interpolate("embed", 0.0, float("inf")), "finite"),
    ]:
        with pytest.raises(UsageError, match=text):
            make()
    model = nano("mamba")
    with pytest.raises(UsageError, match="does not fit"), model.edit(Add("embed", torch.ones(23))):
        model(tokens(1, 3))
    with pytest.raises(UsageError, match="takes edits"), model.edit("embed"):  # type: ignore[arg-type]
        pass


@torch.no_grad()
def test_stored_edits_act_as_before(model: LanguageModel, tmp_path: Path) -> None:
    d = model.config.d_model
    edits = [
        Scale("blocks.0.mixer_out", 0.1, channels=[1, 2], phase="prefill"),
        Add("blocks.*.mixer.delta", torch.rand(1, dtype=torch.float64), positions=[0, -1]),
        ProjectOut("blocks.1.resid_post", torch.randn(d, dtype=torch.float64)),
        Clamp("final_norm", low=-1.0),
        Interpolate("embed", torch.randn(d), 0.25),
        Replace("blocks.1.mixer.gate", 0.5, positions=[2]),
    ]
    save_edits(tmp_path, edits)
    text = tokens(2, 6)
    with model.edit(*edits):
        expected = model(text)
    with model.edit(*load_edits(tmp_path)):
        assert torch.equal(model(text), expected)
    content = json.loads((tmp_path / "edits.json").read_text())
    content["edits"][0]["kind"] = "scal"
    (tmp_path / "edits.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="did you mean 'scale'"):
        load_edits(tmp_path)
    (tmp_path / "edits.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_edits(tmp_path)
    with pytest.raises(InputError, match="missing"):
        load_edits(tmp_path / "nowhere")
