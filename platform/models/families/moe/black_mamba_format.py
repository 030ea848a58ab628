"""The layout of the BlackMamba checkpoints (Zyphra/BlackMamba-1.5B and -2.8B), both ways.

`config.json` has no model_type but a `mamba_moe_layers`, the kind of every block: "r" is Mamba, a digit the number of
experts. `pytorch_model.bin` is {"model": tensors}; the blocks are `decoder.layers.i`, every expert is a module of its
own, and a mixture's norm and router are named as ours. The head is the embedding. What the reference code fixes without
a key (RMSNorms of eps 1e-5, a gelu of the first half of linear_fc1, rank d / 16 of Delta) is fixed here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.errors import InputError, UsageError
from ...config_checks import TEXT, WIDTH, accepted, listed, read_fields, require_fixed
from ...files.layouts import Layout, layout
from ...model_config import ModelConfig
from .moe_mamba import MAMBA, BlackMambaOptions

_NAMES = {
    "num_layers": "n_layers",
    "hidden_size": "d_model",
    "state_size": "state_size",
    "conv_dimension": "conv_kernel",
    "vocab_size": "vocab_size",
    "expansion_factor": "expand",
}
# keys that would change the function, with the one value that is computed here; all others may say what they like
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_bias_linear": (False,),
    "swiglu": (True,),
    "rms_norm": (True,),
    "conv_bias": (True,),
    "dt_rank": ("auto",),
    "layernorm_epsilon": (1e-5,),
    "layernorm_zero_centered_gamma": (False,),
    "routing_mode": ("sinkhorn",),
    "untie_embeddings_and_output_weights": (False,),
    "share_embeddings_and_output_weights": (True,),
}
_OUTER = {
    "embedding.word_embeddings.weight": "backbone.embeddings.weight",
    "decoder.final_layernorm.weight": "backbone.norm_f.weight",
    "decoder.final_layernorm.bias": "backbone.norm_f.bias",
}
_KINDS = listed(TEXT)
_EXPERT = re.compile(r"decoder\.layers\.(\d+)\.mixer\.local_experts\.(\d+)\.linear_fc([12])\.weight")
_STACK = re.compile(r"backbone\.layers\.(\d+)\.mixer\.fc([12])")


@layout("blackmamba")
class BlackMambaLayout(Layout):
    """What can be written: a `black_mamba` whose function the reference code computes from these keys."""

    architectures: ClassVar[frozenset[str]] = frozenset({"black_mamba"})

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        return content is not None and "model_type" not in content and "mamba_moe_layers" in content

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        source = str(folder / "config.json")
        require_fixed(content, _FIXED, source)
        needed = (*_NAMES, "mamba_moe_layers", "ffn_hidden_size")
        absent = next((key for key in needed if key not in content), None)
        if absent is not None:
            raise InputError(f"{source}: there is no {absent}, which a BlackMamba config has")
        values = read_fields(content, {ours: theirs for theirs, ours in _NAMES.items()}, source)
        given = content["mamba_moe_layers"]
        kinds = (
            [MAMBA] * values["n_layers"] if given in ("", []) else accepted(_KINDS, "mamba_moe_layers", given, source)
        )
        size = accepted(WIDTH, "ffn_hidden_size", content["ffn_hidden_size"], source)
        try:
            own = _experts(list(kinds), values["n_layers"], size)
            return ModelConfig("black_mamba", own=own, **values)
        except UsageError as error:
            raise InputError(f"{source}: not a usable BlackMamba config ({error})") from error

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        experts: dict[str, dict[int, Tensor]] = {}
        for name, tensor in weights.items():
            expert = _EXPERT.fullmatch(name)
            if expert is not None:
                stack = f"backbone.layers.{expert[1]}.mixer.fc{expert[3]}"
                experts.setdefault(stack, {})[int(expert[2])] = tensor
            else:
                named[_OUTER.get(name, name.replace("decoder.layers.", "backbone.layers.", 1))] = tensor
        for stack, parts in experts.items():
            if sorted(parts) != list(range(len(parts))) or len({p.shape for p in parts.values()}) > 1:
                raise InputError(
                    f"experts of {stack}: {sorted(parts)} are there, or their shapes differ; copy it again"
                )
            named[stack] = torch.stack([parts[i] for i in range(len(parts))])
        return named

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        own: BlackMambaOptions = config.own
        fixed = {
            "router": (own.router, ("sinkhorn", "sigmoid_top1")),
            "expert_activation": (own.expert_activation, ("gelu_gated",)),
            "router_bias": (own.router_bias, (True,)),
            "use_bias": (config.use_bias, (False,)),
            "use_conv_bias": (config.use_conv_bias, (True,)),
            "residual_in_fp32": (config.residual_in_fp32, (True,)),
            "tie_embeddings": (config.tie_embeddings, (True,)),
            "norm_eps": (config.norm_eps, (1e-5,)),
            "dt_rank": (config.dt_rank, (-(-config.d_model // 16),)),
        }
        for name, (value, valid) in fixed.items():
            if value not in valid:
                raise UsageError(f"layout 'blackmamba' cannot say {name} {value!r}, only {valid[0]!r}; use layout 'hf'")
        counts = [own.experts_of(layer) for layer in range(config.n_layers)]
        if any(n == 1 or n > 9 for n in counts):
            raise UsageError("layout 'blackmamba' has mixtures of 2 to 9 experts; use layout 'hf'")
        content: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in _NAMES.items()}
        return content | {
            "mamba_moe_layers": [str(n) if n else MAMBA for n in counts],
            "ffn_hidden_size": own.expert_size,
            "add_bias_linear": False,
            "swiglu": True,
            "max_sequence_length": 2048,  # the reference code wants it and makes no use of it
        }

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        theirs = {ours: name for name, ours in _OUTER.items()}
        named: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            stack = _STACK.fullmatch(name)
            if stack is None:
                named[theirs.get(name, name.replace("backbone.layers.", "decoder.layers.", 1))] = tensor
                continue
            for j, part in enumerate(tensor):
                named[f"decoder.layers.{stack[1]}.mixer.local_experts.{j}.linear_fc{stack[2]}.weight"] = part.clone()
        return named

    def write_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        torch.save({"model": dict(weights)}, path)


def _experts(kinds: list[str], n_layers: int, expert_size: int) -> BlackMambaOptions:
    """The options that the kinds of all blocks mean; what alternates needs no pattern."""
    if len(kinds) != n_layers:
        raise UsageError(f"mamba_moe_layers has {len(kinds)} entries for {n_layers} layers")
    for kind in kinds:
        if kind != MAMBA and kind not in tuple("23456789"):
            raise UsageError(f"mamba_moe_layers holds {kind!r}; only 'r' and the digits 2 to 9 are supported")
    n_experts = max((int(kind) for kind in kinds if kind != MAMBA), default=BlackMambaOptions.n_experts)
    alternating = kinds == [str(n_experts) if i % 2 else MAMBA for i in range(n_layers)]
    return BlackMambaOptions(
        n_experts=n_experts, expert_size=expert_size, layer_pattern=() if alternating else tuple(kinds)
    )
