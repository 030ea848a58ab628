"""Stable-Mamba: the definition as plain loops, its bounds, its decays, and the attention's choice of keys."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import ModelConfig, Scale, build
from mplat.models.families.stable_mamba.compression import bounded_gain, compression_factor, running_mean
from mplat.models.families.stable_mamba.gates import ensemble, gate_output
from mplat.models.families.stable_mamba.sparse_attention import (
    attention_weights,
    choose,
    kept_keys,
    sparse_attention,
    visible_keys,
)
from mplat.models.families.stable_mamba.timescales import logits_of, steps
from mplat.models.kernels import ssd
from mplat.models.linear_recurrence import write_share

TAU = (0.7, 0.9, 0.98)


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(init="reference", dtype=torch.float64, **options):
    config = ModelConfig(
        "stable_mamba", vocab_size=512, d_model=64, n_layers=3, state_size=32, head_dim=16, expand=1, own=options
    )
    return build(config, seed=3, dtype=dtype, init=init).eval()


# -- timescales -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 3e-16), (torch.float32, 1.2e-7)])
@torch.no_grad()
def test_decays_at_the_start_are_tau_for_every_token_and_head(dtype, rounding):
    model = reference(dtype=dtype)
    with model.capture("blocks.*.mixer.delta") as acts:
        model(tokens(2, 9, vocab=512))
    expected = torch.tensor(TAU, dtype=torch.float64).repeat_interleave(4)
    for delta in acts.values():
        assert delta.shape == (2, 9, 12)
        assert float((torch.exp(-delta.double()) - expected).abs().max()) <= rounding


@torch.no_grad()
def test_other_decays_can_be_chosen_and_half_of_the_slow_heads_are_slower_in_the_recall_initialisation():
    model = reference("recall", tau=[0.5, 0.6, 0.9])
    with model.capture("blocks.*.mixer.delta") as acts:
        model(tokens(1, 4, vocab=512))
    plain = torch.tensor([0.5] * 4 + [0.6] * 4 + [0.9] * 4, dtype=torch.float64)
    recall = torch.tensor([0.5] * 4 + [0.6] * 4 + [0.995] * 2 + [0.9] * 2, dtype=torch.float64)
    for layer, expected in enumerate((plain, recall, recall)):
        decay = torch.exp(-acts[f"blocks.{layer}.mixer.delta"])
        torch.testing.assert_close(decay, expected.expand(1, 4, 12), rtol=0, atol=1e-7)  # offsets were float32


@torch.no_grad()
def test_decays_stay_within_rho_of_their_start():
    model = reference(rho_max=0.5).requires_grad_(False)
    for block in model.backbone.layers:
        block.mixer.offset_out.weight.add_(100 * seeded(12, 4))
        block.mixer.rho_logits.fill_(50.0)
    with model.capture("blocks.*.mixer.delta") as acts:
        model(tokens(2, 9, vocab=512))
    start = torch.tensor([math.log(t / (1 - t)) for t in TAU], dtype=torch.float64).repeat_interleave(4)
    for delta in acts.values():
        logit = -torch.log(torch.expm1(delta))  # of exp(-delta)
        moved = (logit - start).abs()
        assert 0.4 < float(moved.max()) <= 0.5 + 1e-12


@pytest.mark.parametrize("nearness", [0.3, 1e-2, 1e-4, 1e-8, 1e-13])
def test_the_ssd_form_is_the_explicit_recurrence_also_near_one(nearness):
    """1 - a and a are both taken from their own sigmoid here, so that neither loses digits."""
    T, H, P, N = 40, 3, 4, 5
    x, B, C = seeded(2, T, H, P, seed=1), seeded(2, T, 1, N, seed=2), seeded(2, T, 1, N, seed=3)
    scores = math.log((1 - nearness) / nearness) + 0.5 * seeded(2, T, H, seed=4)
    delta = steps(torch.zeros(H, dtype=torch.float64), scores)
    A = -torch.ones(H, dtype=torch.float64)
    y, final = ssd(x * write_share(delta)[..., None], delta, A, B, C, return_state=True)
    h = torch.zeros(2, H, P, N, dtype=torch.float64)
    for t in range(T):
        keep, write = torch.sigmoid(scores[:, t]), torch.sigmoid(-scores[:, t])
        h = keep[..., None, None] * h + (write[..., None] * x[:, t])[..., None] * B[:, t, :, None]
        torch.testing.assert_close(y[:, t], (h * C[:, t, :, None]).sum(-1), rtol=1e-12, atol=1e-12 * nearness)
    torch.testing.assert_close(final, h, rtol=1e-12, atol=1e-12 * nearness)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_share_written_and_its_slope_are_right_down_to_a_step_of_zero(dtype, tolerance):
    delta = torch.tensor([0.0, 1e-30, 1e-9, 1e-5, 1e-4, 1e-3, 9e-3, 1.1e-2, 0.1, 1.0, 5.0], dtype=dtype)
    delta.requires_grad_(True)
    share = write_share(delta)
    (slope,) = torch.autograd.grad(share.sum(), delta)
    for d, value, rate in zip(delta.tolist(), share.tolist(), slope.tolist(), strict=True):
        series = [(-d) ** k / math.factorial(k + 1) for k in range(40)]
        rates = [-(k + 1) * (-d) ** k / math.factorial(k + 2) for k in range(40)]
        assert value == pytest.approx(sum(series), rel=2 * torch.finfo(dtype).eps)
        assert rate == pytest.approx(sum(rates), rel=tolerance)


def test_logits_are_exact_to_rounding():
    logits = logits_of(TAU, 2, torch.zeros((), dtype=torch.float64))
    assert logits.tolist() == pytest.approx([math.log(t / (1 - t)) for t in TAU for _ in range(2)], rel=1e-15)


# -- gates and compression --------------------------------------------------------------------------------------


def test_the_gates_are_a_convex_mixture_that_only_shrinks():
    u, scores = seeded(2, 5, 8), [10 * seeded(2, 5, 8, seed=s) for s in (1, 2, 3)]
    weights = torch.softmax(seeded(3, seed=4), 0)
    mixed = ensemble([gate_output(s, u) for s in scores], weights)
    expected = sum(w / (1 + torch.exp(-s)) for w, s in zip(weights, scores, strict=True)) * u
    torch.testing.assert_close(mixed, expected)
    assert bool((mixed.abs() <= u.abs()).all())


def test_compression_factors_lie_between_their_bounds():
    scores = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4], dtype=torch.float64)
    factors = compression_factor(scores, 0.5)
    assert factors[0] == 0.5 and factors[2] == 0.75 and factors[-1] == 1.0
    assert bool((factors.diff() > 0).all())
    model = nano("stable_mamba", c_min=0.5)
    with model.capture("blocks.*.mixer.compression", "blocks.*.mixer.gain") as acts, torch.no_grad():
        model(tokens(3, 20))
    for name, value in acts.items():
        low, high = (0.5, 1.0) if name.endswith("compression") else (0.0, 2.0)
        assert low < float(value.min()) < float(value.max()) < high
        assert float(value.std()) > 1e-4


def test_the_gain_is_one_at_theta_and_turns_loud_outputs_down():
    y = seeded(1, 1, 16)
    y = y / y.square().mean().sqrt()
    loudness = torch.tensor([0.0, 1e-200, 0.1, 0.7, 3.0, 1e3], dtype=torch.float64).view(-1, 1, 1)
    kappa, theta = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    scaled = (y * loudness).requires_grad_(True)
    gain = bounded_gain(scaled, kappa, theta)
    expected = 2 / (1 + torch.exp(-2.0 * (0.7 - loudness)))
    torch.testing.assert_close(gain, expected, rtol=1e-12, atol=1e-15)
    (slope,) = torch.autograd.grad(gain.sum(), scaled)
    assert bool(slope.isfinite().all())  # also for an output of zeros


def test_the_running_mean_is_a_causal_average_that_padding_and_documents_respect():
    u, decay = seeded(2, 9, 4), 0.8
    keep = torch.arange(9)[None] < torch.tensor([[6], [9]])
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 3] = reset[1, 7] = True
    start = seeded(2, 4, seed=1)
    mean, last = running_mean(u, decay, start, reset, keep)
    for row in range(2):
        m = start[row]
        for t in range(9 if row else 6):
            m = decay * (0 * m if reset[row, t] else m) + (1 - decay) * u[row, t]
            torch.testing.assert_close(mean[row, t], m, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(last[row], m, rtol=1e-12, atol=1e-14)


# -- sparse attention -------------------------------------------------------------------------------------------


def test_the_number_of_keys_is_the_rounded_up_share_of_the_tokens_so_far():
    n = torch.tensor([1, 2, 19, 20, 21, 40, 41, 100, 2001])
    assert kept_keys(n, 0.95).tolist() == [1, 1, 1, 1, 2, 2, 3, 5, 101]  # in floats, 20 tokens would have 2
    assert kept_keys(n, 0.0).tolist() == n.tolist()
    assert kept_keys(torch.tensor([3]), 0.999999).tolist() == [1]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.95])
def test_each_token_attends_to_exactly_its_number_of_best_keys_and_never_to_the_future(sparsity):
    width, past = 30, 7
    seen = torch.tensor([7.0, 3.0])
    reset = torch.zeros(2, width, dtype=torch.bool)
    reset[1, 12] = True
    visible = visible_keys(2, width, past, seen, reset, seen)
    q, k = seeded(2, 3, width, 8, seed=1), seeded(2, 3, 8, past + width, seed=2)
    weights = attention_weights(q, k, visible, sparsity)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, width, dtype=torch.float64))
    for row in range(2):
        for t in range(width):
            oldest = past - int(seen[row]) if row == 0 or t < 12 else past + 12
            allowed = set(range(oldest, past + t + 1))
            n = len(allowed)
            expected = max(1, math.ceil(round((1 - sparsity) * n, 9)))
            for head in range(3):
                scores = {s: float(q[row, head, t] @ k[row, head, :, s]) for s in allowed}
                best = set(sorted(scores, key=lambda s: scores[s])[-expected:])
                assert set(weights[row, head, t].nonzero().flatten().tolist()) == best


def test_equal_scores_are_taken_latest_first():
    scores = torch.tensor([2.0, 5.0, 2.0, 2.0, 9.0]).expand(1, 1, 5, 5)
    visible = visible_keys(1, 5, 0, torch.zeros(1), None, scores)
    chosen = choose(scores, visible, torch.tensor([[1, 1, 2, 3, 2]]))
    assert [row.nonzero().flatten().tolist() for row in chosen[0, 0]] == [[0], [1], [1, 2], [1, 2, 3], [1, 4]]
    same = choose(torch.zeros(1, 1, 5, 5), visible, torch.tensor([[1, 1, 2, 2, 3]]))
    assert [row.nonzero().flatten().tolist() for row in same[0, 0]] == [[0], [1], [1, 2], [2, 3], [2, 3, 4]]


def test_long_texts_are_read_in_blocks_with_the_same_result(monkeypatch):
    q, k, v = (seeded(1, 2, 4, 23, seed=s) for s in (1, 2, 3))
    visible = visible_keys(1, 23, 0, torch.zeros(1), None, q)
    whole = sparse_attention(q.transpose(2, 3), k, v, visible, 0.7)
    monkeypatch.setattr("mplat.models.families.stable_mamba.sparse_attention.QUERY_BLOCK", 5)
    torch.testing.assert_close(sparse_attention(q.transpose(2, 3), k, v, visible, 0.7), whole, rtol=0, atol=1e-14)


def test_only_critical_layers_attend():
    with torch.device("meta"):
        model = build(ModelConfig("stable_mamba", vocab_size=8, d_model=16, n_layers=12, head_dim=8), device="meta")
    found = {s.name for s in model.sites() if s.name.endswith("sparse_attn")}
    assert found == {f"blocks.{i}.mixer.sparse_attn" for i in (0, 5, 10)}
    assert not any("sparse_attn" in s.name for s in nano("stable_mamba", attn_every=0).sites())


# -- the whole layer --------------------------------------------------------------------------------------------


def layer_by_loops(w, u, own, heads, head_dim, attends):
    """One sequence u (T, d) through a layer with weights w, number by number as the definition reads."""
    T, d = u.shape
    E, N = heads * head_dim, w["conv1d.weight"].shape[0] // 2 - 3 * heads * head_dim // 2
    sigmoid, silu = torch.sigmoid, torch.nn.functional.silu
    mean, state = torch.zeros(d).double(), torch.zeros(3, heads, head_dim, N).double()
    inputs, ys, outs = [], [], []
    mix = w["timescale_logits"].exp() / w["timescale_logits"].exp().sum()
    ensemble_weights = w["gate_logits"].exp() / w["gate_logits"].exp().sum()
    for t in range(T):
        gated = torch.zeros(d).double()
        for k in range(own.n_gates):
            part = slice(k * d, (k + 1) * d)
            gated += ensemble_weights[k] * sigmoid(w["gates.weight"][part] @ u[t] + w["gates.bias"][part]) * u[t]
        mean = own.mean_decay * mean + (1 - own.mean_decay) * u[t]
        hidden = silu(w["compress_in.weight"] @ torch.cat([u[t], mean]) + w["compress_in.bias"])
        score = w["compress_out.weight"][0] @ hidden + w["compress_out.bias"][0]
        v = (own.c_min + (1 - own.c_min) * sigmoid(score)) * gated
        inputs.append(w["in_proj.weight"] @ v)
        convolved = w["conv1d.bias"].clone()
        for back in range(w["conv1d.weight"].shape[2]):
            if t - back >= 0:
                convolved += w["conv1d.weight"][:, 0, -1 - back] * inputs[t - back]
        x, B, C = silu(convolved).split([3 * E, N, N])
        raw = torch.tanh(w["offset_out.weight"] @ (w["offset_in.weight"] @ v))
        y = torch.zeros(E).double()
        for j in range(3):
            for head in range(heads):
                i = j * heads + head
                rho = own.rho_max * sigmoid(w["rho_logits"][j])
                a = sigmoid(math.log(own.tau[j] / (1 - own.tau[j])) + w["tau_offset"][i] + rho * raw[i])
                value = x[i * head_dim : (i + 1) * head_dim]
                state[j, head] = a * state[j, head] + (1 - a) * torch.outer(value, B)
                at = slice(head * head_dim, (head + 1) * head_dim)
                y[at] += mix[j] * (state[j, head] @ C / N**0.5 + w["D"][i] * value)
        ys.append(y)
        out = y
        if attends:
            normed = [w["attention.norm.weight"] * p / (p.square().mean() + 1e-5).sqrt() for p in ys]
            q = w["attention.qk.weight"][:E] @ normed[t]
            keys = [w["attention.qk.weight"][E:] @ p for p in normed]
            values = [w["attention.value.weight"] @ p for p in ys]
            places = max(1, math.ceil(round((1 - own.sparsity) * (t + 1), 9)))
            read = torch.zeros(E).double()
            for head in range(heads):
                at = slice(head * head_dim, (head + 1) * head_dim)
                scores = [float(q[at] @ key[at]) / head_dim**0.5 for key in keys]
                best = sorted(range(t + 1), key=lambda s: (scores[s], s))[-places:]
                total = sum(math.exp(scores[s]) for s in best)
                for s in best:
                    read[at] += math.exp(scores[s]) / total * values[s][at]
            out = y + sigmoid(w["attention.memory_gate"]) * read
        kappa = torch.log1p(torch.exp(w["kappa"]))
        gain = 2 * sigmoid(kappa * (w["theta"] - out.square().mean().sqrt()))
        outs.append(w["out_proj.weight"] @ (gain * out))
    return torch.stack(outs)


@pytest.mark.parametrize(("sparsity", "expand"), [(0.95, 1), (0.6, 2), (0.0, 1)])
@torch.no_grad()
def test_the_layer_is_what_plain_loops_compute(sparsity, expand):
    model = nano("stable_mamba", sparsity=sparsity, expand=expand, state_size=6)
    for layer in (0, 1):
        names = [f"blocks.{layer}.{name}" for name in ("mixer_in", "mixer_out")]
        with model.capture(*names) as acts:
            model(tokens(1, 26))
        mixer = model.backbone.layers[layer].mixer
        found = layer_by_loops(
            mixer.state_dict(), acts[names[0]][0], model.config.own, model.config.n_heads, 8, attends=layer == 0
        )
        torch.testing.assert_close(acts[names[1]][0], found, rtol=0, atol=1e-10)
        assert float(found.std()) > 1e-3


@pytest.mark.parametrize("sparsity", [0.6, 0.0])
@torch.no_grad()
def test_decoding_equals_prefill_where_several_keys_are_attended_to(sparsity):
    model = nano("stable_mamba", sparsity=sparsity)
    text = tokens(2, 21)
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[0, 8] = reset[1, 15] = True
    whole = model(text, reset=reset)
    for cuts in ([1] * 21, [6, 1, 14]):
        state, parts, at = None, [], 0
        for n in cuts:
            part = slice(at, at + n)
            logits, state = model(text[:, part], state=state, return_state=True, reset=reset[:, part])
            parts.append(logits)
            at += n
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11)
        assert state is not None and state.layers[0]["seen"].tolist() == [13, 6]
        assert state.layers[0]["past_k"].shape[2] >= 13 and "past_k" not in state.layers[1]


@pytest.mark.parametrize("sparsity", [0.95, 0.5])
def test_the_future_has_no_gradient_and_no_influence(sparsity):
    model = nano("stable_mamba", sparsity=sparsity)
    text = tokens(1, 30)
    other = text.clone()
    other[:, 17:] = tokens(1, 13, seed=5)
    assert torch.equal(model(text)[:, :17], model(other)[:, :17])
    with model.capture("embed", gradients=True) as acts:
        logits = model(text)
    (gradient,) = torch.autograd.grad(logits[0, 16].sum(), [acts["embed"]])
    assert torch.count_nonzero(gradient[0, 17:]) == 0 and bool((gradient[0, :17] != 0).any(-1).all())


# -- sites and initialisation -----------------------------------------------------------------------------------


@torch.no_grad()
def test_the_states_channels_are_fast_medium_slow_and_give_their_read_outs():
    model = nano("stable_mamba")
    E, H = model.config.inner_size, model.config.n_heads
    at = "blocks.1.mixer."
    readouts = [at + f"ssm_{name}" for name in ("fast", "medium", "slow")]
    with model.capture(at + "h", at + "C", at + "x", at + "y", at + "timescale_weights", *readouts) as acts:
        model(tokens(2, 7))
    skip = model.backbone.layers[1].mixer.D.repeat_interleave(E // H) * acts[at + "x"]
    joint = torch.einsum("bten,btn->bte", acts[at + "h"], acts[at + "C"]) + skip
    for j, name in enumerate(readouts):
        torch.testing.assert_close(acts[name], joint[..., j * E : (j + 1) * E], rtol=0, atol=1e-12)
    mixed = sum(w * acts[name] for w, name in zip(acts[at + "timescale_weights"], readouts, strict=True))
    torch.testing.assert_close(acts[at + "y"], mixed, rtol=0, atol=1e-12)
    with model.edit(Scale(at + "h", 0.0, channels=range(E))), model.capture(*readouts) as edited:
        model(tokens(2, 7))
    assert not torch.equal(edited[readouts[0]], acts[readouts[0]])
    assert all(torch.equal(edited[name], acts[name]) for name in readouts[1:])


def hits(init):
    """Share of sequences "k1 k1' v1 ... kn kn' vn, ki ki'" in which C of the last token points at vi's B."""
    rows, n, generator = 40, 8, torch.Generator().manual_seed(0)
    facts = torch.rand(rows, 512, generator=generator).argsort(1)[:, : 3 * n].view(rows, n, 3)
    asked = torch.randint(n, (rows,), generator=generator)
    text = torch.cat([facts.flatten(1), facts[torch.arange(rows), asked, :2]], 1)
    model = reference(init)
    with torch.no_grad(), model.capture("blocks.1.mixer.B", "blocks.1.mixer.C") as acts:
        model(text)
    B, C = acts["blocks.1.mixer.B"], acts["blocks.1.mixer.C"]
    pointed_at = torch.einsum("bvn,bn->bv", B[:, 2 : 3 * n : 3], C[:, -1]).argmax(1)
    return float((pointed_at == asked).double().mean())


def test_the_recall_initialisation_points_at_the_value_of_the_key():
    assert hits("recall") > 0.5  # one in eight by chance
    assert hits("reference") < 0.3


def test_wrong_options_are_refused():
    for options, text in [
        ({"n_gates": 0}, "n_gates"),
        ({"tau": (0.7, 0.9)}, "tau must be a list of 3 finite numbers"),
        ({"tau": (0.7, 0.9, 1.0)}, "three decays"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"c_min": -0.1}, "c_min"),
        ({"mean_decay": 1.0}, "mean_decay"),
        ({"rho_max": -1.0}, "rho_max"),
        ({"compression_hidden": 0}, "compression_hidden"),
        ({"n_gate": 2}, "did you mean 'n_gates'"),
    ]:
        with pytest.raises(UsageError, match=text):
            reference(**options)
    with pytest.raises(UsageError, match="not a multiple of head_dim"):
        ModelConfig("stable_mamba", vocab_size=8, d_model=24, n_layers=1, head_dim=10)
