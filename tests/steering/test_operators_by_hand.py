"""Every operator is the edit that its sentence says, written by hand with tensors of the site, in float64."""

from __future__ import annotations

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import LanguageModel
from mplat.steering import Part

B, T, S = 2, 7, 1.7
CHANNELS = (3, 0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@torch.no_grad()
def seen(model: LanguageModel, site: str, part: Part | None = None) -> torch.Tensor:
    """The site, whole, as steering leaves it."""
    with model.capture(site) as acts, model.edit(*([] if part is None else part.edits(model))):
        model(tokens(B, T))
    return acts[site]


def factor(x, s, t):
    return s * x


def gains(x, s, t):
    return (1 + s * (t["gains"] - 1)) * x


def features(x, t):
    z = (x - t["centre"]) @ t["encoder"].T + t["bias"]
    return torch.where(z > t["threshold"], z, torch.zeros_like(z))


def projector(t):
    b = t["basis"]
    return b.T @ torch.linalg.inv(b @ b.T) @ b


def removed(x, s, t):
    u = t["vector"] / t["vector"].norm()
    return x - s * (x @ u)[..., None] * u


K, N = 2, len(CHANNELS)
DICTIONARY = {
    "encoder": drawn(K, N), "bias": drawn(K), "decoder": drawn(K, N) + 1, "centre": drawn(N) / 2,
    "threshold": torch.tensor([0.1, 0.2]),
}  # fmt: skip
BASIS = {"basis": drawn(1, N)}
VECTOR = {"vector": drawn(N)}
GAINS = {"gains": torch.tensor([0.2, 3.0], dtype=torch.float64)}

#: operator, architecture, site, unit, tensors, and (channels acted on (B, T, n), strength, tensors) -> what they become
BY_HAND = [
    ("scale_channels", "mamba", "mixer_out", "factor", {}, factor),
    ("scale_channels", "mamba", "mixer.y", "share", GAINS, gains),
    ("scale_delta", "mamba", "mixer.delta", "factor", {}, factor),
    ("scale_time_constants", "mamba", "mixer.delta", "half_life", {}, lambda x, s, t: x / s),
    ("scale_gate", "mamba2", "mixer.gate", "factor", {}, factor),
    ("scale_gate", "hyena", "mixer.x1", "share", GAINS, gains),
    ("scale_gate", "striped_hyena", "mixer.x2", "factor", {}, factor),
    ("scale_dense_gate", "dense_mamba", "mixer.dense_gate", "factor", {}, factor),
    ("scale_stable_gate", "stable_mamba", "mixer.gate_2", "factor", {}, factor),
    ("bias_router", "moe_mamba", "mixer.router_logits", "value", {}, lambda x, s, t: x + s),
    ("scale_expert", "moe_mamba", "mixer.expert_gain", "factor", {}, factor),
    ("scale_subspace", "mamba", "resid_post", "factor", BASIS, lambda x, s, t: x + (s - 1) * x @ projector(t)),
    ("add_vector", "mamba", "mixer_out", "value", VECTOR, lambda x, s, t: x + s * t["vector"]),
    ("add_vector", "mamba", "mixer_out", "rms", VECTOR,
     lambda x, s, t: x + s * 0.25 * t["vector"] / t["vector"].square().mean().sqrt()),
    ("project_out", "mamba2", "mixer_out", "share", VECTOR, removed),
    ("scale_feature", "hyena", "resid_post", "factor", DICTIONARY,
     lambda x, s, t: x + (s - 1) * features(x, t) @ t["decoder"]),
    ("clamp_feature", "hyena", "resid_post", "share", DICTIONARY | {"values": drawn(K)},
     lambda x, s, t: x + s * (t["values"] - features(x, t)) @ t["decoder"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arch", "site", "unit", "tensors", "rule"), BY_HAND)
def test_an_operator_does_what_its_formula_says_and_leaves_other_channels(name, arch, site, unit, tensors, rule):
    model, layer = nano(arch), 0 if arch in ("striped_hyena", "stable_mamba") else 1
    scales = (0.25,) if unit == "rms" else ()
    part = Part(name, site, (layer,), S, unit, CHANNELS, tensors, scales=scales)
    part.check(model)
    (full,) = part.full_sites()
    plain, steered = seen(model, full), seen(model, full, part)
    expected = plain.clone()
    index = list(CHANNELS)
    expected[..., index] = rule(plain[..., index], S, tensors)
    torch.testing.assert_close(steered, expected, rtol=0, atol=1e-12)
    assert not torch.equal(steered, plain)


def test_a_vector_in_multiples_of_rms_is_as_large_as_the_site():
    model = nano("mamba")
    plain = seen(model, "blocks.1.mixer_out")
    size = float(plain.square().mean().sqrt())
    part = Part("add_vector", "mixer_out", (1,), -1.0, "rms", tensors={"vector": 40 * drawn(24)}, scales=(size,))
    moved = seen(model, "blocks.1.mixer_out", part) - plain
    torch.testing.assert_close(moved.square().mean((0, 1)).mean().sqrt(), torch.tensor(size, dtype=torch.float64))
    assert torch.allclose(moved, moved[0, 0].expand_as(moved), atol=1e-12)


def test_experts_are_heard_by_the_tokens_that_chose_them_wherever_these_are():
    model, here = nano("moe_mamba"), "blocks.1.mixer."
    chosen = seen(model, here + "expert_index").long()[..., 0]
    loud = int(chosen.flatten().mode().values)
    assert 0 < int((chosen == loud).sum()) < chosen.numel()
    part = Part("scale_expert", "", (1,), S, channels=(loud,))
    plain, steered = seen(model, here + "expert_out"), seen(model, here + "expert_out", part)
    assert torch.equal(steered, torch.where((chosen == loud)[..., None], S * plain, plain))
    assert torch.equal(seen(model, here + "expert_index", part).long()[..., 0], chosen)
    assert torch.equal(seen(model, here + "expert_gain"), torch.ones(B, T, 4, dtype=torch.float64))


def test_a_router_that_is_biased_sends_more_tokens_to_its_experts():
    model, site = nano("moe_mamba"), "blocks.1.mixer.expert_index"
    for expert in range(4):
        to, away = (Part("bias_router", "", (1,), s, channels=(expert,)) for s in (50.0, -50.0))
        assert bool((seen(model, site, to) == expert).all()) and not bool((seen(model, site, away) == expert).any())


def test_i9_what_cannot_be_is_refused_in_one_sentence():
    model = nano("mamba")
    zero = Part("add_vector", "mixer_out", (0,), 1.0, "value", tensors={"vector": torch.zeros(24)})
    with pytest.raises(InputError, match=r"add_vector at blocks\.0\.mixer_out: the vector is zero everywhere"):
        zero.check(model)
    nowhere = Part("project_out", "mixer_out", (0,), 1.0, tensors={"vector": torch.zeros(24)})
    with pytest.raises(InputError, match="linearly dependent"):
        nowhere.check(model)
    narrow = Part("add_vector", "mixer_out", (0,), 1.0, "value", tensors={"vector": torch.ones(23)})
    with pytest.raises(InputError, match=r"'vector' of operator add_vector has shape \(23,\).*takes \(24\)"):
        narrow.check(model)
    with pytest.raises(UsageError, match="'vector' of operator project_out holds values that are not finite"):
        Part("project_out", "mixer_out", (0,), 1.0, tensors={"vector": torch.full((24,), float("nan"))})
    twice = Part("scale_subspace", "mixer_out", (0,), 0.0, tensors={"basis": torch.ones(2, 24)})
    with pytest.raises(InputError, match="linearly dependent"):
        twice.check(model)
    with pytest.raises(InputError, match=r"scale_expert steers blocks\.0\.mixer\.expert_gain, which .* fit it: "):
        Part("scale_expert", "", (0,), 2.0).check(model)
    with pytest.raises(UsageError, match="acts on the whole of mixer.timescale_weights: it takes no channels"):
        Part("shift_timescale", "", (0,), 1.0, channels=(0,))
    with pytest.raises(InputError, match="half-lives at .* depend on the text; measure them"):
        Part("scale_time_constants", "mixer.delta", (0,), 2.0, options={"low": 3}).check(model)
