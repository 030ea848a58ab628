"""The layout of HazyResearch/safari's Hyena language models (Zymrael/hyena-small-150b-tok), both ways.

The folder holds one Lightning checkpoint `*.ckpt`, with the tensors under "state_dict", and no config.json: the shape
is read off the tensors, and what they do not tell (norm epsilon, start of training) is what the published recipe says.
Written by `model.save(folder, layout="safari")`, config.json holds the recipe's `model` section, which is then read as
well. Every tensor's name starts with "model."; then

    backbone.embeddings.word_embeddings.weight (V, d);  lm_head.weight, the same again;  backbone.ln_f.{weight, bias}
    backbone.layers.i.:  norm1, norm2 .{weight, bias};  mlp.{fc1, fc2}.{weight, bias};  mixer.:
        in_proj, out_proj, short_filter .{weight, bias};  filter_fn.:
            bias (c), the skip, with c = (order - 1) d channels;  pos_emb.z (1, L, emb_dim), pos_emb.t (1, L, 1)
            implicit_filter.0, 2, 4, .. .{weight, bias}, the last without bias;  implicit_filter.1, 3, .. .freq
            (1, width), one parameter under several names;  modulation.deltas (1, 1, c), minus the rates

The position features z are kept here as their difference from the formula (`hyena.implicit_filter`), so a model that is
written and read again has them to rounding; everything else comes back bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.errors import InputError, UsageError
from ...config_checks import EPSILON, accepted, read_fields, read_options, require_fixed
from ...files.layouts import Layout, layout
from ...model_config import ModelConfig
from ...parts.norms import wide
from .hyena import HyenaOptions
from .implicit_filter import lag_fractions, position_features
from .lightning_checkpoint import state_dict

_GPT2_END = 50256
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OUTER = {
    "backbone.embeddings.word_embeddings.weight": "backbone.embeddings.weight",
    "backbone.ln_f.weight": "backbone.norm_f.weight",
    "backbone.ln_f.bias": "backbone.norm_f.bias",
    "lm_head.weight": "lm_head.weight",
}
_PARTS = {
    "norm1": "norm",
    "norm2": "norm_2",
    "mlp.fc1": "feed_forward.fc1",
    "mlp.fc2": "feed_forward.fc2",
    "mixer.in_proj": "mixer.in_proj",
    "mixer.out_proj": "mixer.out_proj",
    "mixer.short_filter": "mixer.short_conv",
}
_INNER = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _PARTS.items() for kind in ("weight", "bias")}
_INNER["mixer.filter_fn.bias"] = "mixer.D"
_BLOCK = re.compile(r"backbone\.layers\.(\d+)\.(.+)")
_FILTER, _OURS = "mixer.filter_fn.", "mixer.implicit_filter."
_Z, _T, _DELTAS = "pos_emb.z", "pos_emb.t", "modulation.deltas"
_NETWORK = re.compile(r"implicit_filter\.(\d+)\.(weight|bias|freq)")
#: keys of the recipe's `layer` section that would change the function, with the one value that is computed here
_FIXED: dict[str, tuple[Any, ...]] = {
    "num_heads": (1,), "inner_factor": (1,), "num_blocks": (1,), "outer_mixing": (False,), "post_order_ffn": (False,),
    "activation": ("id",), "normalized": (False,), "modulate": (True,), "bias": (True,),
}  # fmt: skip
#: the keys of the recipe's `layer` section -> our options
_LAYER = {
    "order": "order",
    "l_max": "max_length",
    "short_filter_order": "short_kernel",
    "filter_order": "filter_order",
    "emb_dim": "emb_dim",
    "num_inner_mlps": "num_inner_mlps",
    "w": "sine_freq",
    "slow_decay_pct": "slow_decay_pct",
    "fast_decay_pct": "fast_decay_pct",
    "target": "decay_target",
    "shift": "window_shift",
}


@layout("safari")
class SafariLayout(Layout):
    """Every `hyena` can be written; what is read must be a plain Hyena language model, without attention layers."""

    architectures: ClassVar[frozenset[str]] = frozenset({"hyena"})
    weight_file: ClassVar[str] = "hyena.ckpt"
    hub_files: ClassVar[tuple[str, ...]] = ("hyena*.ckpt",)

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        return (content is None or _is_recipe(content)) and any(folder.glob("*.ckpt"))

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        return {n.removeprefix("model."): t.clone() for n, t in state_dict(_only_file(folder)).items()}

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        path = _only_file(folder)
        weights = {n.removeprefix("model."): t for n, t in state_dict(path).items()}
        source = str(folder / "config.json")
        section: Mapping[str, Any] = content.get("model") or {}
        recipe: Mapping[str, Any] = section.get("layer") or {}
        require_fixed(recipe, _FIXED, source, "model.layer.")
        given = read_options(HyenaOptions, {ours: recipe[k] for k, ours in _LAYER.items() if k in recipe}, source)
        eps = accepted(EPSILON, "model.layer_norm_epsilon", section.get("layer_norm_epsilon", 1e-5), source)
        given_tokens = read_fields(content, {name: name for name in _TOKENS}, source)
        try:
            values, own = _shape(weights)
            end = _GPT2_END if values["vocab_size"] > _GPT2_END else 0
            tokens = {name: given_tokens.get(name, end) for name in _TOKENS}
            learned = {"learn_positions": recipe.get("lr_pos_emb") != 0.0}
            return ModelConfig("hyena", **values, **tokens, norm_eps=eps, own=given | own | learned)
        except KeyError as error:
            raise InputError(f"{path}: there is no tensor {error}, which a Hyena language model has") from error
        except (TypeError, ValueError, IndexError, UsageError) as error:
            raise InputError(f"{path}: not a usable Hyena checkpoint ({error})") from error

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            block = _BLOCK.fullmatch(name)
            if block is None:
                named[_OUTER.get(name, name)] = tensor
                continue
            at, part = f"backbone.layers.{block[1]}.", block[2]
            if not part.startswith(_FILTER) or part in _INNER:
                named[at + _INNER.get(part, part)] = tensor
                continue
            for ours, value in _from_filter(part.removeprefix(_FILTER), tensor, config.own, name).items():
                before = named.setdefault(at + _OURS + ours, value)
                if not torch.equal(before, value):
                    raise InputError(
                        f"{name}: differs from the frequencies of the layers before; they are one parameter"
                    )
        return named

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        section = {
            "_name_": "lm",
            "d_model": config.d_model,
            "n_layer": config.n_layers,
            "d_inner": config.own.mlp_ratio * config.d_model,
            "vocab_size": config.vocab_size,
            "layer_norm_epsilon": config.norm_eps,
            "layer": {"_name_": "hyena"} | {theirs: getattr(config.own, ours) for theirs, ours in _LAYER.items()},
        }
        if not config.own.learn_positions:
            section["layer"]["lr_pos_emb"] = 0.0
        return {"model": section} | {name: getattr(config, name) for name in _TOKENS}

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        outer, inner = ({ours: theirs for theirs, ours in names.items()} for names in (_OUTER, _INNER))
        named: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            block = _BLOCK.fullmatch(name)
            if block is None:
                named["model." + outer[name]] = tensor
                continue
            at, part = f"model.backbone.layers.{block[1]}.", block[2]
            if part in inner:
                named[at + inner[part]] = tensor
                continue
            for theirs, value in _to_filter(part.removeprefix(_OURS), tensor, config.own).items():
                named[at + _FILTER + theirs] = value
        named.setdefault("model.lm_head.weight", named["model.backbone.embeddings.word_embeddings.weight"])
        return named

    def write_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        torch.save({"state_dict": dict(weights)}, path)


def _is_recipe(content: Mapping[str, Any]) -> bool:
    section = content.get("model")
    layer = section.get("layer") if isinstance(section, Mapping) else None
    return isinstance(layer, Mapping) and layer.get("_name_") == "hyena"


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.ckpt"))
    if len(files) != 1:
        raise InputError(f"{folder}: holds {len(files)} checkpoints ({files[0].name}, ..); leave the one to be read")
    return files[0]


def _shape(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of ModelConfig and of HyenaOptions that the tensors' shapes tell; KeyError for one that is missing."""
    embeddings = weights["backbone.embeddings.word_embeddings.weight"]
    vocab, d = embeddings.shape
    blocks = [int(match[1]) for match in map(_BLOCK.fullmatch, weights) if match]
    at = "backbone.layers.0.mixer."
    width, emb_dim = weights[at + "filter_fn.implicit_filter.0.weight"].shape
    last = re.compile(re.escape(at + "filter_fn.implicit_filter.") + r"\d+\.weight")
    hidden = weights["backbone.layers.0.mlp.fc1.weight"].shape[0]
    if hidden % d:
        raise ValueError(f"an MLP of {hidden} hidden units is no multiple of the width {d}")
    head = weights.get("lm_head.weight", embeddings)
    values = {
        "vocab_size": vocab,
        "d_model": d,
        "n_layers": max(blocks) + 1,
        "tie_embeddings": torch.equal(head, embeddings),
    }
    own = {
        "order": weights[at + "in_proj.weight"].shape[0] // d - 1,
        "max_length": weights[at + "filter_fn.pos_emb.z"].shape[1],
        "short_kernel": weights[at + "short_filter.weight"].shape[2],
        "filter_order": width,
        "emb_dim": emb_dim,
        "num_inner_mlps": sum(last.fullmatch(name) is not None for name in weights) - 2,
        "mlp_ratio": hidden // d,
    }
    return values, own


