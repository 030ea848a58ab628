"""Hidden attention reproduces what the model computed, coordinate by coordinate, and stays finite where it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from adapter_zoo import adapted
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.hidden_attention import hidden_attention, rollout, segment_sums
from mplat.models import LanguageModel, Scale

T = 11
close = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(params=["mamba", "mamba2", "falcon_mamba"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


def watch(model, text, layer, *sites):
    names = [f"blocks.{layer}.mixer.{site}" for site in sites]
    with model.capture(*names) as acts:
        model(text[None])
    return [acts[name][0] for name in names]


@torch.no_grad()
def test_it_is_the_sum_written_down_for_every_pair_of_tokens() -> None:
    model, text = nano("mamba"), tokens(1, 6)[0]
    delta, B, C = watch(model, text, 1, "delta", "B", "C")
    A = -torch.exp(model.blocks[1].mixer.A_log)
    found = hidden_attention(model, text, 1).weights
    parts = hidden_attention(model, text, 1, channels=[3, 40], per_coordinate=True)
    assert parts.channels == (3, 40) and parts.weights.shape == (2, 5, 6, 6)
    for e in (3, 40):
        for i in range(6):
            for j in range(6):
                terms = torch.zeros(5, dtype=torch.float64)
                if j <= i:
                    decay = torch.stack(
                        [torch.exp(A[e] * delta[r, e]) for r in range(j + 1, i + 1)] or [torch.ones_like(A[e])]
                    )
                    terms = C[i] * decay.prod(0) * delta[j, e] * B[j]
                torch.testing.assert_close(found[e, i, j], terms.sum(), **close)
                torch.testing.assert_close(parts.weights[(3, 40).index(e), :, i, j], terms, **close)


@torch.no_grad()
def test_it_reproduces_the_scan_output(model) -> None:
    text = tokens(1, T)[0]
    for layer in (0, 1):
        x, y = watch(model, text, layer, "x", "y")
        found = hidden_attention(model, text, layer)
        per_weight = x.shape[1] // len(found.channels)  # channels of a head share one matrix
        weights = found.weights.repeat_interleave(per_weight, 0)
        D = model.blocks[layer].mixer.D.repeat_interleave(x.shape[1] // len(model.blocks[layer].mixer.D))
        torch.testing.assert_close(torch.einsum("eij,je->ie", weights, x) + D * x, y, **close)
        assert torch.equal(found.weights, found.weights.tril()) and bool((found.weights < 0).any())
        parts = hidden_attention(model, text, layer, per_coordinate=True)
        torch.testing.assert_close(parts.weights.sum(1), found.weights, **close)


@torch.no_grad()
def test_stable_mambas_scan_is_reproduced_from_its_writes() -> None:
    model, text = nano("stable_mamba"), tokens(1, T)[0]
    x, delta, *outputs = watch(model, text, 0, "x", "delta", "ssm_fast", "ssm_medium", "ssm_slow")
    heads = delta.shape[1]
    P = x.shape[1] // heads
    weights = hidden_attention(model, text, 0).weights.repeat_interleave(P, 0)
    share = ((1 - torch.exp(-delta)) / delta).repeat_interleave(P, 1)  # h_t = a_t h_{t-1} + (1 - a_t) x_t B_t
    D = model.blocks[0].mixer.D.repeat_interleave(P)
    torch.testing.assert_close(torch.einsum("eij,je->ie", weights, share * x) + D * x, torch.cat(outputs, -1), **close)


@torch.no_grad()
def test_the_mixer_form_reproduces_the_input_of_out_proj(model) -> None:
    """For Mamba-2 the input of the gated norm, which stands between."""
    text = tokens(1, T)[0]
    for layer in (0, 1):
        u, y, gate, gated = watch(model, text, layer, "x_in", "y", "gate", "gated")
        found = hidden_attention(model, text, layer, form="mixer")
        made = torch.einsum("eij,je->ie", found.weights, u) + found.bias.T
        torch.testing.assert_close(made, y * F.silu(gate), **close)
        if model.config.arch == "mamba2":
            made = model.blocks[layer].mixer.norm(made)
        torch.testing.assert_close(made, gated, **close)
        assert bool((found.bias != 0).any())
        some = hidden_attention(model, text, layer, form="mixer", channels=[5, -1])
        assert some.channels == (5, 47)
        torch.testing.assert_close(some.weights, found.weights[[5, 47]], **close)


@pytest.mark.parametrize(("case", "layer"), [("bamba", 0), ("jamba", 0), ("falcon_h1", 1), ("zamba2", 2)])
@torch.no_grad()
def test_the_mixers_of_hybrids_are_reproduced_too(case, layer, tmp_path: Path) -> None:
    model, text = adapted(case, tmp_path), tokens(1, T)[0]
    u, y, gate = watch(model, text, layer, "x_in", "y", "gate")
    found = hidden_attention(model, text, layer, form="mixer")
    torch.testing.assert_close(torch.einsum("eij,je->ie", found.weights, u) + found.bias.T, y * F.silu(gate), **close)


@torch.no_grad()
def test_a_mixer_without_convolution_bias_has_no_bias_term() -> None:
    model, text = nano("mamba", use_conv_bias=False), tokens(1, T)[0]
    u, gated = watch(model, text, 0, "x_in", "gated")
    found = hidden_attention(model, text, 0, form="mixer")
    assert not bool(found.bias.any())
    torch.testing.assert_close(torch.einsum("eij,je->ie", found.weights, u), gated, **close)


def test_segment_sums_keep_short_spans_in_long_texts() -> None:
    """The ratio of two exponentials is 0 / 0 by 200 tokens of Delta A = -1; a difference of totals loses digits."""
    long = segment_sums(torch.full((400,), 1.0, dtype=torch.float32))
    assert torch.equal(long[399], 399.0 - torch.arange(400, dtype=torch.float32))
    decay = torch.exp(-long).tril()
    assert bool(torch.isfinite(decay).all()) and float(decay[300, 299]) == pytest.approx(0.36787944)
    steps = torch.tensor([1e8, 1e-3, 1e-3], dtype=torch.float32)
    assert float(segment_sums(steps)[2, 0]) == pytest.approx(2e-3)


@torch.no_grad()
def test_float32_models_of_long_texts_are_reproduced_too() -> None:
    for arch in ("mamba", "mamba2"):
        model, text = nano(arch, dtype=torch.float32), tokens(1, 300)[0]
        x, y = watch(model, text, 0, "x", "y")
        found = hidden_attention(model, text, 0)
        weights = found.weights.repeat_interleave(x.shape[1] // len(found.channels), 0)
        D = model.blocks[0].mixer.D.repeat_interleave(x.shape[1] // len(model.blocks[0].mixer.D))
        torch.testing.assert_close(torch.einsum("eij,je->ie", weights, x) + D * x, y, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rollout_is_the_product_of_the_layers_mixing(model) -> None:
    text = tokens(1, T)[0]
    expected = torch.eye(T, dtype=torch.float64)
    for layer in (0, 1):
        mean = hidden_attention(model, text, layer, form="mixer").weights.abs().mean(0)
        expected = (mean / mean.sum(1, keepdim=True) + torch.eye(T)) / 2 @ expected
    found = rollout(model, text)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(found.sum(1), torch.ones(T, dtype=torch.float64), **close)
    assert torch.equal(found, found.tril())
    first = rollout(model, text, [0])
    assert not torch.allclose(first, found)


def test_wrong_arguments_say_what_would_be_right() -> None:
    model, text = nano("mamba"), tokens(1, T)[0]
    for arguments, told in [
        ({"layer": 2}, "blocks 0 to 1"),
        ({"form": "full"}, "'scan' or 'mixer'"),
        ({"channels": [48]}, "channels 0 to 47"),
        ({"channels": []}, "at least one"),
        ({"form": "mixer", "per_coordinate": True}, "scan form"),
    ]:
        with pytest.raises(UsageError, match=told):
            hidden_attention(model, text, **{"layer": 0, **arguments})
    for arch in ("hyena", "striped_hyena", "dense_mamba"):
        with pytest.raises(UsageError, match="no selective scan"):
            hidden_attention(nano(arch), text, 0)
    for arch in ("stable_mamba", "stable_mamba_attached"):
        with pytest.raises(UsageError, match="form='scan'"):
            hidden_attention(nano(arch), text, 0, form="mixer")
    with pytest.raises(UsageError, match="leave that edit"), model.edit(Scale("blocks.0.mixer.conv_state", 0.5)):
        hidden_attention(model, text, 0, form="mixer")
