"""StripedHyena: the equations and files of the original, filters against their recurrence, and the recall start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import ModelConfig, Scale, build, load
from mplat.models.families.hyena.modal import impulse_response
from mplat.models.families.hyena.modal_fit import fit_modal
from mplat.models.parts.norms import RootEpsNorm
from mplat.train.sizes import model_config
from mplat.train.train_config import ModelSection
from safetensors.torch import load_file, save_file

D, LAYERS, HEADS, GROUPS, STATES, TAPS, HIDDEN, VOCAB, BASE = 24, 5, 4, 2, 3, 3, 40, 30, 5e5
P = D // HEADS
ATTENTION = (1, 4)
close = {"rtol": 0.0, "atol": 1e-10}


def original_config() -> dict[str, object]:
    return {
        "model_type": "stripedhyena", "vocab_size": VOCAB, "hidden_size": D, "num_filters": D, "num_layers": LAYERS,
        "attn_layer_idxs": list(ATTENTION), "hyena_layer_idxs": [0, 2, 3, 6], "num_attention_heads": HEADS,
        "proj_groups": HEADS // GROUPS, "state_size": STATES, "short_filter_length": TAPS, "short_filter_bias": True,
        "inner_mlp_size": HIDDEN, "rotary_emb_base": BASE, "eps": 1e-5, "tie_embeddings": False,
        "hyena_filter_groups": 1, "qkv_proj_bias": False, "mha_out_proj_bias": False, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip


def original_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under the names and shapes of togethercomputer/stripedhyena."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    weights = {"embedding_layer.weight": draw(VOCAB, D, scale=1.0), "norm.scale": 1 + draw(D)}
    weights["unembed.weight"] = draw(VOCAB, D)
    for i in range(LAYERS):
        block = {"pre_norm.scale": 1 + draw(D), "post_norm.scale": 1 + draw(D)}
        block |= {"mlp.l1.weight": draw(HIDDEN, D), "mlp.l2.weight": draw(HIDDEN, D), "mlp.l3.weight": draw(D, HIDDEN)}
        if i in ATTENTION:
            block["inner_mha_cls.Wqkv.weight"] = draw(D + 2 * GROUPS * P, D)
            block["inner_mha_cls.out_proj.weight"] = draw(D, D)
            block["inner_mha_cls.rotary_emb.inv_freq"] = 1 / BASE ** (torch.arange(0, P, 2) / P)
        else:
            block["projections.weight"], block["projections.bias"] = draw(3 * D, D), draw(3 * D)
            block["filter.short_filter_weight"] = draw(3 * D, 1, TAPS)
            block["filter.short_filter_bias"], block["filter.D"] = draw(3 * D), draw(D)
            radius, angle = torch.rand(D, STATES, generator=generator), 9 * torch.rand(D, STATES, generator=generator)
            block["filter.poles"] = torch.view_as_real(torch.polar(0.999 * radius, angle))[:, :, None]
            block["filter.residues"] = draw(D, STATES, 1, 2)
            block["out_filter_dense.weight"], block["out_filter_dense.bias"] = draw(D, D), draw(D)
        weights |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    return {"backbone." + name: tensor for name, tensor in weights.items()}


def original_forward(
    weights: dict[str, torch.Tensor], text: torch.Tensor, flash_norm: bool = True, eps: float = 1e-5
) -> torch.Tensor:
    """Logits (T, V) of one row, from the equations of the original's blocks and nothing of ours, in float64."""
    w = {name.removeprefix("backbone."): tensor.double() for name, tensor in weights.items()}
    length = len(text)

    def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if flash_norm:
            return scale * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
        return scale * x / (x.norm(2, dim=-1, keepdim=True) / D**0.5 + eps)

    def causal(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:  # x (T, C), taps (C, lags)
        return torch.stack(
            [sum(taps[:, t - s] * x[s] for s in range(t + 1) if t - s < taps.shape[1]) for t in range(length)]
        )

    def hyena(u: torch.Tensor, at: str) -> torch.Tensor:
        z = u @ w[at + "projections.weight"].T + w[at + "projections.bias"]
        z = causal(z, w[at + "filter.short_filter_weight"][:, 0].flip(1)) + w[at + "filter.short_filter_bias"]
        x2, x1, v = (part.reshape(length, D) for part in z.view(length, HEADS, 3, P).unbind(2))
        poles, residues = (torch.view_as_complex(w[at + "filter." + n]) for n in ("poles", "residues"))
        taps = (residues * poles ** torch.arange(length)).real.sum(1)
        y = x2 * (causal(x1 * v, taps) + w[at + "filter.D"] * x1 * v)
        return y @ w[at + "out_filter_dense.weight"].T + w[at + "out_filter_dense.bias"]

    def turn(x: torch.Tensor) -> torch.Tensor:  # (T, heads, P), halves as real and imaginary parts
        angle = torch.arange(length)[:, None, None] * (1 / BASE ** (torch.arange(0, P, 2).double() / P))
        pairs = torch.complex(x[..., : P // 2], x[..., P // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([pairs.real, pairs.imag], -1)

    def attention(u: torch.Tensor, at: str) -> torch.Tensor:
        qkv = (u @ w[at + "inner_mha_cls.Wqkv.weight"].T).view(length, HEADS + 2 * GROUPS, P)
        q, k, v = qkv[:, :HEADS], qkv[:, HEADS : HEADS + GROUPS], qkv[:, HEADS + GROUPS :]
        k, v = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (turn(k), v))
        scores = torch.einsum("thp,shp->hts", turn(q), k) / P**0.5
        scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
        z = torch.einsum("hts,shp->thp", scores.softmax(-1), v).reshape(length, D)
        return z @ w[at + "inner_mha_cls.out_proj.weight"].T

    x = w["embedding_layer.weight"][text]
    for i in range(LAYERS):
        at = f"blocks.{i}."
        x = x + (attention if i in ATTENTION else hyena)(norm(x, w[at + "pre_norm.scale"]), at)
        u = norm(x, w[at + "post_norm.scale"])
        gate, up = u @ w[at + "mlp.l1.weight"].T, u @ w[at + "mlp.l2.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ w[at + "mlp.l3.weight"].T
    return norm(x, w["norm.scale"]) @ w["unembed.weight"].T


def write(folder: Path, content: dict[str, object], weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content))
    save_file({n: t.contiguous() for n, t in weights.items()}, folder / "model.safetensors")
    return folder


@torch.no_grad()
def test_an_original_checkpoint_computes_the_originals_equations(tmp_path: Path) -> None:
    weights = original_weights()
    model = load(write(tmp_path / "m", original_config(), weights), dtype="float64")
    assert model.config.own.attn_layers == ATTENTION and model.config.own.kv_heads == GROUPS
    text = tokens(2, 19, vocab=VOCAB)
    logits = model(text)
    for row in range(2):
        torch.testing.assert_close(logits[row], original_forward(weights, text[row]), **close)
    state, parts = None, []
    for t in range(19):
        step, state = model(text[:, t : t + 1], state=state, return_state=True)
        parts.append(step)
    torch.testing.assert_close(torch.cat(parts, 1), logits, **close)


@torch.no_grad()
@pytest.mark.parametrize("flash", [True, False, None])
def test_both_norms_of_the_original_are_computed_and_kept(tmp_path: Path, flash: bool | None) -> None:
    """Small embeddings, where the place of eps is seen; without the key it is the norm of the released configs."""
    weights = original_weights()
    weights["backbone.embedding_layer.weight"] *= 1e-3
    given = {} if flash is None else {"use_flash_rmsnorm": flash}
    model = load(write(tmp_path / "m", original_config() | given, weights), dtype="float64")
    text = tokens(1, 9, vocab=VOCAB)
    kind = flash is not False
    assert model.config.own.eps_after_root is not kind
    torch.testing.assert_close(model(text)[0], original_forward(weights, text[0], kind), **close)
    other = original_forward(weights, text[0], not kind)
    assert float((model(text)[0] - other).abs().max()) > 1e-3 * float(other.abs().max())
    steps, state = [], None
    for t in range(9):
        logits, state = model(text[:, t : t + 1], state=state, return_state=True)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1)[0], original_forward(weights, text[0], kind), **close)
    again = model.save(tmp_path / "again", layout="stripedhyena")
    assert json.loads((again / "config.json").read_text())["use_flash_rmsnorm"] is kind
    ours = load(model.save(tmp_path / "ours"), dtype="float64")
    assert ours.config.own.eps_after_root is not kind
    # Models from before the option keep their config.json, hence their digest.
    assert ("eps_after_root" in json.loads((tmp_path / "ours" / "config.json").read_text())) is not kind
    torch.testing.assert_close(ours(text), model(text), **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_norm_with_eps_after_the_root(dtype: torch.dtype) -> None:
    norm = RootEpsNorm(8, 1e-3).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = (torch.randn(3, 4, 8) * torch.tensor([1e-4, 1.0, 100.0])[:, None, None]).to(dtype)
    wide = x.double()
    expected = norm.weight.double() * wide / (wide.square().mean(-1, keepdim=True).sqrt() + 1e-3)
    assert norm(x).dtype == dtype
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    torch.testing.assert_close(norm(x).double(), expected, rtol=tolerance, atol=0)
    nothing = torch.zeros(1, 8, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(nothing).sum(), nothing)
    torch.testing.assert_close(gradient[0], norm.weight.detach() / 1e-3, rtol=1e-2, atol=0)


@torch.no_grad()
def test_the_authors_names_without_the_prefix_and_tied_heads_are_read(tmp_path: Path) -> None:
    weights = {n.removeprefix("backbone."): t for n, t in original_weights().items()}
    weights["unembed.weight"] = weights["embedding_layer.weight"]
    weights["unembed.weight"] = weights["unembed.weight"].clone()
    model = load(write(tmp_path / "m", original_config() | {"tie_embeddings": True}, weights), dtype="float64")
    text = tokens(1, 9, vocab=VOCAB)
    assert model.lm_head is None
    torch.testing.assert_close(model(text)[0], original_forward(weights, text[0]), **close)


def test_a_checkpoint_written_back_is_the_one_that_was_read(tmp_path: Path) -> None:
    weights = original_weights()
    weights["backbone.blocks.0.filter.poles"][3, 1] = 0.0
    folder = write(tmp_path / "m", original_config(), weights)
    again = load(folder).save(tmp_path / "again", layout="stripedhyena")
    found = load_file(again / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found[name].shape == tensor.shape, name
        tolerance = 2e-7 if name.endswith("poles") else 0.0  # decay and angle are float32 in between
        torch.testing.assert_close(found[name].to(tensor.dtype), tensor, rtol=0, atol=tolerance)
    content = json.loads((again / "config.json").read_text())
    kept = original_config() | {"hyena_layer_idxs": [0, 2, 3]}  # there is no block 6
    assert {key: content[key] for key in kept} == kept


def test_a_model_of_ours_survives_their_layout(tmp_path: Path) -> None:
    for dtype, tied in ((torch.float64, True), (torch.float32, False), (torch.bfloat16, True)):
        model = nano("striped_hyena", n_layers=3, dtype=dtype, tie_embeddings=tied)
        name = str(dtype).removeprefix("torch.")
        again = load(model.save(tmp_path / name, layout="stripedhyena"), dtype=name)
        assert again.config.own.hidden_size(24) == model.config.own.hidden_size(24)
        with torch.no_grad():
            tolerance = 1e-12 if dtype == torch.float64 else 0.0
            torch.testing.assert_close(again(tokens(1, 9)), model(tokens(1, 9)), rtol=0, atol=tolerance)


def test_poles_that_do_not_decay_are_refused_by_name(tmp_path: Path) -> None:
    weights = original_weights()
    weights["backbone.blocks.2.filter.poles"][7, 1, 0] = torch.tensor([0.8, -0.7])
    with pytest.raises(InputError, match=r"blocks\.2\.filter\.poles: channel 7, state 1 has \|lambda\| = 1\.063"):
        load(write(tmp_path / "m", original_config(), weights))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hyena_filter_groups": 4}, "hyena_filter_groups 4 is not supported"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias"),
        ({"mlp_activation": "gelu"}, "only 'silu'"),
        ({"column_split_hyena": False}, "column_split_hyena"),
        ({"use_interpolated_rotary_pos_emb": True}, "use_interpolated_rotary_pos_emb"),
        ({"hyena_layer_idxs": [0, 3]}, "block 2 is neither"),
        ({"proj_groups": 3}, "proj_groups 3"),
        ({"num_attention_heads": 5, "proj_groups": 1}, "even width"),
        ({"rotary_emb_base": 1e4}, "inv_freq"),
        ({"state_size": 2}, "log_decay"),
        ({"use_flash_rmsnorm": "false"}, "use_flash_rmsnorm must be true or false"),
        ({"use_flash_rmsnorm": None}, "use_flash_rmsnorm must be true or false"),
    ],
)
def test_what_is_not_computed_here_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        load(write(tmp_path / "m", original_config() | change, original_weights()))