def _from_filter(part: str, tensor: Tensor, own: HyenaOptions, name: str) -> dict[str, Tensor]:
    """Our name, below `implicit_filter`, and value of one tensor below `filter_fn`; none where a formula tells it."""
    network = _NETWORK.fullmatch(part)
    if network is not None:
        number, kind = int(network[1]), network[2]
        if kind == "freq":
            return {"freq": tensor.flatten()}
        return {f"out.{kind}" if number == 2 * own.num_inner_mlps + 2 else f"hidden.{number // 2}.{kind}": tensor}
    cpu = torch.device("cpu")
    if part == _Z:
        formula = position_features(own.max_length, own.emb_dim, torch.float64, cpu)
        if tensor.shape != (1, *formula.shape):
            raise InputError(f"{name}: has shape {tuple(tensor.shape)}, expected {(1, *formula.shape)}")
        offset = tensor[0].double() - formula
        if own.learn_positions:
            return {"z_offset": offset.to(tensor.dtype)}
        if float(offset.abs().max()) > 1e-2:
            raise InputError(f"{name}: differs from its formula, but config.json says that it was not learned")
        return {}
    if part == _T:
        formula = lag_fractions(own.max_length, torch.float64, cpu)
        if tensor.numel() != len(formula) or not torch.allclose(tensor.double().flatten(), formula, rtol=0, atol=1e-2):
            raise InputError(f"{name}: is not evenly spaced from 0 to 1, which is what this program computes")
        return {}
    return {"rates": tensor.abs().flatten()} if part == _DELTAS else {part: tensor}


def _to_filter(part: str, tensor: Tensor, own: HyenaOptions) -> dict[str, Tensor]:
    """The names and values below `filter_fn` for one of our tensors; inverse of `_from_filter`."""
    inner = own.num_inner_mlps
    dtype, cpu = wide(tensor.dtype), torch.device("cpu")
    if part == "freq":
        return {f"implicit_filter.{2 * i + 1}.freq": tensor[None] for i in range(inner + 1)}
    if part == "rates":
        fixed = {_DELTAS: -tensor[None, None], _T: lag_fractions(own.max_length, dtype, cpu)[None, :, None].clone()}
        if own.learn_positions:
            return fixed
        return fixed | {_Z: position_features(own.max_length, own.emb_dim, dtype, cpu)[None].clone()}
    if part == "z_offset":
        z = position_features(own.max_length, own.emb_dim, torch.float64, cpu) + tensor.double()
        return {_Z: z.to(dtype)[None]}
    where, _, kind = part.rpartition(".")
    number = 2 * inner + 2 if where == "out" else 2 * int(where.removeprefix("hidden."))
    return {f"implicit_filter.{number}.{kind}": tensor}
