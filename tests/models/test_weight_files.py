"""Every layout of weight files that transformers writes is read; an index is believed in nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapter_zoo import CASES, theirs
from model_zoo import nano, tokens
from mplat.core.errors import InputError
from mplat.models import load
from safetensors.torch import load_file, save_file
from transformers_float64 import relative

SHAPE = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "tie_word_embeddings": True}
MAMBAS = {
    "mamba": ("Mamba", SHAPE), "falcon_mamba": ("FalconMamba", SHAPE),
    "mamba2": ("Mamba2", {**SHAPE, "head_dim": 8, "num_heads": 6, "n_groups": 2}),
}  # fmt: skip
ALL = [*MAMBAS, *(case for case in CASES if ":" not in case)]
INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"


def model_of(kind: str) -> Any:
    """transformers' model, whose head is its embedding: what a base model's file can say."""
    if kind not in MAMBAS:
        return theirs(kind, tie_word_embeddings=True)
    name, shape = MAMBAS[kind]
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape)).eval()


def pickle_shards(weights: dict[str, torch.Tensor], folder: Path, parts: int) -> None:
    """The shards that older versions of transformers wrote."""
    place: dict[str, str] = {}
    for part in range(parts):
        name = f"pytorch_model-{part + 1:05d}-of-{parts:05d}.bin"
        held = dict(list(weights.items())[part::parts])
        torch.save(held, folder / name)
        place |= dict.fromkeys(held, name)
    (folder / PICKLED_INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_shards_of_both_kinds(kind: str, tmp_path: Path) -> None:
    model, text = model_of(kind), tokens(2, 9)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    expected = model(text).logits
    ours = load(tmp_path)
    assert relative(ours(text), expected) <= 1e-5
    weights = {n: t for path in tmp_path.glob("model-*.safetensors") for n, t in load_file(path).items()}
    for path in (*tmp_path.glob("model-*.safetensors"), tmp_path / INDEX):
        path.unlink()
    pickle_shards(weights, tmp_path, 3)
    assert load(tmp_path).digest == ours.digest


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_a_base_model_s_file_has_no_prefix(kind: str, tmp_path: Path) -> None:
    model, text = model_of(kind), tokens(2, 9)
    if kind == "nemotron_h":
        model.lm_head.weight = model.base_model.embeddings.weight  # transformers does not tie it by itself
    model.base_model.save_pretrained(tmp_path)
    assert not any(
        n.startswith(("backbone.", "model.", "gpt_neox.")) for n in load_file(tmp_path / "model.safetensors")
    )
    ours = load(tmp_path)
    assert relative(ours(text), model(text).logits) <= 1e-5
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert load(tmp_path).digest == ours.digest


@pytest.mark.parametrize("shards", [1, 3])
def test_the_original_layout_in_the_same_ways(shards: int, tmp_path: Path) -> None:
    """mamba_ssm's backbone alone, and in shards."""
    model = nano("mamba2", dtype=torch.float32)
    path = model.save(tmp_path, layout="original") / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)  # noqa: TID251
    bare = {n.removeprefix("backbone."): t for n, t in weights.items() if n != "lm_head.weight"}
    assert "embedding.weight" in bare
    if shards == 1:
        torch.save(bare, path)
    else:
        path.unlink()
        pickle_shards(bare, tmp_path, shards)
    assert load(tmp_path).digest == model.digest


def test_a_base_model_of_an_untied_one_cannot_be_used(tmp_path: Path) -> None:
    for kind in ("bamba", "nemotron_h", "gpt_neox"):
        theirs(kind, tie_word_embeddings=False).base_model.save_pretrained(tmp_path / kind)
        with pytest.raises(InputError, match="the weights have no head.*a base model alone"):
            load(tmp_path / kind)


@pytest.mark.parametrize("case", ["jamba", "nemotron_h", "nemotron_h:latent"])
@torch.no_grad()
def test_experts_in_one_tensor(case: str, tmp_path: Path) -> None:
    model, text = theirs(case), tokens(2, 9)
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    model.save_pretrained(tmp_path / "single")
    assert any(n.endswith("experts.down_proj") for n in load_file(tmp_path / "stacked" / "model.safetensors"))
    ours = load(tmp_path / "stacked")
    assert relative(ours(text), model(text).logits) <= 1e-5
    assert ours.digest == load(tmp_path / "single").digest
    path = tmp_path / "single" / "model.safetensors"
    both = load_file(path) | load_file(tmp_path / "stacked" / "model.safetensors")
    save_file({n: t.clone() for n, t in both.items()}, path)
    with pytest.raises(InputError, match="is in the weights twice"):
        load(tmp_path / "single")


