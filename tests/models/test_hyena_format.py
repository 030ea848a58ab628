"""Checkpoints of safari: read from a synthetic Lightning file of that layout, without running anything in it."""

from __future__ import annotations

import math
import os
import pickle  # noqa: TID251 - the test makes the hostile file
import sys
import types
from pathlib import Path

import pytest
import torch
from hyena_by_loops import operator_by_loops
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import load
from torch import Tensor

D, LAYERS, VOCAB, L, WIDTH, EMB, INNER = 12, 2, 40, 16, 6, 5, 2


def safari_tensors(order: int = 2) -> dict[str, Tensor]:
    """What safari's ConvLMHeadModel saves, as its classes register it, with random weights."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=g)

    channels, wide = (order - 1) * D, (order + 1) * D
    weights: dict[str, Tensor] = {"backbone.embeddings.word_embeddings.weight": draw(VOCAB, D)}
    fraction = torch.linspace(0, 1, L)[None, :, None]
    bands = (EMB - 1) // 2
    angle = 2 * math.pi * torch.linspace(0, L - 1, L)[None, :, None] / L
    wave = torch.exp(-1j * torch.linspace(1e-4, bands - 1, bands)[None, None] * angle)
    for i in range(LAYERS):
        at = f"backbone.layers.{i}."
        mlp = {"mlp.fc1.weight": (2 * D, D), "mlp.fc1.bias": (2 * D,), "mlp.fc2.weight": (D, 2 * D)}
        shapes = mlp | {"mlp.fc2.bias": (D,), "norm1.weight": (D,), "norm1.bias": (D,), "norm2.weight": (D,)}
        shapes |= {"norm2.bias": (D,), "mixer.in_proj.weight": (wide, D), "mixer.in_proj.bias": (wide,)}
        shapes |= {"mixer.out_proj.weight": (D, D), "mixer.out_proj.bias": (D,)}
        shapes |= {"mixer.short_filter.weight": (wide, 1, 3), "mixer.short_filter.bias": (wide,)}
        weights |= {at + name: draw(*shape) for name, shape in shapes.items()}
        f = at + "mixer.filter_fn."
        weights |= {f + "bias": draw(channels), f + "pos_emb.t": fraction.clone()}
        weights[f + "pos_emb.z"] = torch.cat([fraction, wave.real, wave.imag], -1) + 0.01 * draw(1, L, EMB)
        freq = 14 + draw(1, WIDTH)
        for layer in range(INNER + 1):
            weights[f"{f}implicit_filter.{2 * layer}.weight"] = draw(WIDTH, EMB if layer == 0 else WIDTH)
            weights[f"{f}implicit_filter.{2 * layer}.bias"] = draw(WIDTH)
            weights[f"{f}implicit_filter.{2 * layer + 1}.freq"] = freq
        weights[f"{f}implicit_filter.{2 * INNER + 2}.weight"] = draw(channels, WIDTH)
        slow, fast = math.log(1e-2) / 1.5, math.log(1e-2) / 0.3
        weights[f + "modulation.deltas"] = torch.linspace(slow, fast, channels)[None, None]
    weights |= {"backbone.ln_f.weight": 1 + draw(D), "backbone.ln_f.bias": draw(D)}
    weights["lm_head.weight"] = weights["backbone.embeddings.word_embeddings.weight"]
    return {"model." + name: tensor for name, tensor in weights.items()}


def write(folder: Path, weights: dict[str, Tensor], **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": 3, "global_step": 7, "state_dict": weights} | more, folder / "hyena_small_150b_tok.ckpt")
    return folder


def omegaconf_like(monkeypatch: pytest.MonkeyPatch) -> object:
    """An object whose class says it is omegaconf's, as Lightning stores its settings; it must never be made again."""
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self) -> None:
            self.content = {"d_model": 864}

        def __setstate__(self, state: object) -> None:
            raise AssertionError("code of the class was run")

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module.DictConfig = DictConfig  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    return DictConfig()


def test_a_lightning_file_is_read_with_its_shape_and_its_settings_ignored(tmp_path, monkeypatch) -> None:
    weights = safari_tensors()
    folder = write(tmp_path / "m", weights, hyper_parameters=omegaconf_like(monkeypatch), callbacks={"a": [1, 2.5]})
    monkeypatch.delitem(sys.modules, "omegaconf.dictconfig")
    monkeypatch.setitem(sys.modules, "omegaconf", None)  # importing it would now fail
    model = load(folder)
    own = model.config.own
    assert (model.config.vocab_size, model.config.d_model, model.config.n_layers) == (VOCAB, D, LAYERS)
    assert (own.order, own.max_length, own.filter_order, own.emb_dim, own.num_inner_mlps) == (2, L, WIDTH, EMB, INNER)
    assert (own.short_kernel, own.mlp_ratio, model.config.tie_embeddings) == (3, 2, True)


