"""The values of transformers' configurations, checked by key before transformers sees them.

What a key's type is, its class says; how large it may be, one table here, with a default for whole numbers. So a new
adapter's keys are checked without a line of its own, and `require_multiple` and the like say in an adapter's `check`
what one key asks of another. Promises and the two conversions: those of `config_checks`.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ..config_checks import (
    COUNT,
    EPSILON,
    FLAG,
    INNER,
    SPAN,
    STEP,
    TEXT,
    TOKEN,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Rule,
    accepted,
    listed,
    real,
    reals,
    shown,
    whole,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ANY_COUNT = whole(0, 4096)
_FACTOR = real(-1e6, 1e6)
_LENGTH = whole(1, 2**31)
_SHARE = real(0, 1)
_RANK = whole(1, 65_536, word="auto")
_NAMES = listed(TEXT)
_BLOCKS = Rule("a list of block numbers", lambda value: () if value == [] else listed(whole(0, 4096)).accept(value))
#: by key, where its class does not say enough; what is null there by default may be null
RULES: Mapping[str, Rule] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads"), COUNT),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_experts_per_tok", "n_group", "topk_group"), COUNT),
    **dict.fromkeys(
        ("attn_layer_period", "expert_layer_period", "num_mem_blocks", "mamba_d_conv", "conv_kernel"), COUNT
    ),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset", "n_shared_experts"), _ANY_COUNT),
    **dict.fromkeys(("num_nextn_predict_layers",), _ANY_COUNT),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "head_dim", "attention_head_dim", "mamba_headdim", "mamba_head_dim"), WIDTH
    ),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "adapter_rank", "moe_latent_size"), WIDTH),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "mamba_n_groups", "mamba_ngroups", "n_groups"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "moe_intermediate_size", "mamba_d_ssm"), INNER),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "attention_hidden_size"), INNER),
    **dict.fromkeys(("mamba_dt_rank", "mamba_d_head"), _RANK),
    **dict.fromkeys(("mamba_expand", "expand"), whole(1, 1024)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "sliding_window"), _LENGTH),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), whole(1, 2**20)),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), EPSILON),
    **dict.fromkeys(("time_step_min", "time_step_max"), STEP),
    "time_step_floor": real(0, 1000),
    "initializer_range": real(0, 1000),
    "time_step_limit": SPAN,
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), real(0, 1, above=True)),
    **dict.fromkeys(("rope_theta", "rotary_emb_base"), real(1, 1e30)),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), _SHARE),
    **dict.fromkeys(("lm_head_multiplier", "embedding_multiplier", "key_multiplier", "routed_scaling_factor"), _FACTOR),
    **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier", "ssm_in_multiplier"), _FACTOR),
    "ssm_out_multiplier": _FACTOR,
    "mlp_multipliers": reals(2),
    "ssm_multipliers": reals(5),
    **dict.fromkeys(("attn_layer_indices", "hybrid_layer_ids"), _BLOCKS),
    **dict.fromkeys(("layers_block_type", "mtp_layers_block_type"), _NAMES),
    "hybrid_override_pattern": TEXT,
    **dict.fromkeys(("bos_token_id", "pad_token_id"), TOKEN),
    "eos_token_id": TOKENS,
}
#: keys that no class declares and that are read all the same where they stand
_ALSO_READ = frozenset({
    "head_dim", "attention_head_dim", "attention_hidden_size", "hybrid_layer_ids", "mamba_headdim", "rotary_pct",
    "rotary_emb_base", "rope_theta", "partial_rotary_factor", "hybrid_override_pattern", "mamba_n_groups",
    "mamba_d_conv", "mamba_expand", "mamba_chunk_size", "num_hidden_layers",
})  # fmt: skip
# where null means something although it is not the default (as many key heads as heads, any Delta, ..), and is allowed
_NULLABLE = frozenset({
    "num_key_value_heads", "mamba_d_ssm", "time_step_limit", "num_logits_to_keep", "use_cache", "attention_dropout",
})  # fmt: skip
_ACTIVATIONS = ("hidden_act", "mlp_hidden_act", "mamba_hidden_act", "activation_function")


def check_values(kind: type[PreTrainedConfig], content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`content` with whole numbers as real ones where the class `kind` wants those. Raises InputError by key."""
    own = kind.__annotations__  # types, not texts: the base class's cannot be resolved without its imports
    found = dict(content)
    for key, value in content.items():
        name = kind.attribute_map.get(key, key)
        optional = name in _NULLABLE and type(None) in typing.get_args(own.get(name))
        rule = _rule(name, own.get(name), optional or getattr(kind, name, name) is None)
        if rule is None or (name not in own and name not in _ALSO_READ):
            continue
        read = accepted(rule, key, value, source)
        found[key] = read if isinstance(read, float) else list(read) if isinstance(read, tuple) else value
    for key in ("rope_parameters", "rope_scaling"):
        _check_rope(content.get(key), key, source)
    for key in _ACTIVATIONS:
        if key in content and key in own:
            _check_activation(key, content[key], source)
    return found


