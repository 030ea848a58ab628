"""Loading and saving: both layouts, both ways; bad folders are refused with the file and the reason."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - to make the files that must be refused
from pathlib import Path

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import LanguageModel, ModelConfig, build, load
from safetensors.torch import load_file, save_file


@pytest.fixture(params=STATE_SPACE)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return nano(request.param, dtype=torch.float32).save(tmp_path / "model")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("arch", STATE_SPACE)
@torch.no_grad()
def test_original_layout_both_ways(arch: str, tmp_path: Path) -> None:
    model = nano(arch, dtype=torch.float32, expand=3, conv_kernel=3, n_groups=1)
    model.save(tmp_path, layout="original")
    content = json.loads((tmp_path / "config.json").read_text())
    assert "model_type" not in content and content["n_layer"] == 2
    stored = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)  # noqa: TID251
    assert "backbone.embedding.weight" in stored and "lm_head.weight" in stored
    again = load(tmp_path)
    assert again.config == model.config and again.digest == model.digest
    assert torch.equal(again(tokens(1, 7)), model(tokens(1, 7)))


@torch.no_grad()
def test_an_original_checkpoint_as_it_is_published(tmp_path: Path) -> None:
    """The real files' config: 199 bytes, an unpadded vocabulary, an empty ssm_cfg."""
    for ssm, arch, multiple, padded, state in (({}, "mamba", 8, 56, 16), ({"layer": "Mamba2"}, "mamba2", 16, 64, 128)):
        (tmp_path / "config.json").write_text(
            json.dumps({
                "d_model": 64, "n_layer": 1, "vocab_size": 53, "ssm_cfg": ssm, "rms_norm": True,
                "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": multiple,
            })
        )  # fmt: skip
        model = build(ModelConfig(arch, vocab_size=padded, d_model=64, n_layers=1, state_size=state), seed=3)
        weights = {n.replace("embeddings", "embedding"): t for n, t in model.state_dict().items()}
        weights["lm_head.weight"] = weights["backbone.embedding.weight"]
        torch.save(weights, tmp_path / "pytorch_model.bin")
        assert torch.equal(load(tmp_path)(tokens(1, 5)), model(tokens(1, 5)))


def test_an_original_config_may_write_out_what_is_computed_anyway(tmp_path: Path) -> None:
    """The defaults of mamba_ssm's Mamba2, and what only places or initialises; other values are refused by key."""
    model = nano("mamba2", dtype=torch.float32)
    model.save(tmp_path, layout="original")
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    harmless = {
        "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "d_ssm": 48, "conv_init": None,
        "A_init_range": [1, 16], "use_mem_eff_path": True, "sequence_parallel": True, "process_group": None,
        "layer_idx": None, "learnable_init_states": False, "activation": "swish",
    }  # fmt: skip
    given = content["ssm_cfg"]
    for ssm in (harmless, {"d_ssm": None}):
        path.write_text(json.dumps(content | {"ssm_cfg": given | ssm, "attn_layer_idx": [], "attn_cfg": {}}))
        assert load(tmp_path).digest == model.digest
    for key, wrong in {
        "rmsnorm": False, "norm_before_gate": True, "D_has_hdim": True, "d_ssm": 24, "activation": "gelu",
        "learnable_init_states": True, "process_group": 1,
    }.items():  # fmt: skip
        path.write_text(json.dumps(content | {"ssm_cfg": given | {key: wrong}}))
        with pytest.raises(InputError, match=rf"config.json: ssm_cfg.{key} {wrong!r} is not supported; only"):
            load(tmp_path)


def test_dtype_and_untied_head(tmp_path: Path) -> None:
    model = nano("mamba2", dtype=torch.float32, tie_embeddings=False)
    model.save(tmp_path, dtype=torch.float16)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype == torch.float16
    assert load(tmp_path).dtype == torch.float32
    assert load(tmp_path, dtype="float64").dtype == torch.float64
    with pytest.raises(UsageError, match="did you mean 'float32'"):
        load(tmp_path, dtype="float23")


def test_digest_follows_weights_config_and_nothing_else(folder: Path) -> None:
    model, same = load(folder), load(folder)
    assert model.digest == same.digest
    with torch.no_grad():
        same.backbone.norm_f.weight[3] += 1e-3
    assert model.digest != same.digest
    assert load(folder, dtype=torch.float64).digest != model.digest


