"""Mixtures of experts: against dense evaluation, hand-made sums and an independent Sinkhorn; and what never happens."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, LanguageModel, ModelConfig, Replace, Scale, build, load
from mplat.models.families import moe
from mplat.models.families.moe.moe_mamba import BlackMambaOptions, MoEMixer, MoEOptions
from torch.utils.flop_counter import FlopCounterMode

MIXTURE = "blocks.1.mixer."


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(model: LanguageModel) -> MoEMixer:
    found = model.backbone.layers[1].mixer
    assert isinstance(found, MoEMixer)
    return found


def ffn(layer: MoEMixer, expert: int, u: torch.Tensor) -> torch.Tensor:
    """One expert on every token, written out."""
    inner = u @ layer.fc1[expert].T
    if layer.options.expert_activation == "relu":
        inner = inner * (inner > 0)
    else:
        gate, value = inner.tensor_split(2, -1)
        inner = gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * value
    return inner @ layer.fc2[expert].T


# -- the function ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["moe_mamba", "black_mamba"])
@torch.no_grad()
def test_one_expert_is_a_dense_layer(arch: str) -> None:
    model = nano(arch, n_experts=1)
    with model.capture("blocks.1.mixer_in", "blocks.1.mixer_out", MIXTURE + "router") as seen:
        model(tokens(2, 9))
    layer = mixture(model)
    dense = ffn(layer, 0, seen["blocks.1.mixer_in"])
    torch.testing.assert_close(seen["blocks.1.mixer_out"], dense * seen[MIXTURE + "router"], rtol=0, atol=1e-12)
    if arch == "moe_mamba":  # a softmax over one expert is 1
        assert torch.equal(seen[MIXTURE + "router"], torch.ones(2, 9, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "arch, changes",
    [
        ("moe_mamba", {}),
        ("moe_mamba", {"router": "topk", "top_k": 2}),
        ("moe_mamba", {"router": "topk", "top_k": 3, "expert_activation": "gelu_gated"}),
        ("black_mamba", {}),
        ("black_mamba", {"router": "sigmoid_top1", "expert_activation": "relu"}),
    ],
)
@torch.no_grad()
def test_sparse_is_dense_with_a_mask(arch: str, changes: dict) -> None:
    model = nano(arch, **changes)
    with model.capture("blocks.1.mixer_in", "blocks.1.mixer_out") as seen:
        model(tokens(3, 11))
    u, layer = seen["blocks.1.mixer_in"], mixture(model)
    scores = u @ layer.router.weight.T + (0 if layer.router.bias is None else layer.router.bias)
    k = layer.options.top_k
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(k):
        best = scores.masked_fill(chosen, -torch.inf).argmax(-1, keepdim=True)
        chosen |= torch.zeros_like(chosen).scatter(-1, best, True)
    if layer.options.router == "topk":
        weight = scores.exp() * chosen / (scores.exp() * chosen).sum(-1, keepdim=True)
    elif arch == "moe_mamba":
        weight = scores.exp() / scores.exp().sum(-1, keepdim=True) * chosen
    else:
        weight = chosen / (1 + torch.exp(-scores))
    dense = sum(weight[..., e : e + 1] * ffn(layer, e, u) for e in range(4))
    torch.testing.assert_close(seen["blocks.1.mixer_out"], dense, rtol=0, atol=1e-12)
    assert 1 < len(scores.argmax(-1).unique())  # not all tokens went one way


def test_the_work_follows_the_choices_not_the_experts() -> None:
    def work(n_experts: int, k: int) -> int:
        x, index = drawn(512, 8), torch.randint(n_experts, (512, k), generator=torch.Generator().manual_seed(1))
        with FlopCounterMode(display=False) as counter:
            moe.run_experts(x, index, drawn(n_experts, 12, 8), drawn(n_experts, 8, 12), "relu")
        return counter.get_total_flops()

    assert work(2, 1) == work(8, 1) == 512 * 2 * 2 * 8 * 12
    assert work(8, 2) == 2 * work(8, 1)
    everywhere = torch.full((512, 1), moe.NOWHERE)
    with FlopCounterMode(display=False) as counter:
        out = moe.run_experts(drawn(512, 8), everywhere, drawn(2, 12, 8), drawn(2, 8, 12), "relu")
    assert counter.get_total_flops() == 0 and torch.equal(out, torch.zeros(512, 1, 8, dtype=torch.float64))


def test_an_expert_that_nobody_chose_gets_the_gradient_zero() -> None:
    fc1, fc2 = drawn(3, 12, 8).requires_grad_(), drawn(3, 8, 12).requires_grad_()
    index = torch.tensor([[0], [2], [0], [2], [2]])
    moe.run_experts(drawn(5, 8), index, fc1, fc2, "relu").square().sum().backward()
    assert fc1.grad is not None and fc2.grad is not None
    assert [bool(g.any()) for g in fc1.grad] == [bool(g.any()) for g in fc2.grad] == [True, False, True]


# -- training: capacity, balance, the Sinkhorn assignment --------------------------------------------------------------


def test_capacity_drops_exactly_the_overflow_in_order() -> None:
    first = torch.tensor([0, 1, 0, 0, 2, 0, 1, 1])[:, None]
    served = moe.within_capacity(first, 3, 1.0)  # floor(8 / 3) = 2 places each
    assert served[:, 0].tolist() == [True, True, True, False, True, False, True, False]
    real = torch.tensor([True, True, False, True, True, True, True, True])
    served = moe.within_capacity(first, 3, 1.0, real)  # floor(7 / 3) = 2; the padding of token 2 takes no place
    assert served[:, 0].tolist() == [True, True, False, True, True, False, True, False]
    assert moe.within_capacity(first, 3, 0.01)[:, 0].tolist() == [True, True, False, False, True, False, False, False]
    # two choices each, capacity floor(0.75 * 4 * 2 / 3) = 2: all first choices come before any second one
    both = torch.tensor([[0, 1], [2, 0], [0, 2], [1, 0]])
    assert moe.within_capacity(both, 3, 0.75).tolist() == [[True, True], [True, False], [True, True], [True, False]]


def test_dropped_tokens_get_nothing_from_the_block() -> None:
    model = nano("moe_mamba", capacity_factor=0.5).train()
    names = ["mixer.dropped", "mixer.expert_index", "mixer.router", "mixer.expert_out", "mixer_out"]
    with model.capture(*(f"blocks.1.{n}" for n in names)) as seen:
        model(tokens(2, 16))
    dropped, index, weight, said, out = (seen[f"blocks.1.{n}"].detach() for n in names)
    capacity, places = int(0.5 * 32 / 4), [0] * 4
    for i, e in enumerate(index.flatten().int().tolist()):
        assert bool(dropped.flatten()[i]) == (places[e] >= capacity)
        places[e] += 1
    where = dropped[..., 0].bool()
    assert 0 < int(where.sum()) < 32
    for value in (weight, said, out):
        assert not value[where].any() and value[~where].any(-1).all()
    with torch.no_grad(), model.eval().capture(MIXTURE + "dropped") as seen:
        model(tokens(2, 16))
    assert not seen[MIXTURE + "dropped"].any()


def test_the_balance_and_z_losses_are_those_of_the_papers() -> None:
    model = nano("moe_mamba", balance_weight=0.01, z_loss_weight=0.001).train()
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :5] = False
    with model.capture(MIXTURE + "router_logits", MIXTURE + "expert_index") as seen:
        model(tokens(2, 12), mask)
    scores, index = seen[MIXTURE + "router_logits"][mask].detach(), seen[MIXTURE + "expert_index"][mask]
    balance = z = 0.0
    for e in range(4):
        f = sum(int(i) == e for i in index[:, 0]) / 19
        P = sum(float(s[e].exp() / s.exp().sum()) for s in scores) / 19
        balance += 4 * f * P
    for s in scores:
        z += float(s.exp().sum().log()) ** 2 / 19
    assert model.auxiliary_loss is not None
    assert model.auxiliary_loss.item() == pytest.approx(0.01 * balance + 0.001 * z, abs=1e-14)
    assert mixture(model).expert_load.tolist() == pytest.approx([float((index == e).sum()) / 19 for e in range(4)])
    even = moe.load_balance_loss(torch.zeros(6, 4), torch.full((4,), 0.25))
    assert float(even) == pytest.approx(1.0)


def test_nothing_is_added_to_the_loss_outside_training() -> None:
    model = nano("moe_mamba").train()
    model(tokens(1, 4))
    assert model.auxiliary_loss is not None
    copied = copy.deepcopy(model)  # part of a graph, which cannot be copied
    assert copied.auxiliary_loss is None and copied.digest == model.digest
    model.eval()(tokens(1, 4))
    assert model.auxiliary_loss is None
    plain = nano("black_mamba").train()
    plain(tokens(1, 4))
    assert plain.auxiliary_loss is None and mixture(plain).expert_load is not None


def test_sinkhorn_is_the_matrix_of_its_definition() -> None:
    scores = drawn(40, 5)
    plan = moe.sinkhorn(scores, tolerance=1e-13)
    scaled = torch.exp(2 * scores)
    for _ in range(3000):
        scaled = scaled / scaled.sum(0) / 5
        scaled = scaled / scaled.sum(1, keepdim=True) / 40
    torch.testing.assert_close(plan, scaled, rtol=0, atol=1e-12)
    rough = moe.sinkhorn(scores)
    torch.testing.assert_close(rough.sum(1), torch.full((40,), 1 / 40, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(rough.sum(0), torch.full((5,), 1 / 5, dtype=torch.float64), rtol=1.01e-4, atol=0)


def test_the_sinkhorn_assignment_is_nearly_even_where_the_best_expert_is_not() -> None:
    scores = 0.7 * drawn(2000, 8) + torch.linspace(0, 3, 8, dtype=torch.float64)
    chosen = torch.bincount(moe.sinkhorn(scores).argmax(1), minlength=8)
    greedy = torch.bincount(scores.argmax(1), minlength=8)
    assert int(chosen.min()) > 200 and int(chosen.max()) < 300  # 250 each would be even
    assert int(greedy.max()) > 900


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sinkhorn_takes_any_finite_scores(dtype: torch.dtype) -> None:
    for scores in (1e4 * drawn(30, 4), torch.zeros(30, 4), drawn(30, 4) - 1e6, drawn(1, 4), drawn(30, 1)):
        assert bool(moe.sinkhorn(scores.to(dtype)).isfinite().all())


def test_black_mamba_balances_in_training_only() -> None:
    model = nano("black_mamba")
    with torch.no_grad():
        mixture(model).router.bias.copy_(torch.tensor([4.0, 0.0, 0.0, 0.0]))
    names = [MIXTURE + n for n in ("router_logits", "router", "expert_index")]
    for training in (True, False):
        with model.train(training).capture(*names) as seen, torch.no_grad():
            model(tokens(4, 16))
        scores, weight, index = (seen[n].flatten(0, 1) for n in names)
        plan = moe.sinkhorn(scores) if training else scores
        expected = plan.argmax(1, keepdim=True)
        assert torch.equal(index.long(), expected)
        torch.testing.assert_close(weight, torch.sigmoid(scores).gather(1, expected), rtol=0, atol=1e-15)
        loads = torch.bincount(expected[:, 0], minlength=4)
        assert (int(loads.max()) < 32) == training


@pytest.mark.parametrize("arch, changes", [("moe_mamba", {}), ("moe_mamba", {"router": "topk", "top_k": 2}),
                                           ("black_mamba", {})])  # fmt: skip
def test_the_loss_teaches_the_router(arch: str, changes: dict) -> None:
    model = nano(arch, balance_weight=0.0, **changes).train()
    model(tokens(2, 16)).log_softmax(-1)[..., 3].mean().backward()
    layer = mixture(model)
    assert model.auxiliary_loss is None
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in layer.parameters())
    balanced = nano("moe_mamba").train()
    balanced(tokens(2, 16))
    balanced.auxiliary_loss.backward()
    assert bool(mixture(balanced).router.weight.grad.any())


# -- neighbours and padding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arch", ["moe_mamba", "black_mamba"])
@torch.no_grad()
def test_padding_is_never_routed_and_takes_no_part(arch: str, training: bool) -> None:
    model = nano(arch, capacity_factor=0.8, balance_weight=0.01).train(training)
    text = tokens(1, 9)
    names = [MIXTURE + n for n in ("expert_index", "router", "dropped", "expert_out")]
    with model.capture(*names) as alone:
        expected = model(text)
    loss = model.auxiliary_loss
    for padding in range(3):  # whatever tokens stand in it
        padded = torch.cat([tokens(1, 7, seed=padding), text], 1)
        mask = torch.arange(16)[None] >= 7
        with model.capture(*names) as seen:
            logits = model(padded, mask)
        torch.testing.assert_close(logits[:, 7:], expected, rtol=0, atol=1e-12)
        assert (seen[names[0]][:, :7] == -1).all()
        assert not any(seen[name][:, :7].any() for name in names[1:])
        for name in names:
            torch.testing.assert_close(seen[name][:, 7:], alone[name], rtol=0, atol=1e-12)
        if training:
            assert float(model.auxiliary_loss) == pytest.approx(float(loss), abs=1e-12)
            assert float(mixture(model).expert_load.sum()) == pytest.approx(1.0)


@torch.no_grad()
def test_outside_training_no_token_depends_on_another_sequence() -> None:
    for arch in ("moe_mamba", "black_mamba"):
        model = nano(arch, capacity_factor=0.25)
        text = tokens(6, 12)
        together = model(text)
        for i in range(6):
            torch.testing.assert_close(model(text[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-12)


# -- sites -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_edit_of_the_logits_moves_the_token_to_another_expert() -> None:
    for arch in ("moe_mamba", "black_mamba"):
        model = nano(arch)
        with model.capture(MIXTURE + "expert_index", MIXTURE + "router_logits") as plain:
            model(tokens(2, 9))
        worst = int(plain[MIXTURE + "router_logits"][0, 4].argmin())
        for edit in (
            Add(MIXTURE + "router_logits", 50.0, positions=[4], channels=[worst]),
            Replace(MIXTURE + "router_probs", 2.0, positions=[4], channels=[worst]),
        ):
            with model.edit(edit), model.capture(MIXTURE + "expert_index") as edited:
                model(tokens(2, 9))
            moved = edited[MIXTURE + "expert_index"] != plain[MIXTURE + "expert_index"]
            assert int(edited[MIXTURE + "expert_index"][0, 4, 0]) == worst
            assert bool(moved[0, 4]) and not moved[:, [0, 1, 2, 3, 5, 6, 7, 8]].any()


@torch.no_grad()
def test_all_choices_of_topk_can_be_read_and_silenced() -> None:
    model = nano("moe_mamba", router="topk", top_k=2)
    names = ["mixer.router", "mixer.expert_out", "mixer.expert_index", "mixer_out", "resid_pre", "resid_post"]
    with model.capture(*(f"blocks.1.{n}" for n in names)) as seen:
        model(tokens(2, 9))
    weight, said, index, out, _, _ = (seen[f"blocks.1.{n}"] for n in names)
    assert said.shape == (2, 9, 24, 2) and index.shape == (2, 9, 2) and (index[..., 0] != index[..., 1]).all()
    assert (weight[..., 0] >= weight[..., 1]).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(2, 9, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(torch.einsum("btk,btdk->btd", weight, said), out, rtol=0, atol=1e-14)
    with model.edit(Scale(MIXTURE + "router", 0.0)), model.capture("blocks.1.resid_*") as quiet:
        model(tokens(2, 9))
    assert torch.equal(quiet["blocks.1.resid_pre"], quiet["blocks.1.resid_post"])


# -- shapes, options, precision ----------------------------------------------------------------------------------------


def test_blocks_are_mamba_and_mixture_in_turn_or_as_the_pattern_says(tmp_path) -> None:
    config = ModelConfig("moe_mamba", vocab_size=40, d_model=24, n_layers=5, own={"expert_size": 8})
    kinds = [type(block.mixer).__name__ for block in build(config, device="meta").backbone.layers]
    assert kinds == ["MambaMixer", "MoEMixer"] * 2 + ["MambaMixer"]
    own = {"expert_size": 8, "layer_pattern": ["2", "r", "6"]}
    model = build(replace(config, n_layers=3, own=own))
    assert [getattr(block.mixer, "n_experts", None) for block in model.backbone.layers] == [2, None, 6]
    again = load(model.save(tmp_path))
    assert again.config == model.config and again.digest == model.digest
    idle = (1 + 5) * 2 * 8 * 24
    assert model.n_active_parameters == model.n_parameters - idle


def test_the_tiny_sizes_are_what_they_were_meant_to_be() -> None:
    from mplat.train.sizes import model_config
    from mplat.train.train_config import ModelSection

    for arch in ("moe_mamba", "black_mamba"):
        section = ModelSection(arch=arch, size="tiny")
        model = build(model_config(section, 1024, tokenizer_name="t", eos_id=0), device="meta")
        assert model.n_layers == 6 and 1.6e6 < model.n_parameters < 1.75e6
        assert 0.75e6 < model.n_active_parameters < 0.85e6


def test_published_shape_of_moe_mamba() -> None:
    """16 sublayers of width 512 with 32 experts: 442 million parameters, 52 of them active."""
    config = ModelConfig("moe_mamba", vocab_size=50257, d_model=512, n_layers=16, own={"n_experts": 32})
    model = build(config, device="meta")
    assert (round(model.n_parameters / 1e6), round(model.n_active_parameters / 1e6)) == (442, 52)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"router": "swich_softmax"}, "did you mean 'switch_softmax'"),
        ({"expert_activation": "silu"}, "expert_activation 'silu'"),
        ({"n_experts": 0}, "n_experts must be a positive integer"),
        ({"top_k": 2}, "use router topk"),
        ({"router": "topk"}, "top_k of at least 2"),
        ({"router": "topk", "top_k": 9}, "top_k 9 is above the experts of block 1"),
        ({"capacity_factor": 0.0}, "capacity_factor must be above 0 or null"),
        ({"balance_weight": -1.0}, "balance_weight must be 0 or more"),
        ({"layer_pattern": ["r", "x", "r"]}, "layer_pattern holds 'x'"),
        ({"layer_pattern": ["r", "4"]}, "layer_pattern has 2 entries for 3 layers"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        ModelConfig("moe_mamba", vocab_size=40, d_model=24, n_layers=3, own=options)


def test_defaults_are_those_of_the_papers() -> None:
    switch, black = MoEOptions(), BlackMambaOptions()
    assert (switch.capacity_factor, switch.balance_weight, switch.expert_activation) == (1.0, 0.01, "relu")
    assert (black.router, black.capacity_factor, black.expert_activation) == ("sinkhorn", None, "gelu_gated")


def test_the_router_computes_in_float32_under_autocast() -> None:
    model = nano("moe_mamba", dtype=torch.float32).train()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        model.capture("blocks.1.mixer_in", MIXTURE + "router_logits") as seen,
    ):
        model(tokens(2, 9)).sum().backward()
    u, scores = seen["blocks.1.mixer_in"], seen[MIXTURE + "router_logits"]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, F.linear(u, mixture(model).router.weight), rtol=0, atol=1e-6)