def test_a_config_without_a_needed_key_names_it(tmp_path: Path) -> None:
    content = original_config()
    del content["state_size"]
    with pytest.raises(InputError, match="there is no state_size"):
        load(write(tmp_path / "m", content, original_weights()))


@torch.no_grad()
def test_long_filters_are_their_recurrence_in_the_model() -> None:
    """A longer text than a chunk: the branch of a layer against a plain convolution with its filter."""
    model = nano("striped_hyena")
    layer = model.backbone.layers[0].mixer
    text = tokens(2, 150)
    with model.capture("blocks.0.mixer.long_conv_in", "blocks.0.mixer.long_conv_out") as acts:
        model(text)
    u, y = acts["blocks.0.mixer.long_conv_in"], acts["blocks.0.mixer.long_conv_out"]
    padded = torch.nn.functional.pad(u.transpose(1, 2), (149, 0))
    taps = layer.impulse_response(150).flip(1)[:, None]
    expected = torch.nn.functional.conv1d(padded, taps, groups=24).transpose(1, 2) + cast(torch.Tensor, layer.D) * u
    torch.testing.assert_close(y, expected, **close)


@torch.no_grad()
def test_the_filter_is_the_sites_poles_and_residues_and_edits_of_them_change_it() -> None:
    model = nano("striped_hyena")
    layer = model.backbone.layers[0].mixer
    with model.capture("blocks.0.mixer.poles", "blocks.0.mixer.residues") as acts:
        plain = model(tokens(1, 9))
    poles, residues = (torch.view_as_complex(acts[f"blocks.0.mixer.{n}"]) for n in ("poles", "residues"))
    torch.testing.assert_close(impulse_response(poles, residues, 20), layer.impulse_response(20), **close)
    with model.edit(Scale("blocks.0.mixer.poles", 0.0)):  # only the first tap is left
        forgetful = model(tokens(1, 9))
    layer.filter.log_decay.fill_(10.0)
    torch.testing.assert_close(model(tokens(1, 9)), forgetful, **close)
    assert not torch.allclose(forgetful, plain)


