"""A decode step without sites has the bits of one with sites, whatever is captured or edited elsewhere."""

from __future__ import annotations

import pytest
import torch
from mplat.models import Add, LanguageModel, ModelConfig, Scale, build, generate
from mplat.models.state import ModelState

CONFIGS = {
    "mamba": ModelConfig("mamba", vocab_size=64, d_model=48, n_layers=3, state_size=16),
    "mamba2": ModelConfig("mamba2", vocab_size=64, d_model=48, n_layers=3, state_size=32, head_dim=16, n_groups=2),
}


@pytest.fixture(params=[(arch, dtype) for arch in CONFIGS for dtype in (torch.float32, torch.float64)], ids=str)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    arch, dtype = request.param
    return build(CONFIGS[arch], seed=4, dtype=dtype)


@pytest.fixture
def steps_taken(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of `Mixer.step` gave a result."""
    taken: list[bool] = []
    kind = type(model.backbone.layers[0].mixer)
    plain = kind.step

    def watching(self, u, state, overwrite):
        found = plain(self, u, state, overwrite)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(kind, "step", watching)
    return taken


@torch.no_grad()
def decode(model: LanguageModel, tokens: torch.Tensor) -> tuple[torch.Tensor, ModelState]:
    _, state = model(tokens[:, :5], return_state=True)
    outputs = []
    for t in range(5, tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1], state=state, return_state=True)
        outputs.append(logits)
    return torch.cat(outputs, 1), state


def same(a: tuple[torch.Tensor, ModelState], b: tuple[torch.Tensor, ModelState]) -> bool:
    pairs = [(x[k], y[k]) for x, y in zip(a[1].layers, b[1].layers, strict=True) for k in x]
    return all(torch.equal(x, y) for x, y in [(a[0], b[0]), *pairs])


def test_steps_are_taken_and_have_the_bits_of_the_way_with_sites(model: LanguageModel, steps_taken: list[bool]) -> None:
    tokens = torch.randint(64, (5, 12), generator=torch.Generator().manual_seed(0))
    fast = decode(model, tokens)
    assert len(steps_taken) == 7 * 3 and all(steps_taken)
    steps_taken.clear()
    with model.capture("blocks.*.mixer.delta"):
        assert same(decode(model, tokens), fast)
    for edit in (Scale("blocks.*.mixer.x", 1.0), Add("blocks.1.mixer.h", 0.0), Scale("blocks.2.mixer.gate", 1.0)):
        with model.edit(edit):
            assert same(decode(model, tokens), fast), edit
    assert len(steps_taken) == 7 * 2 * 2  # only layers that no edit names


def test_an_edit_of_the_residual_stream_leaves_the_steps_alone(model: LanguageModel, steps_taken: list[bool]) -> None:
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    with model.edit(Scale("blocks.1.mixer_out", 3.0)):
        fast = decode(model, tokens)
        assert all(steps_taken) and steps_taken
        with model.edit(*(Scale(f"blocks.{i}.mixer.y", 1.0) for i in range(3))):
            assert same(decode(model, tokens), fast)


@torch.no_grad()
def test_an_edit_of_whole_texts_acts_on_a_whole_text_of_one_token(model: LanguageModel) -> None:
    """A text that is read on by a single token is prefill if the caller says so, and its edits act."""
    tokens = torch.randint(64, (2, 6), generator=torch.Generator().manual_seed(2))
    _, state = model(tokens[:, :5], return_state=True)
    for phase in ("prefill", "both"):
        with model.edit(Scale("blocks.1.mixer.y", 3.0, positions=[5], phase=phase)):
            last = model(tokens[:, 5:], state=state, phase="prefill")
            torch.testing.assert_close(last[:, 0], model(tokens)[:, 5])


def test_gradients_take_the_way_with_sites(model: LanguageModel, steps_taken: list[bool]) -> None:
    tokens = torch.randint(64, (2, 6), generator=torch.Generator().manual_seed(2))
    _, state = model(tokens[:, :5], return_state=True)
    model(tokens[:, 5:], state=state)[0].sum().backward()
    assert not any(steps_taken)
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_a_state_is_left_as_it_was_unless_it_may_be_overwritten(model: LanguageModel) -> None:
    tokens = torch.randint(64, (2, 6), generator=torch.Generator().manual_seed(2))
    _, state = model(tokens[:, :5], return_state=True)
    kept = state.map(torch.clone)
    logits, after = model(tokens[:, 5:], state=state, return_state=True)
    assert same((logits, state), (logits, kept))
    again, over = model(tokens[:, 5:], state=state, return_state=True, overwrite_state=True)
    assert same((again, over), (logits, after))
    assert over.layers[0]["h"].data_ptr() == state.layers[0]["h"].data_ptr()


def test_generation_does_not_touch_the_state_it_is_given(model: LanguageModel) -> None:
    tokens = torch.randint(64, (1, 5), generator=torch.Generator().manual_seed(3))
    _, state = model(tokens, return_state=True)
    kept = state.map(torch.clone)
    first = generate(model, [[3], [4, 5]], state=state, max_new_tokens=5)
    assert generate(model, [[3], [4, 5]], state=state, max_new_tokens=5) == first
    assert same((tokens, state), (tokens, kept))
