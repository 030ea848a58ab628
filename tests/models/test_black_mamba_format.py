"""BlackMamba's checkpoints: read, written, and refused where something else was computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import LanguageModel, ModelConfig, build, load
from mplat.models.files.catalog import entries, shape

D, FFN, EXPERTS, VOCAB, STATE = 16, 12, 3, 40, 4
CONFIG = {
    "num_layers": 4, "hidden_size": D, "state_size": STATE, "conv_dimension": 4, "vocab_size": VOCAB,
    "expansion_factor": 2, "mamba_moe_layers": ["r", "3", "r", "3"], "ffn_hidden_size": FFN, "bias": False,
    "add_bias_linear": False, "swiglu": True, "max_sequence_length": 2048, "num_attention_heads": 16,
}  # fmt: skip


def checkpoint() -> dict[str, torch.Tensor]:
    """Tensors named and shaped as in the published files, with numbers that mean nothing."""
    generator = torch.Generator().manual_seed(7)

    def new(*size: int) -> torch.Tensor:
        return 0.3 * torch.randn(*size, generator=generator)

    E, R = 2 * D, 1
    weights = {"embedding.word_embeddings.weight": new(VOCAB, D)}
    for i in range(4):
        at = f"decoder.layers.{i}."
        weights[at + "norm.weight"] = 1 + new(D)
        if i % 2 == 0:
            weights[at + "mixer.in_proj.weight"] = new(2 * E, D)
            weights[at + "mixer.conv1d.weight"], weights[at + "mixer.conv1d.bias"] = new(E, 1, 4), new(E)
            weights[at + "mixer.x_proj.weight"] = new(R + 2 * STATE, E)
            weights[at + "mixer.dt_proj.weight"], weights[at + "mixer.dt_proj.bias"] = new(E, R), new(E)
            weights[at + "mixer.A_log"], weights[at + "mixer.D"] = new(E, STATE), new(E)
            weights[at + "mixer.out_proj.weight"] = new(D, E)
            continue
        weights[at + "mixer.router.weight"], weights[at + "mixer.router.bias"] = new(EXPERTS, D), new(EXPERTS)
        for j in range(EXPERTS):
            weights[at + f"mixer.local_experts.{j}.linear_fc1.weight"] = new(2 * FFN, D)
            weights[at + f"mixer.local_experts.{j}.linear_fc2.weight"] = new(D, FFN)
    weights["decoder.final_layernorm.weight"], weights["decoder.final_layernorm.bias"] = 1 + new(D), new(D)
    return weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"model": checkpoint()}, tmp_path / "pytorch_model.bin")
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (CONFIG | changes).items() if v is not None}))


@torch.no_grad()
def test_a_checkpoint_means_what_its_reference_computes(folder: Path) -> None:
    model = load(folder, dtype=torch.float64)
    weights = {name: t.double() for name, t in checkpoint().items()}
    text = tokens(2, 11)
    with model.capture("blocks.*.resid_pre", "blocks.*.mixer_out", "blocks.3.resid_post") as seen:
        logits = model(text)
    assert torch.equal(seen["blocks.0.resid_pre"], weights["embedding.word_embeddings.weight"][text])
    for i in (1, 3):
        at = f"decoder.layers.{i}."
        x = seen[f"blocks.{i}.resid_pre"]
        u = weights[at + "norm.weight"] * x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        p = torch.sigmoid(u @ weights[at + "mixer.router.weight"].T + weights[at + "mixer.router.bias"])
        for b in range(2):
            for t in range(11):
                best = f"{at}mixer.local_experts.{int(p[b, t].argmax())}."
                gate, value = (weights[best + "linear_fc1.weight"] @ u[b, t]).split(FFN)
                said = weights[best + "linear_fc2.weight"] @ (F.gelu(gate) * value)
                torch.testing.assert_close(
                    seen[f"blocks.{i}.mixer_out"][b, t], p[b, t].max() * said, rtol=0, atol=1e-12
                )
    x = seen["blocks.3.resid_post"]
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    normed = normed * weights["decoder.final_layernorm.weight"] + weights["decoder.final_layernorm.bias"]
    expected = normed @ weights["embedding.word_embeddings.weight"].T
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_writing_a_checkpoint_gives_back_its_keys_and_tensors(folder: Path, tmp_path: Path) -> None:
    written = load(folder).save(tmp_path / "again", layout="blackmamba")
    again = torch.load(written / "pytorch_model.bin", weights_only=True)["model"]  # noqa: TID251
    expected = checkpoint()
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    content = json.loads((written / "config.json").read_text())
    read_by_the_reference = set(CONFIG) - {"bias", "num_attention_heads"}
    assert {k: content[k] for k in read_by_the_reference} == {k: CONFIG[k] for k in read_by_the_reference}
    assert load(written).digest == load(folder).digest


@pytest.mark.parametrize("pattern", [(), ("r", "r", "4", "2")])
@torch.no_grad()
def test_a_model_of_ours_survives_the_layout(pattern: tuple[str, ...], tmp_path: Path) -> None:
    model: LanguageModel = nano("black_mamba", dtype=torch.float32, n_layers=4, layer_pattern=pattern)
    again = load(model.save(tmp_path, layout="blackmamba"))
    assert again.config == model.config and again.digest == model.digest
    assert torch.equal(again(tokens(1, 7)), model(tokens(1, 7)))


def test_blocks_may_all_be_mamba(folder: Path) -> None:
    weights = {n.replace("layers.2.", "layers.1."): t for n, t in checkpoint().items() if ".layers.1." not in n}
    torch.save({"model": {n: t for n, t in weights.items() if ".layers.3." not in n}}, folder / "pytorch_model.bin")
    for none in ("", ["r", "r"]):
        edit_config(folder, num_layers=2, mamba_moe_layers=none)
        assert load(folder).config.own.layer_pattern == ("r", "r")


def test_what_another_program_would_compute_otherwise_is_refused(folder: Path) -> None:
    for changes, text in [
        ({"swiglu": False}, "config.json: swiglu False is not supported; only True"),
        ({"add_bias_linear": True}, "add_bias_linear True"),
        ({"rms_norm": False}, "rms_norm"),
        ({"routing_mode": "top2"}, "routing_mode 'top2'"),
        ({"mamba_moe_layers": ["r", "1", "r", "3"]}, "mamba_moe_layers holds '1'"),
        ({"mamba_moe_layers": ["r", "3", "r3", "3"]}, "mamba_moe_layers holds 'r3'"),
        ({"mamba_moe_layers": ["r", "3"]}, "mamba_moe_layers has 2 entries for 4 layers"),
        ({"hidden_size": "wide"}, 'hidden_size must be a whole number from 1 to 65536, not "wide"'),
        ({"state_size": None}, "there is no state_size"),
        ({"ffn_hidden_size": 13}, "config.json says"),
    ]:
        edit_config(folder, **changes)
        with pytest.raises(InputError, match=text):
            load(folder)


def test_a_missing_expert_is_noticed(folder: Path) -> None:
    weights = {n: t for n, t in checkpoint().items() if "local_experts.1." not in n}
    torch.save({"model": weights}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"fc1: \[0, 2\]"):
        load(folder)


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/nonexistent/never"),))


def test_i8_a_pickle_with_code_is_refused(folder: Path) -> None:
    torch.save({"model": checkpoint() | {"x": Malicious()}}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could run code"):
        load(folder)


def test_the_layout_holds_only_what_it_can_say(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layout 'blackmamba' holds no mamba models"):
        nano("mamba").save(tmp_path, layout="blackmamba")
    for changes, text in [
        ({"router": "switch_softmax"}, "router 'switch_softmax'"),
        ({"router_bias": False}, "router_bias False"),
        ({"tie_embeddings": False}, "tie_embeddings False"),
        ({"n_experts": 12}, "2 to 9 experts"),
    ]:
        with pytest.raises(UsageError, match=text):
            nano("black_mamba", **changes).save(tmp_path / "new", layout="blackmamba")
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize(
    "name, total, active", [("Zyphra/BlackMamba-2.8B", 2.783e9, 629e6), ("Zyphra/BlackMamba-1.5B", 1.458e9, 344e6)]
)
def test_the_published_models_have_their_published_size(name: str, total: float, active: float) -> None:
    model = build(shape(name), device="meta")
    assert model.n_parameters == pytest.approx(total, rel=5e-4)
    assert model.n_active_parameters == pytest.approx(active, rel=2e-3)
    entry = next(e for e in entries() if e.name == name)
    assert (entry.n_parameters, entry.n_active_parameters) == (model.n_parameters, model.n_active_parameters)
    assert entry.n_bytes == 2 * model.n_parameters and entry.licence == "Apache-2.0"  # bfloat16


def test_only_mixtures_have_idle_parameters() -> None:
    model = build(ModelConfig("mamba", vocab_size=40, d_model=24, n_layers=2), device="meta")
    assert model.n_active_parameters == model.n_parameters
