"""DenseMamba is Mamba where its gates are closed. Where they are open, its layers read the states that a plain loop
over the definition gives, edits of those states included, and hold no state for every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, LanguageModel, ModelConfig, ModelState, Replace, Scale, build
from mplat.models.access.edits import Edit
from mplat.models.families.dense_mamba import dense_mamba
from mplat.models.families.mamba import mamba
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

close = {"rtol": 0.0, "atol": 1e-12}
carried = {"rtol": 0.0, "atol": 1e-11}
FUSIONS = ("readout", "recurrent")
T = 11
#: (layer, step) -> what is done to the state there
StateEdits = dict[tuple[int, int], Callable[[Tensor], Tensor]]


def dense(fuse: str, *, n_layers: int = 4, **changes: object) -> LanguageModel:
    return nano("dense_mamba", n_layers=n_layers, dense_fuse=fuse, **changes)


@pytest.fixture(params=FUSIONS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return dense(request.param)


# -- closed gates: Mamba ----------------------------------------------------------------------------------------------


def twins(fuse: str, dtype: torch.dtype) -> tuple[LanguageModel, LanguageModel]:
    """A DenseMamba with closed gates and the Mamba with its other weights."""
    both = dense(fuse, state_size=16).to(dtype)
    plain = nano("mamba", n_layers=4, state_size=16, dtype=dtype)
    for name, parameter in both.named_parameters():
        if "dense_out" in name:
            parameter.data.zero_()
    plain.load_state_dict({k: v for k, v in both.state_dict().items() if "dense" not in k})
    return both, plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("fuse", FUSIONS)
@torch.no_grad()
def test_closed_gates_leave_every_bit_of_mamba(fuse: str, dtype: torch.dtype) -> None:
    both, plain = twins(fuse, dtype)
    text, mask, reset = tokens(3, 70), torch.ones(3, 70, dtype=torch.bool), torch.zeros(3, 70, dtype=torch.bool)
    mask[0, :9] = mask[1, 30:] = False
    reset[:, [20, 41]] = True
    for options in ({}, {"mask": mask}, {"reset": reset}):
        (a, state), (b, expected) = (m(text, **options, return_state=True) for m in (both, plain))
        assert torch.equal(a, b)
        for token in tokens(4, 3, seed=1)[..., None]:
            (a, state), (b, expected) = (
                m(token, state=s, return_state=True) for m, s in ((both, state), (plain, expected))
            )
            assert torch.equal(a, b)
        for found, wanted in zip(state.layers, expected.layers, strict=True):
            assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in found)


@torch.no_grad()
def test_a_new_model_has_closed_gates_and_an_edit_can_close_open_ones(model: LanguageModel) -> None:
    text, fresh = tokens(2, T), build(model.config, seed=3)
    with fresh.capture("blocks.*.mixer.dense_gate") as acts:
        fresh(text)
    assert len(acts) == 3 and not any(gate.any() for gate in acts.values())
    plain = nano("mamba", n_layers=4)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "dense" not in k})
    assert not torch.allclose(model(text), plain(text), atol=1e-3)
    with model.edit(Scale("blocks.*.mixer.dense_gate", 0.0)):
        assert torch.equal(model(text), plain(text))


@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_gates_cost_r_d_and_r_e_for_each_layer_below(m: int) -> None:
    config = {"vocab_size": 64, "d_model": 40, "n_layers": 4}
    extra = (
        build(ModelConfig("dense_mamba", **config, own={"dense_m": m})).n_parameters
        - build(ModelConfig("mamba", **config)).n_parameters
    )
    r, d, E = 3, 40, 80  # r = ceil(d / 16)
    assert extra == sum(r * d + r * E * min(m, layer) for layer in range(1, 4))
    chosen = ModelConfig("dense_mamba", **config, own={"dense_m": m, "dense_gate_rank": 7})
    mixer = build(chosen, device="meta").backbone.layers[3].mixer
    assert mixer.dense_in.weight.shape == (7, 40) and mixer.dense_out.weight.shape == (80 * min(m, 3), 7)


# -- open gates: a plain loop over the definition ---------------------------------------------------------------------


def materialised(
    model: LanguageModel,
    text: Tensor,
    edits: tuple[Edit, ...] = (),
    h: StateEdits | None = None,
    h_post: StateEdits | None = None,
) -> None:
    """Assert that in `model` under `edits` every layer's y and states are those of a loop over steps that keeps them.

    The loop takes from the model what each layer is given (u, x, Delta, B, C) and does `h` and `h_post` to its states.
    """
    names = [f"blocks.*.mixer.{n}" for n in ("x", "delta", "B", "C", "y", "h", "h_fused")]
    with torch.no_grad(), model.edit(*edits), model.capture("blocks.*.mixer_in", *names) as acts:
        model(text)
    below: list[Tensor] = []
    for layer, block in enumerate(model.backbone.layers):
        mixer: Any = block.mixer
        x, delta, B, C, y, seen = (acts[f"blocks.{layer}.mixer.{n}"] for n in ("x", "delta", "B", "C", "y", "h"))
        others = torch.zeros(2, T, *seen.shape[2:], dtype=torch.float64)
        if layer:
            u = acts[f"blocks.{layer}.mixer_in"]
            gates = F.silu(F.silu(u @ mixer.dense_in.weight.T) @ mixer.dense_out.weight.T)
            for i in range(min(2, layer)):
                gate = gates[..., i * 48 : (i + 1) * 48]
                assert float(gate.abs().max()) > 1e-2
                others = others + gate[..., None] * below[-1 - i]
        state, states = torch.zeros_like(seen[:, 0]), []
        for t in range(T):
            state = torch.exp(delta[:, t, :, None] * -mixer.A_log.exp()) * state
            state = state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None, :]
            if model.config.own.dense_fuse == "recurrent":
                state = state + others[:, t]
            state = (h or {}).get((layer, t), lambda s: s)(state)
            states.append(state)
            state = (h_post or {}).get((layer, t), lambda s: s)(state)
        below.append(torch.stack(states, 1))
        torch.testing.assert_close(seen, below[-1], **close)
        fused = below[-1] + others if model.config.own.dense_fuse == "readout" else below[-1]
        if layer:
            torch.testing.assert_close(acts[f"blocks.{layer}.mixer.h_fused"], fused, **close)
        torch.testing.assert_close(y, (fused * C[:, :, None, :]).sum(-1) + mixer.D * x, **close)


@torch.no_grad()
def test_layers_read_the_states_of_the_layers_below(model: LanguageModel) -> None:
    materialised(model, tokens(2, T))


@torch.no_grad()
def test_an_edited_state_is_felt_by_every_layer_that_reads_it(model: LanguageModel) -> None:
    edits = (
        Scale("blocks.0.mixer.h", 3.0, positions=[2]),
        Add("blocks.0.mixer.h_post", 0.7, positions=[5]),
        Scale("blocks.1.mixer.h", -1.0, positions=[3, 4, T - 1]),
        Scale("blocks.2.mixer.h_post", 0.0, positions=[0]),
    )
    h: StateEdits = {(0, 2): lambda s: 3 * s} | {(1, t): lambda s: -s for t in (3, 4, T - 1)}
    h_post: StateEdits = {(0, 5): lambda s: s + 0.7, (2, 0): torch.zeros_like}
    materialised(model, tokens(2, T), edits, h, h_post)
    every_step = {(1, t): lambda s: 0.5 * s for t in range(T)}
    materialised(model, tokens(2, T), (Scale("blocks.1.mixer.h", 0.5),), every_step)
    with pytest.raises(AssertionError, match="not close"):  # the loop can tell
        materialised(model, tokens(2, T), edits, h)


@torch.no_grad()
def test_states_are_shown_at_single_steps_as_in_the_whole_text(model: LanguageModel) -> None:
    text, name = tokens(2, T), "blocks.3.mixer.h_fused"
    edit = Scale("blocks.2.mixer.h", 2.0, positions=[4])
    with model.edit(edit), model.capture(name) as whole, model.capture(name + "@[1,4,6,-1]") as some:
        model(text)
    torch.testing.assert_close(some[name], whole[name][:, [1, 4, 6, T - 1]], **close)


@torch.no_grad()
def test_an_edit_of_the_fused_state_is_felt_at_its_own_step_only(model: LanguageModel) -> None:
    text, at = tokens(2, T), "blocks.2.mixer."
    v = torch.randn(48, 5, dtype=torch.float64)
    names = [at + n for n in ("y", "C", "h", "h_fused")]
    with model.capture(*names) as plain:
        _, end = model(text, return_state=True)
    with model.edit(Add(at + "h_fused", v, positions=[5])), model.capture(*names) as edited:
        _, state = model(text, return_state=True)
    change = torch.zeros_like(plain[at + "y"])
    change[:, 5] = plain[at + "C"][:, 5] @ v.T
    torch.testing.assert_close(edited[at + "y"] - plain[at + "y"], change, **close)
    torch.testing.assert_close(edited[at + "h_fused"][:, 5], plain[at + "h_fused"][:, 5] + v, **close)
    assert torch.equal(edited[at + "h"], plain[at + "h"])
    assert torch.equal(state.layers[2]["h"], end.layers[2]["h"])


@torch.no_grad()
def test_post_step_edits_equal_editing_a_generation_cache(model: LanguageModel) -> None:
    text, state, parts = tokens(2, T), None, []
    for t in range(T):
        logits, state = model(text[:, t : t + 1], state=state, return_state=True)
        parts.append(logits)
        if t in (4, 7):
            assert isinstance(state, ModelState)
            state.layers[0]["h"].mul_(1.5)
            state.layers[2]["h"].add_(0.5)
    edits = (
        Scale("blocks.0.mixer.h_post", 1.5, positions=[4, 7]),
        Add("blocks.2.mixer.h_post", 0.5, positions=[4, 7]),
    )
    with model.edit(*edits):
        torch.testing.assert_close(model(text), torch.cat(parts, 1), **carried)


@torch.no_grad()
def test_edits_act_the_same_in_a_whole_text_and_token_by_token(model: LanguageModel) -> None:
    text = tokens(2, T)
    for site, positions in [("h", [3, 4, 8]), ("h_post", [0, 3, 4]), ("h_fused", [4, 5]), ("dense_gate", None)]:
        with model.edit(Scale(f"blocks.1.mixer.{site}", 0.5, positions=positions)):
            whole, state, parts = model(text), None, []
            for t in range(T):
                logits, state = model(text[:, t : t + 1], state=state, return_state=True)
                parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **carried, msg=site)


@torch.no_grad()
def test_restoring_the_residual_stream_is_not_enough_except_after_the_last_layer(model: LanguageModel) -> None:
    """The layers exchange states beside it: a trace of the residual stream alone would misattribute."""
    clean = tokens(1, T)
    corrupted = clean.clone()
    corrupted[0, 3] = (corrupted[0, 3] + 7) % 40
    names = [f"blocks.{i}.resid_post" for i in range(4)]
    with model.capture(*names) as acts:
        expected = model(clean)
    for name in names:
        with model.edit(Replace(name, acts[name])):
            same = torch.allclose(model(corrupted), expected, rtol=0, atol=1e-6)
        assert same == (name == "blocks.3.resid_post")


# -- the equalities of all architectures, for both fusions ------------------------------------------------------------


@torch.no_grad()
def test_however_a_text_is_fed_the_numbers_are_the_same(model: LanguageModel) -> None:
    text, reset = tokens(2, T), torch.zeros(2, T, dtype=torch.bool)
    reset[:, [4, 5]] = True
    for resets in (None, reset):
        whole, end = model(text, reset=resets, return_state=True)
        for cuts in ([1] * T, [5, 1, 5], [2, 9]):
            state, parts, at = None, [], 0
            for n in cuts:
                part = None if resets is None else resets[:, at : at + n]
                logits, state = model(text[:, at : at + n], state=state, reset=part, return_state=True)
                parts.append(logits)
                at += n
            torch.testing.assert_close(torch.cat(parts, 1), whole, **carried)
            assert state is not None
            for layer, expected in zip(state.layers, end.layers, strict=True):
                torch.testing.assert_close(layer["h"], expected["h"], **carried)
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[0, [0, 1, 6, 10]] = False
    padded, state = model(text, mask, return_state=True)
    alone, end = model(text[:1, mask[0]], return_state=True)
    torch.testing.assert_close(padded[:1, mask[0]], alone, **carried)
    for layer, expected in zip(state.layers, end.layers, strict=True):
        torch.testing.assert_close(layer["h"][:1], expected["h"], **carried)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_gradients_are_the_slopes(model: LanguageModel, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences along a random direction of each parameter; and nothing depends on a later token."""
    monkeypatch.setattr(mamba, "selective_scan", functools.partial(mamba.selective_scan, backend=backend))
    text, generator, step = tokens(2, T), torch.Generator().manual_seed(0), 1e-6
    weights = torch.randn(2, T, 40, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        return (model(text) * weights).sum()

    loss().backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                parameter.add_(sign * step * direction)
                values.append(float(loss()))
        assert parameter.grad is not None, name
        slope = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-5), name
    with model.capture("embed", gradients=True) as acts:
        logits = model(text)
    (gradient,) = torch.autograd.grad(logits[:, 5].sum(), [acts["embed"]])
    assert not gradient[:, 6:].any() and gradient[:, :6].all()