def _rule(name: str, hint: Any, nullable: bool) -> Rule | None:
    if name in RULES:
        return RULES[name]._replace(null=nullable or RULES[name].null)
    plain = (set(typing.get_args(hint)) or {hint}) - {type(None)}
    if plain == {bool}:
        return FLAG._replace(null=nullable)
    if plain == {float} or plain == {float, int}:
        return _FACTOR._replace(null=nullable)
    if plain == {int}:
        return whole(0, 2**31, null=nullable)
    return TEXT._replace(null=nullable) if plain == {str} else None


def _check_rope(value: Any, key: str, source: str) -> None:
    """Rotary positions: a type that transformers knows and numbers where they belong."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if value is None:
        return
    if not isinstance(value, Mapping) or value.keys() == {"__float__"}:
        raise InputError(f"{source}: {key} must be an object, not {shown(value)}")
    for name in ("rope_type", "type"):
        if name in value and (not isinstance(value[name], str) or value[name] not in ("default", *ROPE_INIT_FUNCTIONS)):
            raise InputError(f"{source}: {key}.{name} {shown(value[name])} is no kind of rotary positions")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in value:
            accepted(RULES[name], f"{key}.{name}", value[name], source)
    for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
        if name in value:
            accepted(real(0, 1e6, above=True), f"{key}.{name}", value[name], source)
    if "original_max_position_embeddings" in value:
        accepted(_LENGTH, f"{key}.original_max_position_embeddings", value["original_max_position_embeddings"], source)


def _check_activation(key: str, value: Any, source: str) -> None:
    from transformers.activations import ACT2FN

    if not isinstance(value, str) or value not in ACT2FN:
        raise InputError(f"{source}: {key} {value!r} is no activation that transformers knows")


def require_multiple(hf: Any, whole_key: str, part_key: str) -> None:
    """Raise InputError unless one key's value is a multiple of another's."""
    size, part = getattr(hf, whole_key), getattr(hf, part_key)
    if size % part:
        raise InputError(f"{whole_key} {size} is not a multiple of {part_key} {part}")


def require_product(hf: Any, key: str, *factors: str | int) -> None:
    """Raise InputError unless one key's value is the product of others', or of a number."""
    values = [f if isinstance(f, int) else getattr(hf, f) for f in factors]
    if getattr(hf, key) != math.prod(values):
        said = " times ".join(
            str(f) if isinstance(f, int) else f"{f} {v}" for f, v in zip(factors, values, strict=True)
        )
        raise InputError(f"{key} {getattr(hf, key)} is not {said}")


def require_at_most(hf: Any, key: str, bound_key: str) -> None:
    """Raise InputError unless one key's value is at most another's."""
    value, bound = getattr(hf, key), getattr(hf, bound_key)
    if value > bound:
        raise InputError(f"{key} {value} is more than {bound_key} {bound}")


def require_token_below(hf: Any, *keys: str) -> None:
    """Raise InputError for a token that has no row in the table of embeddings, where transformers looks for it."""
    for key in keys:
        value = getattr(hf, key)
        if value is not None and value >= hf.vocab_size:
            raise InputError(f"{key} {value} is not below vocab_size {hf.vocab_size}")


def require_names(values: Sequence[str], known: Sequence[str], key: str) -> None:
    """Raise InputError for an entry of the list `key` that is not known."""
    wrong = next((v for v in values if v not in known), None)
    if wrong is not None:
        raise InputError(f"{key} holds {wrong!r}; known are {', '.join(sorted(known))}")
