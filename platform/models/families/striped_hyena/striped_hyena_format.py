"""The layout of the StripedHyena checkpoints (togethercomputer/StripedHyena-Hessian-7B and -Nous-7B), both ways.

`config.json` has model_type "stripedhyena"; tensors carry the names of togethercomputer/stripedhyena, below "backbone."
in the hub's folders and without it in the authors' own files. Every block i is `blocks.i`:

    pre_norm.scale, post_norm.scale (d); mlp.l1, l2 (hidden, d), l3 (d, hidden) .weight: l3(silu(l1 x) * l2 x)
    Hyena:      projections, out_filter_dense .weight and .bias; filter.short_filter_weight (3 d, 1, taps), _bias;
                filter.D (d); filter.poles, filter.residues (d, S, 1, 2), the last axis real and imaginary part
    attention:  inner_mha_cls.: Wqkv.weight, rows q, k, v; out_proj.weight; rotary_emb.inv_freq

around them embedding_layer.weight, norm.scale and unembed.weight. Two things are stored differently here. The 3 d
projections stand head by head there (x2, x1, v of head 0, then of head 1), here all of x2 first. And poles are lambda
itself there, here log_decay = log(-log |lambda|) and angle: computed in float64, and written back as float64, because
float32 would lose the decay of a pole near 1. A pole of 0 becomes one of 1e-300.

The original has two norms, and `use_flash_rmsnorm` says which: true, as in the released configs and where the key is
absent, its flash kernel, x / sqrt(mean(x^2) + eps); false its other path, x / (sqrt(mean(x^2)) + eps), which is the
option `eps_after_root` here. Either is computed in float32; the second one the original computes in the type of the
model. The logits of a checkpoint differ by about 3e-4 between the two, so compare with the norm that its config names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.errors import InputError, UsageError
from ...config_checks import COUNT, FLAG, INNER, Rule, listed, read_fields, real, require_fixed, whole
from ...files.layouts import Layout, layout
from ...model_config import ModelConfig
from .striped_hyena import StripedHyenaOptions

_MODEL_TYPE = "stripedhyena"
_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_layers": "n_layers",
    "eps": "norm_eps",
    "short_filter_bias": "use_conv_bias",
    "tie_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
_OWN_NAMES = {
    "num_attention_heads": "n_heads",
    "state_size": "modal_size",
    "short_filter_length": "short_kernel",
    "rotary_emb_base": "rope_base",
}
_FLASH_NORM = "use_flash_rmsnorm"
_NEEDED = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "state_size", "attn_layer_idxs")
# keys that would change the function, with the one value that is computed here
_FIXED: dict[str, tuple[Any, ...]] = {
    "final_norm": (True,),
    "mlp_activation": ("silu",),
    "hyena_filter_groups": (1,),
    "column_split_hyena": (True,),
    "column_split": (False,),
    "qkv_proj_bias": (False,),
    "mha_out_proj_bias": (False,),
    "use_interpolated_rotary_pos_emb": (False,),
    "smeared_gqa": (False,),
}
# our options, and what else the shape follows from
_RULES = {
    "n_heads": COUNT,
    "modal_size": COUNT,
    "short_kernel": COUNT,
    "rope_base": real(1, 1e30, above=True),
    "proj_groups": COUNT,
    "inner_mlp_size": INNER._replace(null=True),
    "inner_size_multiple_of": COUNT,
    _FLASH_NORM: FLAG,
    "attn_layer_idxs": Rule("a list of block numbers", lambda value: () if value == [] else _BLOCKS.accept(value)),
    "hyena_layer_idxs": Rule("a list of block numbers", lambda value: () if value == [] else _BLOCKS.accept(value)),
}
_BLOCKS = listed(whole(0, 4096))
_OUTER = {
    "embedding_layer.weight": "backbone.embeddings.weight",
    "norm.scale": "backbone.norm_f.weight",
    "unembed.weight": "lm_head.weight",
}
_INNER = {
    "pre_norm.scale": "norm.weight",
    "post_norm.scale": "norm_2.weight",
    "mlp.l1.weight": "feed_forward.gate_proj.weight",
    "mlp.l2.weight": "feed_forward.up_proj.weight",
    "mlp.l3.weight": "feed_forward.down_proj.weight",
    "projections.weight": "mixer.projections.weight",
    "projections.bias": "mixer.projections.bias",
    "filter.short_filter_weight": "mixer.short_filter.weight",
    "filter.short_filter_bias": "mixer.short_filter.bias",
    "filter.D": "mixer.D",
    "out_filter_dense.weight": "mixer.out_filter_dense.weight",
    "out_filter_dense.bias": "mixer.out_filter_dense.bias",
    "inner_mha_cls.out_proj.weight": "mixer.out_proj.weight",
}
_BY_HEAD = ("mixer.projections.", "mixer.short_filter.")
_POLES, _RESIDUES, _WQKV = "filter.poles", "filter.residues", "inner_mha_cls.Wqkv.weight"
_FREQUENCIES = "inner_mha_cls.rotary_emb.inv_freq"
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_OUR_BLOCK = re.compile(r"backbone\.layers\.(\d+)\.(.+)")
_SMALLEST = 1e-300


@layout("stripedhyena")
class StripedHyenaLayout(Layout):
    """Every `striped_hyena` can be written; what can be read is said in `_FIXED`."""

    architectures: ClassVar[frozenset[str]] = frozenset({"striped_hyena"})
    weight_file: ClassVar[str] = "model.safetensors"

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        return content is not None and content.get("model_type") == _MODEL_TYPE

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        source = str(folder / "config.json")
        missing = next((key for key in _NEEDED if key not in content), None)
        if missing is not None:
            raise InputError(f"{source}: there is no {missing}, which a StripedHyena config has")
        require_fixed(content, _FIXED, source)
        values = read_fields(content, {ours: theirs for theirs, ours in _NAMES.items()}, source)
        own = read_fields(content, {ours: theirs for theirs, ours in _OWN_NAMES.items()}, source, rules=_RULES)
        rest = {name: name for name in _RULES.keys() - own.keys()}
        shape = values | own | read_fields(content, rest, source, rules=_RULES)
        try:
            own |= {
                "n_kv_heads": _kv_heads(own["n_heads"], shape.get("proj_groups", 1)),
                "attn_layers": _attn_layers(shape),
                "mlp_size": shape.get("inner_mlp_size") or _default_mlp_size(shape),
                "eps_after_root": not shape.get(_FLASH_NORM, True),
            }
            return ModelConfig(**{"arch": "striped_hyena", "tie_embeddings": False, "own": own} | values)
        except UsageError as error:
            raise InputError(f"{source}: not a usable StripedHyena config ({error})") from error

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for full, tensor in weights.items():
            name = full.removeprefix("backbone.")
            block = _BLOCK.fullmatch(name)
            if block is None:
                named[_OUTER.get(name, full)] = tensor
                continue
            at, part = f"backbone.layers.{block[1]}.", block[2]
            if part == _POLES:
                named[at + "mixer.filter.log_decay"], named[at + "mixer.filter.angle"] = _from_poles(tensor, full)
            elif part == _RESIDUES:
                named[at + "mixer.filter.residues"] = _without_unit_axis(tensor, full)
            elif part == _WQKV:
                sizes = _qkv_sizes(config)
                if len(tensor) != sum(sizes):
                    raise InputError(f"{full}: has {len(tensor)} rows, config.json says {sum(sizes)} of q, k and v")
                for letter, rows in zip("qkv", tensor.split(sizes), strict=True):
                    named[f"{at}mixer.{letter}_proj.weight"] = rows.clone()
            elif part == _FREQUENCIES:
                expected = _frequencies(config)
                if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, rtol=1e-2, atol=0):
                    raise InputError(f"{full}: is not what rotary_emb_base {config.own.rope_base} of config.json means")
            else:
                ours = _INNER.get(part, part)
                by_head = ours.startswith(_BY_HEAD) and len(tensor) == 3 * config.d_model
                named[at + ours] = tensor[_by_part(config)] if by_head else tensor
        return named

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        own: StripedHyenaOptions = config.own
        attention = [i for i in range(config.n_layers) if own.attends(i)]
        content: dict[str, Any] = {"model_type": _MODEL_TYPE}
        content |= {theirs: getattr(config, ours) for theirs, ours in _NAMES.items()}
        content |= {theirs: getattr(own, ours) for theirs, ours in _OWN_NAMES.items()}
        return content | {
            "num_filters": config.d_model,
            "attn_layer_idxs": attention,
            "hyena_layer_idxs": [i for i in range(config.n_layers) if i not in attention],
            "proj_groups": own.n_heads // own.kv_heads,
            "inner_mlp_size": own.hidden_size(config.d_model),
            _FLASH_NORM: not own.eps_after_root,
            **{key: valid[0] for key, valid in _FIXED.items()},
        }

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        outer = {ours: theirs for theirs, ours in _OUTER.items()}
        inner = {ours: theirs for theirs, ours in _INNER.items()}
        named: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            block = _OUR_BLOCK.fullmatch(name)
            if block is None:
                named["backbone." + outer[name]] = tensor
                continue
            at, part = f"backbone.blocks.{block[1]}.", block[2]
            ours = f"backbone.layers.{block[1]}.mixer."
            if part == "mixer.filter.log_decay":
                named[at + _POLES] = _to_poles(tensor, weights[ours + "filter.angle"])
            elif part == "mixer.filter.residues":
                named[at + _RESIDUES] = tensor[:, :, None].clone()
            elif part == "mixer.q_proj.weight":
                named[at + _WQKV] = torch.cat([weights[f"{ours}{letter}_proj.weight"] for letter in "qkv"])
                named[at + _FREQUENCIES] = _frequencies(config)
            elif part in inner:
                by_head = part.startswith(_BY_HEAD)
                named[at + inner[part]] = tensor[_by_part(config).argsort()] if by_head else tensor
        if config.tie_embeddings:
            named["backbone.unembed.weight"] = named["backbone.embedding_layer.weight"].clone()
        return named

    def write_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        from safetensors.torch import save_file

        save_file({n: t.contiguous() for n, t in weights.items()}, path, metadata={"format": "pt"})


def _kv_heads(n_heads: int, proj_groups: int) -> int | None:
    if n_heads % proj_groups:
        raise UsageError(f"num_attention_heads {n_heads} is not a multiple of proj_groups {proj_groups}")
    return None if proj_groups == 1 else n_heads // proj_groups


def _attn_layers(shape: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The attention blocks; the released configs name a Hyena block after the last, which is no block."""
    n_layers: int = shape["n_layers"]
    attention = tuple(sorted(i for i in shape["attn_layer_idxs"] if i < n_layers))
    named = {*attention, *shape.get("hyena_layer_idxs", range(n_layers))}
    neither = next((i for i in range(n_layers) if i not in named), None)
    if neither is not None:
        raise UsageError(f"block {neither} is neither in attn_layer_idxs nor in hyena_layer_idxs")
    return None if attention == tuple(range(1, n_layers, 2)) else attention