# -- cost and options -------------------------------------------------------------------------------------------------


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_iter(found) if isinstance(t, Tensor))])
        return found


@pytest.mark.parametrize("fuse", FUSIONS)
def test_read_out_fusion_holds_no_state_for_every_step(fuse: str) -> None:
    model = dense(fuse, state_size=32).to(torch.float32)
    steps = 150
    with _Largest() as seen:
        model(tokens(2, steps))[..., 0].sum().backward()
    all_states = 2 * steps * 48 * 32
    assert (seen.elements >= all_states) == (fuse == "recurrent")
    if fuse == "readout":
        assert seen.elements <= all_states // 2


@torch.no_grad()
def test_no_more_layers_are_kept_than_are_read(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    plain = dense_mamba.DenseMambaMixer.recur

    def watching(self, recurrence, u, run, prefix):
        found = plain(self, recurrence, u, run, prefix)
        kept.extend(sorted(value) for value in run.shared.values())
        return found

    monkeypatch.setattr(dense_mamba.DenseMambaMixer, "recur", watching)
    model(tokens(1, 3))
    assert kept == [[0], [0, 1], [1, 2], []]


def test_options_that_make_no_sense_are_refused() -> None:
    for own, text in (
        ({"dense_m": 0}, "dense_m must be a positive integer, not 0"),
        ({"dense_gate_rank": 2.5}, "dense_gate_rank must be a whole number"),
        ({"dense_fuse": "recurent"}, "did you mean 'recurrent'"),
        ({"dense_n": 2}, "no option 'dense_n'"),
    ):
        with pytest.raises(UsageError, match=text):
            ModelConfig("dense_mamba", vocab_size=8, d_model=16, n_layers=1, own=own)