@torch.no_grad()
def test_attention_reads_earlier_tokens_only_through_its_own_layer() -> None:
    model = nano("striped_hyena", attn_layers=[0, 1])
    text = tokens(1, 9)
    with model.edit(Scale("blocks.*.mixer.v", 0.0)):
        blind = model(text)
    other = text.clone()
    other[0, :8] = tokens(1, 8, seed=5)[0]
    with model.edit(Scale("blocks.*.mixer.v", 0.0)):
        torch.testing.assert_close(model(other)[:, 8], blind[:, 8], **close)
    assert not torch.allclose(model(other)[:, 8], model(text)[:, 8])


def test_the_modal_filter_of_a_layer_can_be_fitted_with_fewer_modes() -> None:
    layer = nano("striped_hyena", modal_size=6).backbone.layers[0].mixer
    taps = layer.impulse_response(200)
    full, short = fit_modal(taps, 6), fit_modal(taps, 2)
    assert float(full.error.max()) < 1e-6 < float(short.error.max())


def test_layers_alternate_unless_told_otherwise() -> None:
    def kinds(**changes: object) -> list[str]:
        return [type(b.mixer).__name__ for b in nano("striped_hyena", n_layers=3, **changes).backbone.layers]

    assert kinds() == ["HyenaLayer", "AttentionLayer", "HyenaLayer"]
    assert kinds(attn_layers=[0, 2]) == ["AttentionLayer", "HyenaLayer", "AttentionLayer"]
    assert kinds(attn_layers=[]) == ["HyenaLayer"] * 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_heads": 5}, "even width"),
        ({"n_heads": 8}, "even width"),
        ({"n_kv_heads": 3}, "3 groups"),
        ({"attn_layers": [2]}, "block 2 of 2"),
        ({"modal_size": 0}, "modal_size"),
        ({"short_kernel": 1}, "short_kernel"),
        ({"rope_base": 0}, "rope_base"),
        ({"modal_sise": 2}, "did you mean 'modal_size'"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], text: str) -> None:
    values = {"arch": "striped_hyena", "vocab_size": 8, "d_model": 24, "n_layers": 2} | changes
    with pytest.raises(UsageError, match=text):
        ModelConfig.from_dict(values)


