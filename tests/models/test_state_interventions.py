"""Edits of the recurrent state and of the convolution's window are exact: equal to replaying token by token, and
obeying the invariants that a correct causal tracer must obey."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from model_zoo import ARCHITECTURES, STATE_SPACE, nano, tokens
from mplat.models import Add, LanguageModel, ModelState, Replace, Scale
from torch import Tensor

close = {"rtol": 0.0, "atol": 1e-10}
T = 13


@pytest.fixture(params=STATE_SPACE)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, n_layers=3)


def replay(model: LanguageModel, text: Tensor, after: dict[int, Callable[[ModelState], None]]) -> Tensor:
    """Feed single tokens and change the carried state by hand after given steps: the oracle for post-step edits."""
    state, parts = None, []
    for t in range(text.shape[1]):
        logits, state = model(text[:, t : t + 1], state=state, return_state=True)
        parts.append(logits)
        if t in after:
            after[t](state)
    return torch.cat(parts, 1)


@torch.no_grad()
def test_captured_states_are_those_a_cache_holds(model) -> None:
    text = tokens(2, T)
    with model.capture("blocks.*.mixer.h", "blocks.*.mixer.h_post", "blocks.*.mixer.conv_state@[0,1,6,-1]") as acts:
        whole = model(text)
    assert torch.equal(whole, model(text))
    for n in (1, 2, 7, T):
        _, state = model(text[:, :n], return_state=True)
        for i, layer in enumerate(state.layers):
            h = layer["h"].reshape(2, -1, model.config.state_size)
            torch.testing.assert_close(acts[f"blocks.{i}.mixer.h"][:, n - 1], h, **close)
            torch.testing.assert_close(acts[f"blocks.{i}.mixer.h_post"][:, n - 1], h, **close)
            window = acts[f"blocks.{i}.mixer.conv_state"][:, [0, 1, 6, T - 1].index(n - 1)]
            torch.testing.assert_close(window, layer["conv"], **close)


@torch.no_grad()
def test_post_step_edit_equals_editing_a_generation_cache(model) -> None:
    text, bump = tokens(2, T), 0.7

    def change(state: ModelState) -> None:
        state.layers[1]["h"].mul_(1.5)
        state.layers[0]["conv"].add_(bump)

    expected = replay(model, text, {4: change, 7: change})
    with model.edit(
        Scale("blocks.1.mixer.h_post", 1.5, positions=[4, 7]), Add("blocks.0.mixer.conv_state", bump, positions=[4, 7])
    ):
        edited = model(text)
    torch.testing.assert_close(edited, expected, **close)
    assert not torch.allclose(expected, model(text), atol=1e-4)


@torch.no_grad()
def test_edits_at_every_step_equal_replay(model) -> None:
    text = tokens(2, T)
    expected = replay(model, text, dict.fromkeys(range(T), lambda s: s.layers[2]["h"].mul_(0.8)))
    with model.edit(Scale("blocks.2.mixer.h_post", 0.8)):
        torch.testing.assert_close(model(text), expected, **close)
    # the window as well: after each step every entry is damped, so an input is damped once per step it stays
    expected = replay(model, text, dict.fromkeys(range(T), lambda s: s.layers[1]["conv"].mul_(0.8)))
    with model.edit(Scale("blocks.1.mixer.conv_state", 0.8)):
        torch.testing.assert_close(model(text), expected, **close)


@torch.no_grad()
def test_pre_readout_edit_also_changes_its_own_step(model) -> None:
    """h* = h + v at step t adds C_t . v to y_t and nothing else there; later steps are as for the post-step edit."""
    text, v = tokens(1, T), 0.3
    sites = ["blocks.0.mixer.y", "blocks.0.mixer.C"]
    with model.capture(*sites) as plain:
        model(text)
    with model.edit(Add("blocks.0.mixer.h", v, positions=[5])), model.capture(*sites) as pre:
        model(text)
    with model.edit(Add("blocks.0.mixer.h_post", v, positions=[5])), model.capture(*sites) as post:
        model(text)
    y = "blocks.0.mixer.y"
    torch.testing.assert_close(post[y][:, :6], plain[y][:, :6], rtol=0, atol=0)
    torch.testing.assert_close(pre[y][:, 6:], post[y][:, 6:], **close)
    assert not torch.allclose(pre[y][:, 6:], plain[y][:, 6:], atol=1e-6)
    c = plain["blocks.0.mixer.C"][:, 5].unflatten(-1, (model.config.n_groups, -1)).sum(-1) * v  # C . (v, ..., v)
    expected = c.repeat_interleave(model.config.inner_size // model.config.n_groups, -1)
    torch.testing.assert_close(pre[y][:, 5] - plain[y][:, 5], expected, **close)


@torch.no_grad()
def test_state_edits_respect_padding_reset_and_continuation(model) -> None:
    text = tokens(3, T)
    edits = [
        Scale("blocks.1.mixer.h_post", 2.0, positions=[3]),
        Add("blocks.0.mixer.conv_state", 0.5, positions=[3, -2]),
        Scale("blocks.2.mixer.h", 0.1, positions=[-1]),
    ]
    mask = torch.ones(3, T, dtype=torch.bool)
    mask[0, :5] = False
    mask[1, 9:] = False
    with model.edit(*edits):
        padded, state = model(text, mask, return_state=True)
        onward = model(tokens(3, 1, seed=5), state=state, phase="prefill", anchor=state.position)
    for i in range(3):
        with model.edit(*edits):
            alone, end = model(text[i][mask[i]][None], return_state=True)
            expected = model(tokens(3, 1, seed=5)[i : i + 1], state=end, phase="prefill", anchor=end.position)
        torch.testing.assert_close(padded[i][mask[i]][None], alone, **close)
        torch.testing.assert_close(onward[i : i + 1], expected, **close)
    # an edit before a reset does not reach the next document
    reset = torch.zeros(3, T, dtype=torch.bool)
    reset[:, 6] = True
    with model.edit(
        Scale("blocks.0.mixer.h_post", 3.0, positions=[5]), Add("blocks.0.mixer.conv_state", 1.0, positions=[5])
    ):
        edited = model(text, reset=reset)
    assert torch.equal(edited, model(text, reset=reset))


@torch.no_grad()
def test_chunked_prefill_with_edits_equals_one_call(model) -> None:
    text = tokens(2, T)
    edits = [Scale("blocks.1.mixer.h", 2.0, positions=[3, 8]), Add("blocks.1.mixer.conv_state", 0.5, positions=[5, 6])]
    with model.edit(*edits):
        whole = model(text)
    with model.edit(*edits):
        first, state = model(text[:, :6], return_state=True)
        second = model(text[:, 6:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **close)


# -- the five invariants of causal tracing: clean values restored into a corrupted run ---------------------------------

CHANGED = [4, 5]  # positions of the corrupted tokens


@pytest.fixture
def runs(model):
    clean = tokens(1, T)
    corrupted = clean.clone()
    corrupted[0, CHANGED] = (corrupted[0, CHANGED] + 7) % 40
    sites = [
        f"blocks.{i}.{s}" for i in range(3) for s in ("resid_post", "mixer_out", "mixer.h_post", "mixer.conv_state")
    ]
    with torch.no_grad(), model.capture(*sites) as acts:
        logits = model(clean)
    return model, logits, corrupted, acts


@torch.no_grad()
def test_restoring_the_residual_everywhere_gives_the_clean_output(runs) -> None:
    model, clean, corrupted, acts = runs
    for i in range(3):
        name = f"blocks.{i}.resid_post"
        with model.edit(Replace(name, acts[name])):
            torch.testing.assert_close(model(corrupted), clean, **close)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_the_residual_of_every_architecture_at_all_positions_is_all_there_is(arch: str) -> None:
    """With changed tokens in the middle. DenseMamba's layers also read the states of those below, which no residual
    holds: there it is true after the last layer only."""
    model = nano(arch, n_layers=3)
    clean = tokens(1, T)
    corrupted = clean.clone()
    corrupted[0, CHANGED] = (corrupted[0, CHANGED] + 7) % 40
    with model.capture("blocks.*.resid_post") as acts:
        expected = model(clean)
    assert not torch.allclose(model(corrupted)[:, max(CHANGED) + 1 :], expected[:, max(CHANGED) + 1 :], atol=1e-6)
    last = max(int(name.split(".")[1]) for name in acts)
    for name, value in acts.items():
        with model.edit(Replace(name, value)):
            found = model(corrupted)
        if arch == "dense_mamba" and not name.startswith(f"blocks.{last}."):
            continue
        torch.testing.assert_close(found, expected, **close)


@torch.no_grad()
def test_restoring_all_states_after_the_corruption_gives_the_clean_output(runs) -> None:
    model, clean, corrupted, acts = runs
    for t in (max(CHANGED), 8, T - 2):
        edits = [
            Replace(f"blocks.{i}.mixer.{s}", acts[f"blocks.{i}.mixer.{s}"][:, t : t + 1], positions=[t])
            for i in range(3)
            for s in ("h_post", "conv_state")
        ]
        with model.edit(*edits):
            torch.testing.assert_close(model(corrupted)[:, t + 1 :], clean[:, t + 1 :], **close)
        with model.edit(*[e for e in edits if "h_post" in e.site]):  # a tracer without the window would misattribute
            assert not torch.allclose(model(corrupted)[:, t + 1], clean[:, t + 1], atol=1e-6)


@torch.no_grad()
def test_restoring_before_the_corruption_changes_nothing(runs) -> None:
    model, _, corrupted, acts = runs
    before = list(range(min(CHANGED)))
    plain = model(corrupted)
    for name, value in acts.items():
        with model.edit(Replace(name, value[:, : len(before)], positions=before)):
            torch.testing.assert_close(model(corrupted), plain, **close)


@torch.no_grad()
def test_a_post_step_edit_at_the_last_token_changes_nothing(runs) -> None:
    model, _, corrupted, _ = runs
    with model.edit(
        Scale("blocks.*.mixer.h_post", 9.0, positions=[-1]), Add("blocks.*.mixer.conv_state", 9.0, positions=[-1])
    ):
        assert torch.equal(model(corrupted), model(corrupted[:, :]))


@torch.no_grad()
def test_the_last_layers_residual_elsewhere_does_not_move_the_final_position(runs) -> None:
    model, _, corrupted, acts = runs
    plain = model(corrupted)
    with model.edit(Replace("blocks.2.resid_post", acts["blocks.2.resid_post"][:, 4:6], positions=CHANGED)):
        edited = model(corrupted)
    assert torch.equal(edited[:, -1], plain[:, -1])
    assert not torch.equal(edited, plain)


def test_gradients_flow_through_states(model) -> None:
    """The slope of the output with respect to a state equals the central difference of editing it."""
    text, eps = tokens(1, T), 1e-6
    shape = (1, 1, model.config.inner_size, model.config.state_size)
    zero = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    with model.edit(Add("blocks.1.mixer.h", zero, positions=[5])):
        metric = model(text)[0, -1, 3]
    (slope,) = torch.autograd.grad(metric, zero)
    direction = torch.randn(shape, dtype=torch.float64)

    def at(step: float) -> float:
        with torch.no_grad(), model.edit(Add("blocks.1.mixer.h", step * direction, positions=[5])):
            return float(model(text)[0, -1, 3])

    assert (at(eps) - at(-eps)) / (2 * eps) == pytest.approx(float((slope * direction).sum()), rel=1e-6)