def test_i6_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'tiny-mumba'"):
        load("tiny-mumba")
    with pytest.raises(InputError, match="no config.json"):
        load(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        load(folder)
    with pytest.raises(InputError, match="is a file"):
        load(folder / "config.json")


def test_i6_bad_configs(folder: Path) -> None:
    path = folder / "config.json"
    good = path.read_text()
    for changes, text in [
        ({"model_type": "llama"}, "model_type 'llama' is not supported"),
        ({"hidden_act": "gelu"}, "only silu"),
        ({"hidden_size": -3}, "hidden_size must be a whole number from 1 to 65536, not -3"),
        ({"hidden_size": 32}, "shape|head"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "unexpected"),
    ]:
        path.write_text(good)
        edit_json(path, **changes)
        with pytest.raises(InputError, match=text):
            load(folder)
    path.write_text(good[: len(good) // 2])
    with pytest.raises(InputError, match="not valid JSON"):
        load(folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        load(folder)


def test_i6_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    for damaged in (good[: len(good) // 2], good[:4], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors.*(damaged|truncated)"):
            load(folder)
    path.write_bytes(good)
    weights = load_file(path)
    for value in (float("nan"), float("inf")):
        bad = {n: t.clone() for n, t in weights.items()}
        bad["backbone.norm_f.weight"][0] = value
        save_file(bad, path)
        with pytest.raises(InputError, match="norm_f.weight contains NaN or infinite"):
            load(folder)
    bad = weights | {"backbone.norm_f.weight": torch.ones(24, dtype=torch.int32)}
    save_file(bad, path)
    with pytest.raises(InputError, match="must be floating point"):
        load(folder)


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/nonexistent/never"),))


def test_i8_pickles_with_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"backbone.embedding.weight": Malicious()}, path)
    with pytest.raises(InputError, match="could run code"):
        load(folder)
    path.write_bytes(pickle.dumps({"x": Malicious()}))
    with pytest.raises(InputError, match="pytorch_model.bin"):
        load(folder)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(InputError, match="damaged or truncated|could run code"):
        load(folder)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no dictionary of tensors"):
        load(folder)


def test_original_layout_with_parts_we_do_not_compute(tmp_path: Path) -> None:
    base = {"d_model": 16, "n_layer": 1, "vocab_size": 32, "ssm_cfg": {}}
    for changes, text in [
        ({"attn_layer_idx": [0]}, "attention"),
        ({"rms_norm": False}, "rms_norm"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "did you mean"),
        ({"ssm_cfg": {"headdimm": 3}}, "headdimm"),
        ({"vocab_size": "many"}, 'vocab_size must be a whole number from 1 to 8388608, not "many"'),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(base | changes))
        torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match=text):
            load(tmp_path)


def test_i5_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    from mplat.datasets.tokenizer import SHIPPED

    model: LanguageModel = nano("mamba", dtype=torch.float32)
    model.save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((Path(SHIPPED) / name).read_bytes())
    with pytest.raises(InputError, match="1024 tokens but the embedding only 40"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer.json"):
        load(tmp_path)


def test_a_model_of_many_more_layers_than_its_files_hold_is_not_built(tmp_path, monkeypatch):
    from mplat.models import block

    build(ModelConfig("mamba", vocab_size=16, d_model=8, n_layers=1, state_size=2), seed=0).save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 4096}))
    made = []
    real = block.Block.__init__
    monkeypatch.setattr(block.Block, "__init__", lambda self, *a, **k: (made.append(1), real(self, *a, **k))[1])
    with pytest.raises(InputError, match="config.json, which asks for more than [0-9]+ tensors where the files hold"):
        load(tmp_path)
    assert len(made) < 20
    made.clear()
    with pytest.raises(InputError, match="num_hidden_layers must be a whole number from 1 to 4096"):
        (tmp_path / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 10**12}))
        load(tmp_path)
    assert not made


def test_i19_code_in_a_models_folder_is_never_run(tmp_path: Path) -> None:
    from mplat.datasets.tokenizer import SHIPPED

    folder = build(ModelConfig("mamba", vocab_size=1024, d_model=8, n_layers=1, state_size=2)).save(tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SHIPPED / name).read_bytes())
    before = load(folder).digest
    for name in ("modeling", "configuration", "tokenization"):
        (folder / f"{name}_own.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\nclass Own: pass\n")
    code = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    edit_json(folder / "config.json", auto_map=code)
    tokens_code = {"AutoTokenizer": ["tokenization_own.Own", "tokenization_own.Own"]}
    edit_json(folder / "tokenizer_config.json", auto_map=tokens_code, tokenizer_class="Own")
    found = load(folder)
    assert found.tokenizer is not None and type(found) is LanguageModel and found.digest == before
    edit_json(folder / "config.json", model_type="own", architectures=["Own"])
    with pytest.raises(InputError, match=r"config\.json: model_type 'own' is not supported"):
        load(folder)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@torch.no_grad()
def test_weights_are_the_pages_of_the_file_until_they_are_changed(dtype: str, tmp_path: Path) -> None:
    """Processes that load a folder share its pages, where the dtype is that of the file, and none writes to them."""
    file = nano("mamba", dtype=torch.float32).save(tmp_path) / "model.safetensors"
    before = file.read_bytes()
    model = load(tmp_path, dtype=dtype)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    shared = [any(low <= p.data_ptr() < high for low, high in spans) for p in model.parameters()]
    assert set(shared) == {dtype == "float32"} and {line[1] for line in lines} <= {"rw-p"}
    for parameter in model.parameters():
        parameter.add_(1)
    assert file.read_bytes() == before and load(tmp_path).digest != model.digest