def test_filters_stay_float32_in_a_bfloat16_model_and_decay_is_not_weighed() -> None:
    model = build(nano("striped_hyena").config, 0)
    filter = model.backbone.layers[0].mixer.filter
    before = filter.log_decay.detach().clone()
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    assert filter.log_decay.dtype == torch.float32 and torch.equal(filter.log_decay, before)
    decay, plain = model.param_groups(0.1)
    exempt = {id(p) for p in plain["params"]}
    assert all(id(p) in exempt for p in filter.parameters())
    assert id(model.backbone.layers[1].mixer.q_proj.weight) in {id(p) for p in decay["params"]}


def found_by_content(init: str, layer: int, n_facts: int = 8) -> float:
    """Share of texts "k1 k1' v1 ... kn kn' vn, ki ki'" in which what attention adds at the last token looks like vi.

    Likeness is the product with the layer's input at each value's position; the greatest must be the right one's.
    """
    options = {"n_heads": 4, "n_kv_heads": 2, "rope_base": 5e5}
    config = ModelConfig("striped_hyena", vocab_size=512, d_model=128, n_layers=4, own=options)
    model = build(config, seed=3, init=init, embedding_std=0.2)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(40):
        facts = torch.randperm(512, generator=generator)[: 3 * n_facts].view(n_facts, 3)
        asked = int(torch.randint(n_facts, (), generator=generator))
        text = torch.cat([facts.flatten(), facts[asked, :2]])[None]
        with torch.no_grad(), model.capture(f"blocks.{layer}.mixer_in", f"blocks.{layer}.mixer_out") as acts:
            model(text)
        at_values = acts[f"blocks.{layer}.mixer_in"][0, 2 : 3 * n_facts : 3]
        found += int((at_values @ acts[f"blocks.{layer}.mixer_out"][0, -1]).argmax()) == asked
    return found / 40