def _default_mlp_size(shape: Mapping[str, Any]) -> int:
    """The original's hidden size where its config names none: 8/3 d, rounded up to a multiple."""
    multiple: int = shape.get("inner_size_multiple_of", 64)
    return -(-int(2 * shape["d_model"] * 4 / 3) // multiple) * multiple


def _by_part(config: ModelConfig) -> Tensor:
    """Their row of each of our rows: (head, part, channel) there, (part, head, channel) here."""
    heads = config.own.n_heads
    return torch.arange(3 * config.d_model).view(heads, 3, -1).transpose(0, 1).flatten()


def _qkv_sizes(config: ModelConfig) -> list[int]:
    kv_width = config.d_model // config.own.n_heads * config.own.kv_heads
    return [config.d_model, kv_width, kv_width]


def _frequencies(config: ModelConfig) -> Tensor:
    width = config.d_model // config.own.n_heads
    return 1.0 / config.own.rope_base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def _without_unit_axis(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 4 or tuple(tensor.shape[2:]) != (1, 2):
        raise InputError(f"{name}: has shape {tuple(tensor.shape)}, expected (channels, states, 1, 2)")
    return tensor[:, :, 0].clone()


def _from_poles(tensor: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """log_decay and angle (d, S), float64."""
    poles = torch.view_as_complex(_without_unit_axis(tensor, name).double())
    radius = poles.abs()
    if not bool((radius < 1).all()):
        channel, state = (~(radius < 1)).nonzero()[0].tolist()
        raise InputError(
            f"{name}: channel {channel}, state {state} has |lambda| = {float(radius[channel, state]):.9g}; "
            "only poles inside the unit circle decay, and others cannot be loaded"
        )
    return (-radius.clamp(min=_SMALLEST).log()).log(), poles.angle()


def _to_poles(log_decay: Tensor, angle: Tensor) -> Tensor:
    poles = torch.polar((-log_decay.double().exp()).exp(), angle.double())
    return torch.view_as_real(poles)[:, :, None]
