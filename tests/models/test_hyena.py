"""Hyena: filters and operator equal the published formulas; nothing reaches further than the filter, nothing back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hyena_by_loops import filter_by_formula, operator_by_loops
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, LanguageModel, ModelConfig, Replace, Scale, build
from mplat.models.families.hyena.hyena import HyenaMixer

close = {"rtol": 0.0, "atol": 1e-12}


def mixer_of(model: LanguageModel, layer: int = 0) -> HyenaMixer:
    found = model.backbone.layers[layer].mixer
    assert isinstance(found, HyenaMixer)
    return found


def test_filter_equals_its_formula() -> None:
    for changes in ({}, {"emb_dim": 3}, {"num_inner_mlps": 0, "window_shift": 0.05}, {"order": 3, "emb_dim": 9}):
        mixer = mixer_of(nano("hyena", **changes))
        k = mixer.implicit_filter().detach()
        assert k.shape == ((mixer.config.own.order - 1) * 24, 64)
        np.testing.assert_allclose(k.numpy(), filter_by_formula(mixer), rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"order": 3}, {"order": 4, "max_length": 7}, {"short_kernel": 5}], ids=str)
@torch.no_grad()
def test_operator_equals_loops(changes: dict[str, int]) -> None:
    model = nano("hyena", **changes)
    with model.capture("blocks.1.mixer_in", "blocks.1.mixer_out") as acts:
        model(tokens(2, 13))
    for u, out in zip(acts["blocks.1.mixer_in"], acts["blocks.1.mixer_out"], strict=True):
        expected = operator_by_loops(mixer_of(model, 1), u.numpy())
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
@torch.no_grad()
def test_long_convolution_is_the_sum_over_lags_of_filter_times_input(order: int) -> None:
    model = nano("hyena", order=order, max_length=300)
    with model.capture(*(s.name for s in model.sites() if ".mixer." in s.name)) as acts:
        model(tokens(1, 200))
    D = mixer_of(model).D.unflatten(0, (24, order - 1))
    for i, suffix in enumerate(["", "_2"][: order - 1]):
        k, u, y = (acts[f"blocks.0.mixer.{n}{suffix}"] for n in ("filter", "long_conv_in", "long_conv_out"))
        for t in (0, 1, 63, 64, 130, 199):
            expected = D[:, i] * u[0, t] + sum(k[:, t - s] * u[0, s] for s in range(t + 1))
            torch.testing.assert_close(y[0, t], expected, **close)


@torch.no_grad()
def test_no_bit_moves_before_a_changed_token_even_in_long_texts_and_float32() -> None:
    model = nano("hyena", max_length=512, dtype=torch.float32)
    text = tokens(2, 300)
    plain = model(text)
    for at in (1, 64, 200):
        changed = text.clone()
        changed[:, at] = (changed[:, at] + 1) % 40
        assert torch.equal(model(changed)[:, :at], plain[:, :at])
        with model.edit(Scale("blocks.0.mixer.long_conv_in", 1.5, positions=[at])):
            assert torch.equal(model(text)[:, :at], plain[:, :at])


@torch.no_grad()
def test_a_token_reaches_as_far_as_both_convolutions_do_and_no_further() -> None:
    model = nano("hyena", n_layers=1, max_length=9)
    text = tokens(1, 20)
    other = text.clone()
    other[0, 0] = (other[0, 0] + 1) % 40
    moved = (model(text) != model(other)).any(-1)[0].tolist()
    assert moved == [True] * 11 + [False] * 9  # 9 lags of the filter after 3 taps


@torch.no_grad()
def test_texts_longer_than_the_filter_decode_as_they_are_read() -> None:
    model = nano("hyena", max_length=9)
    text = tokens(2, 30)
    whole, end = model(text, return_state=True)
    state = None
    for t in range(30):
        logits, state = model(text[:, t : t + 1], state=state, return_state=True)
        torch.testing.assert_close(logits[:, 0], whole[:, t], rtol=0, atol=1e-11)
        assert state.layers[0]["past_v"].shape == (2, 24, min(t + 1, 8))
    assert state is not None and state.layers[0]["seen"].tolist() == [30.0, 30.0]
    torch.testing.assert_close(state.layers[1]["past_v"], end.layers[1]["past_v"], rtol=0, atol=1e-11)


@torch.no_grad()
def test_a_filter_without_lags_leaves_the_skip_and_edits_may_act_in_decode_only() -> None:
    model = nano("hyena")
    name = "blocks.1.mixer.filter"
    text = tokens(1, 9)
    with model.edit(Replace(name, 0.0)), model.capture("blocks.1.mixer.*") as acts:
        model(text)
    expected = mixer_of(model, 1).D * acts["blocks.1.mixer.long_conv_in"]
    torch.testing.assert_close(acts["blocks.1.mixer.long_conv_out"], expected, **close)
    with model.edit(Scale(name, 2.0, channels=[3], phase="decode")):
        start, state = model(text, return_state=True)
        step = model(text[:, :1], state=state)
    assert torch.equal(start, model(text))
    assert not torch.equal(step, model(text[:, :1], state=state))


@torch.no_grad()
def test_an_edited_input_of_the_convolution_is_remembered() -> None:
    model = nano("hyena")
    text = tokens(1, 12)
    with model.edit(Add("blocks.0.mixer.long_conv_in", 1.0, positions=[4])):
        whole = model(text)
        _, state = model(text[:, :6], return_state=True)
    torch.testing.assert_close(model(text[:, 6:], state=state), whole[:, 6:], rtol=0, atol=1e-11)


@torch.no_grad()
def test_the_kept_filter_follows_the_parameters() -> None:
    model = nano("hyena")
    parts = mixer_of(model).implicit_filter
    kept = parts()
    assert parts() is kept
    with model.edit(Scale("blocks.0.mixer.filter", 3.0)):
        model(tokens(1, 5))
    assert parts() is kept and torch.equal(kept, parts._computed())
    parts.out.weight.mul_(2.0)
    torch.testing.assert_close(parts(), 2 * kept, **close)
    with torch.inference_mode():
        assert torch.equal(parts(), parts._computed())
    before = parts()
    model.load_state_dict({n: t.clone() * 0.5 for n, t in model.state_dict().items()}, assign=True)
    assert not torch.equal(parts(), before) and torch.equal(parts(), parts._computed())
    assert model.to(torch.float32) and parts().dtype == torch.float32
    with torch.enable_grad():
        assert parts().requires_grad


@torch.no_grad()
def test_filter_of_a_bfloat16_model_is_float32_and_smooth_in_the_lag() -> None:
    model = build(ModelConfig("hyena", 40, 24, 1, own={"max_length": 2048}), seed=0)
    exact = mixer_of(model).implicit_filter()
    rough = mixer_of(model.to(torch.bfloat16)).implicit_filter()
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.02
    # features rounded to bfloat16 would go up in steps: their error has second differences of 0.7 of the filter's own
    assert float((rough - exact).diff(n=2, dim=1).norm() / exact.diff(n=2, dim=1).norm()) < 0.05


def test_rates_are_fixed_and_the_filter_does_not_decay_in_training() -> None:
    model = nano("hyena")
    parts = mixer_of(model).implicit_filter
    names = {n for n, _ in model.named_parameters()}
    assert not any("rates" in n for n in names)
    assert any("rates" in n for n in model.state_dict())
    groups = model.param_groups(0.1)
    exempt = {id(p) for g in groups if g["weight_decay"] == 0.0 for p in g["params"]}
    assert all(id(p) in exempt for p in parts.parameters())
    assert id(mixer_of(model).in_proj.weight) not in exempt


def test_reference_initialisation() -> None:
    model = build(ModelConfig("hyena", 64, 128, 6), seed=0)
    mixer, mlp = mixer_of(model), model.backbone.layers[0].feed_forward
    for weight, std in (
        (mixer.in_proj.weight, 0.02),
        (mixer.out_proj.weight, 0.02 / 12**0.5),
        (mlp.fc1.weight, 0.02),
        (mlp.fc2.weight, 0.02 / 12**0.5),
        (mixer.implicit_filter.out.weight, 0.02),
        (mixer.D, 1.0),
    ):
        assert abs(float(weight.detach().std()) / std - 1) < 0.2
    for layer in (mixer.in_proj, mixer.out_proj, mlp.fc1, mlp.fc2, *mixer.implicit_filter.hidden):
        assert not layer.bias.any()
    assert mixer.implicit_filter.freq.unique().tolist() == [14.0]
    rates = mixer.implicit_filter.rates
    assert torch.allclose(rates[[0, -1]], torch.tensor([math.log(100) / 1.5, math.log(100) / 0.3]))
    assert torch.allclose(rates.diff(), rates.diff()[0].expand(127), atol=1e-5)
    # the filter is of a size that lets a layer work from the start, for any seed
    assert 0.01 < float(mixer.implicit_filter().detach()[:, :100].std()) < 0.3


@pytest.mark.parametrize(
    ("shape", "own", "expected"),
    [
        ((50264, 864, 18), {"mlp_ratio": 2}, 152.5e6),
        ((50264, 768, 12), {}, 124.5e6),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(shape, own, expected) -> None:
    """The counts leave out z, which the published program lists among its features."""
    model = build(ModelConfig("hyena", *shape, own=own), device="meta")
    assert abs(model.n_parameters - expected) < 0.05e6
    learned = build(ModelConfig("hyena", *shape, own=own | {"learn_positions": True}), device="meta")
    assert learned.n_parameters - model.n_parameters == shape[2] * 2048 * 33


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"order": 1}, "order must be an integer from 2 on, not 1"),
        ({"emb_dim": 8}, "emb_dim must be odd"),
        ({"max_length": 2.5}, "max_length must be a whole number"),
        ({"decay_target": 1.0}, "decay_target between 0 and 1"),
        ({"sine_freq": "w"}, "sine_freq must be a finite number"),
        ({"l_max": 3}, "hyena has no option 'l_max'"),
    ],
)
def test_wrong_options_are_named(own, message) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig("hyena", 40, 24, 2, own=own)


def retrieved(init: str, order: int, layer: int) -> float:
    """Share of sequences "k1 k1' v1 ... kn kn' vn, ki ki'" in which what `layer` adds at the last token looks like vi.

    Likeness is the product with the layer's input at each value's position; the greatest must be the right one's.
    """
    own = {"max_length": 512, "filter_order": 32, "emb_dim": 17, "mlp_ratio": 2, "order": order}
    config = ModelConfig("hyena", vocab_size=512, d_model=192, n_layers=3, own=own)
    model = build(config, seed=3, init=init)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(0)
    n, rows = 6, 40
    facts = torch.stack([torch.randperm(512, generator=generator)[: 3 * n] for _ in range(rows)])
    asked = torch.randint(n, (rows, 1), generator=generator)
    text = torch.cat([facts, facts.gather(1, 3 * asked), facts.gather(1, 3 * asked + 1)], 1)
    with torch.no_grad(), model.capture(f"blocks.{layer}.mixer_in", f"blocks.{layer}.mixer_out") as acts:
        model(text)
    u, out = acts[f"blocks.{layer}.mixer_in"], acts[f"blocks.{layer}.mixer_out"][:, -1]
    likeness = torch.einsum("btd,bd->bt", u[:, 2 : 3 * n : 3], out)
    return float((likeness.argmax(1) == asked[:, 0]).float().mean())


@pytest.mark.parametrize("order", [2, 3])
def test_recall_initialisation_brings_back_the_value_of_the_key(order: int) -> None:
    assert retrieved("recall", order, 1) > 0.5  # one in six by chance
    assert retrieved("reference", order, 1) < 0.35
