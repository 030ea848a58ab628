"""SAELens' format, to and fro: read by a hand-written reader, by steering, and by SAELens where it is installed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from mplat.core.errors import InputError
from mplat.interp.methods.sae.dictionary import SparseDictionary
from mplat.interp.methods.sae.saelens import read_saelens, write_saelens
from mplat.steering.features import read_dictionary

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(5))


def dictionary(kind: str) -> SparseDictionary:
    generator = torch.Generator().manual_seed(0)
    w = [torch.randn(shape, generator=generator) for shape in ((6, 9), (9,), (9, 6), (6,))]
    threshold = torch.rand(9, generator=generator) if kind == "jumprelu" else None
    return SparseDictionary(*w, threshold, 3 if kind == "topk" else None)


def by_hand(folder: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents and reconstruction out of the bytes of the two files, as their format describes them."""
    config = json.loads((folder / "cfg.json").read_text())
    raw = (folder / "sae_weights.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = {name: about for name, about in json.loads(raw[8 : 8 + size]).items() if name != "__metadata__"}
    t = {
        name: np.frombuffer(raw[8 + size :][slice(*about["data_offsets"])], "<f4").reshape(about["shape"])
        for name, about in header.items()
    }
    assert all(about["dtype"] == "F32" for about in header.values())
    assert (config["d_in"], config["d_sae"]) == t["W_enc"].shape == t["W_dec"].shape[::-1]
    assert config["apply_b_dec_to_input"] is True and config["normalize_activations"] == "none"
    z = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    f = np.maximum(z, 0)
    if config["architecture"] == "topk":
        f = np.where(z >= np.sort(z, 1)[:, -config["k"]][:, None], f, 0)
    if config["architecture"] == "jumprelu":
        f = f * (z > t["threshold"])
    return f, f @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_what_is_written_is_the_format_and_is_read_back(kind: str, tmp_path: Path) -> None:
    own = dictionary(kind)
    folder = write_saelens(own, tmp_path / "sae", model="tiny-mamba", site="blocks.2.resid_post")
    assert json.loads((folder / "cfg.json").read_text())["architecture"] == kind
    f, back = by_hand(folder, X.numpy())
    np.testing.assert_allclose(own.latents(X).numpy(), f, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own.decoded(own.latents(X)).numpy(), back, rtol=1e-5, atol=1e-5)
    again = read_saelens(folder)
    for name, tensor in own.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name
    if kind == "topk":
        with pytest.raises(InputError, match="kind 'topk'"):
            read_dictionary(folder / "sae_weights.safetensors")
    else:
        steering = read_dictionary(folder / "sae_weights.safetensors")
        torch.testing.assert_close(steering.latents(X).float(), own.latents(X), rtol=1e-5, atol=1e-6)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_saelens(own, folder, model="tiny-mamba", site="blocks.2.resid_post")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_one_whose_inputs_are_not_centred_is_read_as_what_it_computes(tmp_path: Path) -> None:
    own = dictionary("standard")
    folder = write_saelens(own, tmp_path, model="m", site="s")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": False}))
    wanted = (X @ own.W_enc + own.b_enc).relu()
    torch.testing.assert_close(read_saelens(folder).latents(X), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own.latents(X), wanted, atol=1e-2)


@pytest.mark.parametrize(("change", "message"), [
    ({"architecture": "gated"}, "architecture 'gated' is not read; standard, jumprelu, topk are"),
    ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'; fold that"),
    ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
    ({"architecture": "jumprelu"}, "a threshold belongs to architecture jumprelu alone"),
    ({"architecture": "topk"}, "k is None; a topk autoencoder has a number of latents"),
])  # fmt: skip
def test_what_would_be_another_dictionary_is_refused_by_name(change: dict, message: str, tmp_path: Path) -> None:
    folder = write_saelens(dictionary("standard"), tmp_path, model="m", site="s")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        read_saelens(folder)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cfg.json"):
        read_saelens(tmp_path)
    folder = write_saelens(dictionary("standard"), tmp_path, model="m", site="s")
    (folder / "sae_weights.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged, or not in SAELens' format"):
        read_saelens(folder)
    with pytest.raises(InputError, match=r"W_enc has shape \(2, 2\), which should be \(6, 9\)"):
        own = dictionary("standard")
        SparseDictionary(torch.zeros(2, 2), own.b_enc, own.W_dec, own.b_dec)
    with pytest.raises(InputError, match="sae: W_dec holds values that are not finite"):
        SparseDictionary.of(own.tensors() | {"W_dec": torch.full((9, 6), torch.nan)}, "sae")
    with pytest.raises(InputError, match="sae: has no tensor b_enc"):
        SparseDictionary.of({k: v for k, v in own.tensors().items() if k != "b_enc"}, "sae")


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_saelens_itself_reads_it_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed (extra sae-lens)")
    own = dictionary(kind)
    write_saelens(own, tmp_path, model="tiny-mamba", site="blocks.2.resid_post")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(X), own.latents(X), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs.decode(theirs.encode(X)), own.decoded(own.latents(X)), rtol=1e-5, atol=1e-5)
    theirs.save_model(str(tmp_path / "again"))
    again = read_saelens(tmp_path / "again")
    torch.testing.assert_close(again.latents(X), own.latents(X))