def test_the_recall_start_looks_up_untrained_what_followed_a_like_token() -> None:
    """Block 3 does, where block 2 is a Hyena layer that writes the token before; block 0 is left to the reference."""
    assert found_by_content("recall", 3) > 0.5  # one in eight by chance
    assert found_by_content("reference", 3) < 0.3


def test_recall_starts_every_layer_but_the_first_and_draws_from_the_generator_only() -> None:
    config = nano("striped_hyena", n_layers=4).config
    reference, recall, again = (build(config, 1, init=i).state_dict() for i in ("reference", "recall", "recall"))  # pyright: ignore[reportArgumentType]
    changed = {name.split(".")[2] for name in recall if not torch.equal(recall[name], reference[name])}
    assert changed == {"1", "2", "3"}
    assert all(torch.equal(recall[name], again[name]) for name in recall)


@pytest.mark.parametrize(
    ("size", "low", "high"), [("130m", 0.11e9, 0.15e9), ("370m", 0.33e9, 0.42e9), ("2.8b", 2.5e9, 3.1e9)]
)
def test_named_sizes_have_about_the_size_of_their_name(size: str, low: float, high: float) -> None:
    config = model_config(ModelSection(arch="striped_hyena", size=size), 50280, tokenizer_name="t", eos_id=0)
    assert low < build(config, device="meta").n_parameters < high