@pytest.mark.parametrize("order", [2, 3])
@torch.no_grad()
def test_the_model_computes_what_the_checkpoint_means(tmp_path, order: int) -> None:
    """Block by block with the file's own tensors; the operator by loops."""
    weights = {n.removeprefix("model."): t.double() for n, t in safari_tensors(order).items()}
    model = load(write(tmp_path / "m", safari_tensors(order)), dtype=torch.float64)
    text = tokens(1, 11)
    x = weights["backbone.embeddings.word_embeddings.weight"][text[0]]

    def norm(name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, (D,), weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    for i, block in enumerate(model.backbone.layers):
        at = f"backbone.layers.{i}."
        assert torch.equal(block.mixer.in_proj.weight, weights[at + "mixer.in_proj.weight"])
        f = at + "mixer.filter_fn."
        h = weights[f + "pos_emb.z"][0]
        for layer in range(INNER + 1):
            inner = f"{f}implicit_filter.{2 * layer}."
            h = h @ weights[inner + "weight"].T + weights[inner + "bias"]
            h = torch.sin(weights[f"{f}implicit_filter.{2 * layer + 1}.freq"] * h)
        decay = torch.exp(-weights[f + "pos_emb.t"][0] * weights[f + "modulation.deltas"][0].abs())
        k = (h @ weights[f"{f}implicit_filter.{2 * INNER + 2}.weight"].T * decay).T
        torch.testing.assert_close(block.mixer.implicit_filter(), k, rtol=0, atol=1e-6)
        x = x + torch.from_numpy(operator_by_loops(block.mixer, norm(at + "norm1", x).numpy()))
        hidden = norm(at + "norm2", x) @ weights[at + "mlp.fc1.weight"].T + weights[at + "mlp.fc1.bias"]
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        x = x + hidden @ weights[at + "mlp.fc2.weight"].T + weights[at + "mlp.fc2.bias"]
    expected = norm("backbone.ln_f", x) @ weights["lm_head.weight"].T
    torch.testing.assert_close(model(text)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"learn_positions": True}, {"order": 3, "tie_embeddings": False, "window_shift": 0.05}], ids=str
)
@torch.no_grad()
def test_writing_and_reading_keeps_the_function(tmp_path, changes) -> None:
    model = nano("hyena", state_size=16, **changes)
    again = load(model.save(tmp_path / "m", layout="safari"), dtype=torch.float64)
    assert again.config == model.config
    torch.testing.assert_close(again(tokens(2, 9)), model(tokens(2, 9)), rtol=0, atol=1e-12)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value) or name.endswith("z_offset"), name


def test_names_written_are_the_names_read(tmp_path) -> None:
    model = load(write(tmp_path / "m", safari_tensors(3)))
    saved = model.save(tmp_path / "again", layout="safari") / "hyena.ckpt"
    content = torch.load(saved, weights_only=True)["state_dict"]  # noqa: TID251 - our own file
    expected = safari_tensors(3)
    assert set(content) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(content[name], value, rtol=0, atol=1e-6, msg=name)


class _RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_i8_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "m", safari_tensors(), hyper_parameters=_RunsCode())
    with pytest.raises(InputError, match=r"refused, this pickle asks for \w+\.mkdir and could run code"):
        load(folder)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match=r"asks for builtins\.eval"):
        folder = write(tmp_path / "m", safari_tensors(), hyper_parameters=eval)
        load(folder)


def changed(**values: Tensor | None) -> dict[str, Tensor]:
    """`safari_tensors` with tensors replaced, or left out, by the end of their name."""
    weights = safari_tensors()
    for end, value in values.items():
        name = next(n for n in weights if n.endswith(end.replace("__", ".")))
        weights = {n: t for n, t in weights.items() if n != name} | ({} if value is None else {name: value})
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (changed(pos_emb__t=torch.zeros(1, L, 1)), "not evenly spaced from 0 to 1"),
        (changed(pos_emb__z=torch.zeros(1, L, 7)), "has shape"),
        (changed(implicit_filter__3__freq=torch.ones(1, WIDTH)), "they are one parameter"),
        (changed(in_proj__weight=None), "no tensor 'backbone.layers.0.mixer.in_proj.weight'"),
        (changed(norm1__bias=None), "missing"),
        (changed() | {"model.backbone.layers.1.mixer.Wqkv.weight": torch.ones(3, 3)}, "unexpected"),
        ({}, "no tensor"),
    ],
    ids=["t", "z", "freq", "in_proj", "norm", "attention", "empty"],
)
def test_checkpoints_that_mean_something_else_are_refused(tmp_path, weights, message) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "m", weights))


def test_files_that_are_no_checkpoints_are_refused(tmp_path) -> None:
    folder = write(tmp_path / "m", safari_tensors())
    path = folder / "hyena_small_150b_tok.ckpt"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match="damaged"):
        load(folder)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no dictionary of tensors under 'state_dict'"):
        load(folder)
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(InputError, match="not a checkpoint of PyTorch"):
        load(folder)
    write(folder, safari_tensors())
    (folder / "other.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match="holds 2 checkpoints"):
        load(folder)


def test_recipes_of_another_function_are_named(tmp_path) -> None:
    folder = nano("hyena").save(tmp_path / "m", layout="safari")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"_name_": "hyena",', '"_name_": "hyena", "normalized": true,'))
    with pytest.raises(InputError, match=r"layer\.normalized True is not supported; only False is"):
        load(folder)
    with pytest.raises(UsageError, match="layout 'safari' holds no mamba models"):
        nano("mamba").save(tmp_path / "other", layout="safari")