# -- what an index may say -------------------------------------------------------------------------------------------


@pytest.fixture(params=["safetensors", "pickle"])
def sharded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The index of a model in two shards."""
    model = nano("mamba", dtype=torch.float32)
    path = model.save(tmp_path) / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    if request.param == "pickle":
        pickle_shards(weights, tmp_path, 2)
    else:
        place = {}
        for part in range(2):
            name, held = f"model-{part}.safetensors", dict(list(weights.items())[part::2])
            save_file(held, tmp_path / name)
            place |= dict.fromkeys(held, name)
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": place}))
    assert load(tmp_path).digest == model.digest
    return next(tmp_path.glob("*.index.json"))


Change = Callable[[dict[str, Any]], Any]
HOSTILE: dict[str, tuple[Change, str]] = {
    "a list": (lambda whole: [whole], "holds no JSON object"),
    "no map": (lambda whole: {"metadata": {}}, "it has no weight_map"),
    "a map that is a list": (lambda whole: {"weight_map": list(whole["weight_map"])}, "it has no weight_map"),
    "an empty map": (lambda whole: {"weight_map": {}}, "it has no weight_map"),
    "null": (lambda whole: {"weight_map": None}, "it has no weight_map"),
    "a number": (lambda whole: {"weight_map": whole["weight_map"] | {"a": 3}}, r"weight_map\['a'\] is 3"),
    "a nested map": (lambda whole: {"weight_map": whole["weight_map"] | {"a": {"b": "c"}}}, r"weight_map\['a'\] is"),
    "no name": (lambda whole: {"weight_map": whole["weight_map"] | {"a": ""}}, r"weight_map\['a'\] is ''"),
    "above": (lambda whole: {"weight_map": whole["weight_map"] | {"a": "../x.bin"}}, "outside its folder"),
    "the folder above": (lambda whole: {"weight_map": whole["weight_map"] | {"a": ".."}}, "outside its folder"),
    "absolute": (lambda whole: {"weight_map": whole["weight_map"] | {"a": "/etc/passwd"}}, "outside its folder"),
    "a zero": (lambda whole: {"weight_map": whole["weight_map"] | {"a": "x\0.bin"}}, "outside its folder"),
    "a part that is not there": (
        lambda whole: {"weight_map": whole["weight_map"] | {"a": "other.bin"}}, "files that are not there: other.bin",
    ),
    "a tensor that is not there": (
        lambda whole: {"weight_map": whole["weight_map"] | {"a": next(iter(whole["weight_map"].values()))}},
        "holds a, which it does not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_index_is_believed_in_nothing(kind: str, sharded: Path) -> None:
    change, message = HOSTILE[kind]
    sharded.write_text(json.dumps(change(json.loads(sharded.read_text()))))
    with pytest.raises(InputError, match=message) as error:
        load(sharded.parent)
    assert sharded.name in str(error.value) and "\n" not in str(error.value)


def test_an_index_that_is_no_json(sharded: Path) -> None:
    for content, message in (
        (b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b"[" * 100_000, "nested too deeply|not valid"),
        (b'{"weight_map": {"a": "b", "a": "c"}}', "has the key 'a' twice"),
    ):  # fmt: skip
        sharded.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load(sharded.parent)


def test_a_tensor_in_two_files_is_the_same_in_both(sharded: Path) -> None:
    place = json.loads(sharded.read_text())["weight_map"]
    name, at = next(iter(place.items()))
    other = sharded.parent / next(part for part in place.values() if part != at)
    safe = other.suffix == ".safetensors"

    def copy_into(change: float) -> None:
        read = load_file if safe else (lambda path: torch.load(path, weights_only=True))  # noqa: TID251
        held = read(other) | {name: read(sharded.parent / at)[name] + change}
        save_file(held, other) if safe else torch.save(held, other)

    copy_into(0.0)
    load(sharded.parent)
    copy_into(1.0)
    with pytest.raises(InputError, match="stands in .* and .* with different values"):
        load(sharded.parent)


def test_a_folder_where_a_file_should_be(sharded: Path) -> None:
    sharded.unlink()
    sharded.mkdir()
    with pytest.raises(InputError, match="is a folder, and should be a file"):
        load(sharded.parent)
