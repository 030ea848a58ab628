"""A head that differs from the embedding although config.json ties them: the file is right, as in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from adapter_zoo import CASES, theirs
from model_zoo import nano, tokens
from mplat.core.errors import InputError
from mplat.models import load
from mplat.models.files.tied_weights import settle
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers_float64 import relative

SHAPE = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "tie_word_embeddings": True}
MAMBAS = {
    "Mamba": SHAPE, "FalconMamba": SHAPE, "Mamba2": {**SHAPE, "head_dim": 8, "num_heads": 6, "n_groups": 2},
}  # fmt: skip
EMBEDDINGS = ("embeddings.weight", "embed_tokens.weight", "wte.weight", "embed_in.weight")
# Nemotron-H is never tied in transformers, whatever config.json says
HYBRIDS = [case for case in CASES if ":" not in case and case != "nemotron_h"]


def tied_folder(kind: str, folder: Path) -> transformers.PreTrainedModel:
    if kind in MAMBAS:
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**MAMBAS[kind]))
    else:
        model = theirs(kind, tie_word_embeddings=True)
    model.eval().save_pretrained(folder)
    return model


def with_head(folder: Path, head: torch.Tensor | None) -> None:
    """Write another head beside the embedding; None: the embedding itself, once more."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    embedding = next(t for n, t in weights.items() if n.endswith(EMBEDDINGS))
    name = "embed_out.weight" if any(n.startswith("gpt_neox.") for n in weights) else "lm_head.weight"
    save_file(weights | {name: (embedding if head is None else head).clone()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", [*MAMBAS, *HYBRIDS])
@torch.no_grad()
def test_the_file_s_head_is_used_as_transformers_uses_it(kind: str, tmp_path: Path) -> None:
    model, text = tied_folder(kind, tmp_path), tokens(2, 9)
    with_head(tmp_path, None)
    same = load(tmp_path)
    assert same.config.tie_embeddings and relative(same(text), model(text).logits) <= 1e-5
    with_head(tmp_path, torch.randn(40, 24, generator=torch.Generator().manual_seed(5)))
    options = {"experts_implementation": "eager"} if kind == "jamba" else {}
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, **options)(text).logits
    assert relative(expected, model(text).logits) > 0.1
    ours = load(tmp_path)
    assert relative(ours(text), expected) <= 1e-5
    assert not ours.config.tie_embeddings and ours.config.to_hf()["tie_word_embeddings"] is False
    again = load(ours.save(tmp_path / "again"))
    assert again.digest == ours.digest
    assert relative(AutoModelForCausalLM.from_pretrained(tmp_path / "again", **options)(text).logits, expected) <= 1e-5


@pytest.mark.parametrize("file", ["head like the embedding", "no head", "base model without a head"])
@torch.no_grad()
def test_a_class_that_never_ties_gets_files_with_a_head(file: str, tmp_path: Path) -> None:
    """transformers draws a new head for a Nemotron-H file without one: what is saved must hold both."""
    model, text = theirs("nemotron_h", tie_word_embeddings=True), tokens(2, 9)
    model.lm_head.weight.copy_(model.model.embeddings.weight)
    (model.model if file.startswith("base") else model).save_pretrained(tmp_path)
    if file == "no head":
        path = tmp_path / "model.safetensors"
        save_file({n: t for n, t in load_file(path).items() if n != "lm_head.weight"}, path, metadata={"format": "pt"})
    ours, expected = load(tmp_path), model(text).logits
    assert relative(ours(text), expected) <= 1e-5
    ours.save(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", experts_implementation="eager")
    assert relative(again(text).logits, expected) <= 1e-5
    assert load(tmp_path / "again").digest == ours.digest


@torch.no_grad()
def test_shared_blocks_that_differ_are_not_shared(tmp_path: Path) -> None:
    """Zamba2 ties the shared block's weights as well: a file may repeat them, and a repetition may differ."""
    model, text = theirs("zamba2"), tokens(2, 9)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    shared = {n: t for n, t in weights.items() if ".0.shared_transformer." in n}
    repeated = {n.replace("layers.0.", "layers.3."): t.clone() for n, t in shared.items()}
    save_file(weights | repeated, path, metadata={"format": "pt"})
    assert load(tmp_path).digest == load(model.save_pretrained(tmp_path / "once") or tmp_path / "once").digest
    other = {n: t + 0.1 * torch.ones_like(t) for n, t in repeated.items()}
    save_file(weights | other, path, metadata={"format": "pt"})
    ours = load(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits
    assert relative(expected, model(text).logits) > 1e-3
    assert relative(ours(text), expected) <= 1e-5 and not ours.config.tie_embeddings


@pytest.mark.parametrize("arch", ["moe_mamba", "dense_mamba", "hyena", "striped_hyena"])
@torch.no_grad()
def test_our_own_architectures_do_the_same(arch: str, tmp_path: Path) -> None:
    untied = nano(arch, dtype=torch.float32, tie_embeddings=False)
    untied.save(tmp_path)
    path = tmp_path / "config.json"
    for said in ({"tie_word_embeddings": True}, {}):
        content = {k: v for k, v in json.loads(path.read_text()).items() if k != "tie_word_embeddings"} | said
        path.write_text(json.dumps(content))
        assert torch.equal(load(tmp_path)(tokens(1, 5)), untied(tokens(1, 5)))


@pytest.mark.parametrize("layout", ["stripedhyena", "original"])
@torch.no_grad()
def test_other_layouts_do_the_same(layout: str, tmp_path: Path) -> None:
    arch = "striped_hyena" if layout == "stripedhyena" else "mamba2"
    untied = nano(arch, dtype=torch.float32, tie_embeddings=False)
    untied.save(tmp_path, layout=layout)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_embeddings": True}))
    torch.testing.assert_close(load(tmp_path)(tokens(1, 5)), untied(tokens(1, 5)))


def test_either_name_is_enough_and_neither_is_not(tmp_path: Path) -> None:
    model = nano("mamba", dtype=torch.float32)
    path = model.save(tmp_path) / "model.safetensors"
    weights = load_file(path)
    embedding = weights.pop("backbone.embeddings.weight")
    save_file(weights | {"lm_head.weight": embedding}, path)
    assert load(tmp_path).digest == model.digest
    save_file(weights, path)
    with pytest.raises(InputError, match=r"missing \['backbone.embeddings.weight'\]"):
        load(tmp_path)
    save_file(weights | {"backbone.embeddings.weight": embedding}, path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    with pytest.raises(InputError, match="the weights have no head"):
        load(tmp_path)


def test_of_several_copies_none_is_lost() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    ties = [("x", "z"), ("y", "z")]
    assert settle({"x": a, "y": a.half()}, ties)[1]  # equal values, the original missing
    found, tied = settle({"x": a, "y": b}, ties)
    assert not tied and torch.equal(found["x"], a) and torch.equal(found["y"], b) and torch.equal(found["z"], a)
    found, tied = settle({"z": a, "y": b}, ties)
    assert not tied and torch.equal(found["x"], a)
    assert settle({"z": a, "y": torch.ones(3)}, ties)[1] is False
