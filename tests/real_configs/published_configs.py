"""The config.json values of public checkpoints, and each one scaled down with its peculiar ratios; not a test file.

`as_published` is what the folder on the hub says: keys that nobody reads any more stand there too, since a loader meets
them. `smaller` replaces sizes only. Values are those of the published files and of the papers' tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A checkpoint. kept: pairs of keys whose ratio is the same in both sizes; it is what made somebody stumble."""

    as_published: dict[str, Any]
    smaller: dict[str, Any]
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def small(self) -> dict[str, Any]:
        return self.as_published | self.smaller


def _mamba(d: int, layers: int) -> Published:
    content = {
        "model_type": "mamba", "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "conv_kernel": 4,
        "d_inner": 2 * d, "d_model": d, "expand": 2, "fused_add_norm": True, "hidden_act": "silu", "hidden_size": d,
        "initializer_range": 0.1, "intermediate_size": 2 * d, "layer_norm_epsilon": 1e-05, "n_layer": layers,
        "num_hidden_layers": layers, "pad_vocab_size_multiple": 8, "rescale_prenorm_residual": False,
        "residual_in_fp32": True, "rms_norm": True, "ssm_cfg": {}, "state_size": 16, "time_step_floor": 0.0001,
        "time_step_init_scheme": "random", "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": d // 16,
        "time_step_scale": 1.0, "torch_dtype": "float32", "use_bias": False, "use_cache": True, "use_conv_bias": True,
        "vocab_size": 50280,
    }  # fmt: skip
    smaller = {
        "hidden_size": d // 32, "d_model": d // 32, "intermediate_size": d // 16, "d_inner": d // 16,
        "time_step_rank": d // 512 + 1, "num_hidden_layers": 3, "n_layer": 3, "vocab_size": 97,
    }  # fmt: skip
    return Published(content, smaller, (("hidden_size", "intermediate_size"),))


def _state_spaces_mamba2(d: int, layers: int) -> Published:
    content = {
        "d_model": d, "d_intermediate": 0, "n_layer": layers, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
        "pad_vocab_size_multiple": 16, "tie_embeddings": True,
    }  # fmt: skip
    return Published(content, {"d_model": d // 8 // 32 * 32, "n_layer": 2, "vocab_size": 93})


def _black_mamba(d: int, layers: int, hidden: int) -> Published:
    content = {
        "num_layers": layers, "hidden_size": d, "state_size": 16, "conv_dimension": 4, "vocab_size": 50304,
        "expansion_factor": 2, "mamba_moe_layers": ["r", "8"] * (layers // 2), "ffn_hidden_size": hidden, "bias": False,
        "add_bias_linear": False, "swiglu": True, "max_sequence_length": 2048,
    }  # fmt: skip
    smaller = {"num_layers": 4, "hidden_size": d // 64, "vocab_size": 96, "ffn_hidden_size": 24}
    return Published(content, smaller | {"mamba_moe_layers": ["r", "8"] * 2})


def _striped_hyena(vocab: int = 32000) -> Published:
    attention = list(range(1, 32, 2))
    content = {
        "model_type": "stripedhyena", "vocab_size": vocab, "hidden_size": 4096, "num_filters": 4096, "num_layers": 32,
        "inner_mlp_size": 14336, "attn_layer_idxs": attention, "hyena_layer_idxs": list(range(0, 33, 2)),
        "num_attention_heads": 32, "proj_groups": 4, "short_filter_length": 3, "short_filter_bias": True,
        "state_size": 2, "eps": 1e-05, "final_norm": True, "hyena_filter_groups": 1, "mha_out_proj_bias": False,
        "mlp_activation": "silu", "qkv_proj_bias": False, "rotary_emb_base": 500000, "smeared_gqa": False,
        "column_split": False, "column_split_hyena": True, "use_interpolated_rotary_pos_emb": False,
        "make_vocab_size_divisible_by": 8,
        "max_seqlen": 32768, "tie_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    smaller = {
        "vocab_size": 96, "hidden_size": 32, "num_filters": 32, "num_layers": 4, "inner_mlp_size": 112,
        "num_attention_heads": 8, "attn_layer_idxs": [1, 3], "hyena_layer_idxs": [0, 2, 4],
    }  # fmt: skip
    return Published(content, smaller, (("hidden_size", "inner_mlp_size"),))


_MINIPLM = _mamba(768, 24)
MINIPLM = Published(
    _MINIPLM.as_published
    | {"vocab_size": 65024, "bos_token_id": 11, "eos_token_id": 11, "pad_token_id": 11, "tie_word_embeddings": True},
    _MINIPLM.smaller,
    _MINIPLM.kept,
)

FALCON_MAMBA = Published(
    {
        "model_type": "falcon_mamba", "bos_token_id": 0, "eos_token_id": 11, "pad_token_id": 11, "conv_kernel": 4,
        "expand": 16, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.1, "intermediate_size": 8192,
        "layer_norm_epsilon": 1e-05, "mixer_rms_eps": 1e-06, "num_hidden_layers": 64, "rescale_prenorm_residual": False,
        "residual_in_fp32": True, "state_size": 16, "tie_word_embeddings": False, "time_step_floor": 0.0001,
        "time_step_init_scheme": "random", "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256,
        "time_step_scale": 1.0, "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True, "use_conv_bias": True,
        "use_falcon_mambapy": False, "vocab_size": 65024,
    },
    {"hidden_size": 32, "intermediate_size": 64, "time_step_rank": 2, "num_hidden_layers": 3, "vocab_size": 97},
    (("hidden_size", "intermediate_size"), ("hidden_size", "time_step_rank")),
)  # fmt: skip

CODESTRAL = Published(
    {
        "model_type": "mamba2", "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "chunk_size": 256,
        "conv_kernel": 4, "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.1, "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "n_groups": 8,
        "norm_before_gate": True, "num_heads": 128, "num_hidden_layers": 64, "rescale_prenorm_residual": False,
        "residual_in_fp32": True, "rms_norm": True, "state_size": 128, "tie_word_embeddings": False,
        "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_limit": [0.0, float("inf")],
        "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256, "time_step_scale": 1.0,
        "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True, "use_conv_bias": True, "vocab_size": 32768,
    },
    {"hidden_size": 64, "intermediate_size": 128, "num_heads": 16, "head_dim": 8, "state_size": 16, "chunk_size": 8,
     "num_hidden_layers": 2, "vocab_size": 97},
    (("hidden_size", "intermediate_size"), ("head_dim", "state_size")),
)  # fmt: skip

_JAMBA = {
    "model_type": "jamba", "attention_dropout": 0.0, "attn_layer_offset": 4, "attn_layer_period": 8, "bos_token_id": 1,
    "calc_logits_for_entire_prompt": False, "eos_token_id": 2, "expert_layer_offset": 1, "expert_layer_period": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_dt_rank": 256, "mamba_expand": 2,
    "mamba_inner_layernorms": True, "mamba_proj_bias": False, "n_ctx": 262144, "num_attention_heads": 32,
    "num_experts": 16, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_logits_to_keep": 1, "output_router_logits": False, "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "use_mamba_kernels": True, "vocab_size": 65536,
}  # fmt: skip
_SMALL_JAMBA = {
    "hidden_size": 32, "intermediate_size": 112, "mamba_dt_rank": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_experts": 4, "num_hidden_layers": 6, "vocab_size": 97,
}  # fmt: skip
JAMBA = Published(_JAMBA, _SMALL_JAMBA, (("hidden_size", "intermediate_size"), ("hidden_size", "mamba_dt_rank")))
JAMBA_MINI = Published(_JAMBA | {"eos_token_id": [2, 518]}, _SMALL_JAMBA | {"eos_token_id": [2, 51]}, JAMBA.kept)

BAMBA = Published(
    {
        "model_type": "bamba", "attention_bias": False, "attention_dropout": 0.0, "attn_layer_indices": [9, 18, 27],
        "attn_rotary_emb": 64, "bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 0, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "mamba_chunk_size": 256,
        "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_expand": 2,
        "mamba_n_groups": 1, "mamba_n_heads": 128, "mamba_proj_bias": False, "max_position_embeddings": 4096,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_logits_to_keep": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "use_mamba_kernels": True,
        "vocab_size": 128256,
    },
    {"hidden_size": 64, "intermediate_size": 224, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_heads": 16,
     "mamba_chunk_size": 8, "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 4,
     "attn_layer_indices": [1, 3], "vocab_size": 97, "bos_token_id": 90, "eos_token_id": 91},
    (("hidden_size", "intermediate_size"), ("mamba_d_head", "mamba_d_state")),
)  # fmt: skip


def _zamba2(layers: int, hybrid: list[int], smaller_hybrid: list[int], **values: Any) -> Published:
    d: int = values["hidden_size"]
    content = {
        "model_type": "zamba2", "add_bias_linear": False, "adapter_rank": 128, "attention_dropout": 0.0,
        "attention_head_dim": d // 16, "attention_hidden_size": 2 * d, "bos_token_id": 1, "chunk_size": 256,
        "conv_dimension": 4, "eos_token_id": 2, "expansion_factor": 2, "ffn_hidden_size": 4 * d,
        "gated_linear_unit": True, "hidden_act": "gelu", "initializer_range": 0.02, "intermediate_size": 4 * d,
        "kv_channels": d // 32, "lora_rank": 128, "mamba_d_conv": 4, "mamba_d_state": 64, "mamba_expand": 2,
        "mamba_headdim": 64, "max_position_embeddings": 4096, "n_mamba_heads": d // 32, "num_attention_heads": 32,
        "num_hidden_layers": layers, "num_key_value_heads": 32, "num_logits_to_keep": 1, "num_query_groups": 32,
        "pad_token_id": 0, "rms_norm_eps": 1e-05, "rope_theta": 10000, "sliding_window": None, "state_size": 64,
        "time_step_floor": 0.0001, "time_step_limit": None, "time_step_max": 0.1, "time_step_min": 0.001,
        "torch_dtype": "bfloat16", "use_cache": True, "use_conv_bias": True, "use_long_context": False,
        "use_mamba_kernels": True, "use_mem_eff_path": False, "use_shared_block_lora": True, "vocab_size": 32000,
        "layers_block_type": ["hybrid" if i in hybrid else "mamba" for i in range(layers)], "hybrid_layer_ids": hybrid,
    } | values  # fmt: skip
    n = smaller_hybrid[-1] + 2
    small = 64
    smaller = {
        "hidden_size": small, "attention_head_dim": small // 4, "attention_hidden_size": 2 * small,
        "ffn_hidden_size": 4 * small, "intermediate_size": 4 * small, "kv_channels": small // 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "num_query_groups": 8, "mamba_headdim": 16,
        "n_mamba_heads": small // 8, "mamba_d_state": 16, "state_size": 16, "num_hidden_layers": n, "adapter_rank": 8,
        "lora_rank": 8, "chunk_size": 8, "vocab_size": 97, "hybrid_layer_ids": smaller_hybrid,
        "layers_block_type": ["hybrid" if i in smaller_hybrid else "mamba" for i in range(n)],
    }  # fmt: skip
    return Published(content, smaller, (("hidden_size", "intermediate_size"), ("hidden_size", "attention_hidden_size")))


ZAMBA2_1B = _zamba2(
    38, [5, 11, 17, 23, 29, 35], [1, 3], hidden_size=2048, mamba_ngroups=1, num_mem_blocks=1, use_mem_rope=True,
    use_shared_attention_adapter=True,
)  # fmt: skip
ZAMBA2_3B = _zamba2(
    54, [6, 12, 18, 24, 30, 36, 42, 47, 51], [1, 2, 4], hidden_size=2560, mamba_ngroups=1, num_mem_blocks=2,
    use_mem_rope=False, use_shared_attention_adapter=False,
)  # fmt: skip
ZAMBA2_7B = _zamba2(
    81, [6, 11, 17, 23, 29, 35, 41, 47, 53, 59, 65, 71, 77], [1, 3, 4], hidden_size=3584, mamba_ngroups=2,
    num_mem_blocks=2, use_mem_rope=True, use_shared_attention_adapter=False,
)  # fmt: skip


def _falcon_h1(layers: int, **values: Any) -> Published:
    """head_dim times the heads is not the width, and mamba_d_ssm is not mamba_expand times it."""
    content = {
        "model_type": "falcon_h1", "attention_bias": False, "attention_dropout": 0.0, "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 0.9375, "attn_layer_indices": None, "bos_token_id": 1,
        "embedding_multiplier": 5.656854249492381, "eos_token_id": 11, "hidden_act": "silu", "initializer_range": 0.02,
        "key_multiplier": 0.39062499999999994, "lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128,
        "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_norm_before_gate": False,
        "mamba_proj_bias": False, "mamba_rms_norm": False, "mamba_use_mlp": True, "max_position_embeddings": 16384,
        "mlp_bias": False, "mlp_expansion_factor": 8, "mlp_multipliers": [0.8838834764831844, 0.5859375],
        "num_hidden_layers": layers, "num_logits_to_keep": 1, "pad_token_id": 0, "projectors_bias": False,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 100000000000.0, "ssm_in_multiplier": 1.25,
        "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        "ssm_out_multiplier": 0.23570226039551587, "tie_word_embeddings": False, "time_step_floor": 0.0001,
        "time_step_max": 0.1, "time_step_min": 0.001, "torch_dtype": "bfloat16", "use_cache": True,
    } | values  # fmt: skip
    by = values["hidden_size"] // 32
    smaller = {
        "hidden_size": 32, "intermediate_size": values["intermediate_size"] // by, "head_dim": 8,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_d_ssm": 48,
        "mamba_n_heads": 12, "mamba_d_head": 4, "mamba_d_state": 16, "mamba_chunk_size": 8, "vocab_size": 97,
    }  # fmt: skip
    return Published(content, smaller)


FALCON_H1_HALF_B = _falcon_h1(
    36, hidden_size=1024, intermediate_size=2048, head_dim=64, num_attention_heads=8, num_key_value_heads=2,
    mamba_d_ssm=1536, mamba_n_heads=24, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1, vocab_size=32784,
)  # fmt: skip
FALCON_H1_DEEP = _falcon_h1(
    66, hidden_size=1280, intermediate_size=3840, head_dim=128, num_attention_heads=6, num_key_value_heads=2,
    mamba_d_ssm=1536, mamba_n_heads=24, mamba_d_head=64, mamba_d_state=256, mamba_n_groups=1, vocab_size=65537,
)  # fmt: skip
FALCON_H1_34B = _falcon_h1(
    72, hidden_size=5120, intermediate_size=21504, head_dim=128, num_attention_heads=20, num_key_value_heads=4,
    mamba_d_ssm=4096, mamba_n_heads=32, mamba_d_head=128, mamba_d_state=256, mamba_n_groups=2, vocab_size=261120,
    mamba_rms_norm=True,
)  # fmt: skip

_NEMOTRON_H = {
    "model_type": "nemotron_h", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "chunk_size": 128,
    "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "hidden_dropout": 0.0, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64, "mamba_hidden_act": "silu", "mamba_proj_bias": False,
    "mlp_bias": False, "mlp_hidden_act": "relu2", "n_groups": 8, "num_logits_to_keep": 1, "pad_token_id": 0,
    "rescale_prenorm_residual": True, "residual_in_fp32": False, "sliding_window": None, "ssm_state_size": 128,
    "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_max": 0.1, "time_step_min": 0.001,
    "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True, "use_conv_bias": True, "use_mamba_kernels": True,
    "vocab_size": 131072,
}  # fmt: skip
_SMALL_NEMOTRON_H = {
    "hidden_size": 28, "intermediate_size": 98, "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 16, "n_groups": 4, "chunk_size": 8, "vocab_size": 97,
}  # fmt: skip
NEMOTRON_H_8B = Published(
    _NEMOTRON_H
    | {
        "attention_head_dim": 128, "hidden_size": 4096, "intermediate_size": 21504, "mamba_num_heads": 128,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 52, "max_position_embeddings": 8192,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    },
    _SMALL_NEMOTRON_H | {"num_hidden_layers": 5, "hybrid_override_pattern": "M-M*-"},
)  # fmt: skip
# mamba_num_heads times mamba_head_dim is not expand times the width
NEMOTRON_NANO_9B = Published(
    _NEMOTRON_H
    | {
        "head_dim": 128, "hidden_size": 4480, "intermediate_size": 15680, "mamba_num_heads": 128, "mamba_head_dim": 80,
        "num_attention_heads": 40, "num_key_value_heads": 8, "num_hidden_layers": 56, "eos_token_id": 12,
        "max_position_embeddings": 131072,
        "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    },
    _SMALL_NEMOTRON_H | {"num_hidden_layers": 5, "hybrid_override_pattern": "MM-*-"},
    (("hidden_size", "intermediate_size"),),
)  # fmt: skip
NEMOTRON_3_NANO = Published(
    _NEMOTRON_H
    | {
        "head_dim": 128, "hidden_size": 2688, "intermediate_size": 1856, "mamba_num_heads": 64, "n_group": 1,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_routed_experts": 128,
        "n_shared_experts": 1, "norm_eps": 1e-05, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts_per_tok": 6, "num_hidden_layers": 52, "num_key_value_heads": 2, "partial_rotary_factor": 1.0,
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "topk_group": 1, "max_position_embeddings": 262144,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    },
    _SMALL_NEMOTRON_H
    | {"num_hidden_layers": 5, "hybrid_override_pattern": "MEM*E", "n_routed_experts": 8, "num_experts_per_tok": 3,
       "intermediate_size": 20, "moe_intermediate_size": 20, "moe_shared_expert_intermediate_size": 40},
    (("moe_intermediate_size", "moe_shared_expert_intermediate_size"),),
)  # fmt: skip

#: checkpoints whose function transformers has, by hub id
OF_TRANSFORMERS: dict[str, Published] = {
    "state-spaces/mamba-130m-hf": _mamba(768, 24),
    "state-spaces/mamba-370m-hf": _mamba(1024, 48),
    "state-spaces/mamba-790m-hf": _mamba(1536, 48),
    "state-spaces/mamba-1.4b-hf": _mamba(2048, 48),
    "MiniLLM/MiniPLM-Mamba-130M": MINIPLM,
    "tiiuae/falcon-mamba-7b": FALCON_MAMBA,
    "mistralai/Mamba-Codestral-7B-v0.1": CODESTRAL,
    "ai21labs/Jamba-v0.1": JAMBA,
    "ai21labs/AI21-Jamba-Mini-1.5": JAMBA_MINI,
    "ibm-ai-platform/Bamba-9B-v1": BAMBA,
    "Zyphra/Zamba2-1.2B": ZAMBA2_1B,
    "Zyphra/Zamba2-2.7B": ZAMBA2_3B,
    "Zyphra/Zamba2-7B": ZAMBA2_7B,
    "tiiuae/Falcon-H1-0.5B-Base": FALCON_H1_HALF_B,
    "tiiuae/Falcon-H1-1.5B-Deep-Base": FALCON_H1_DEEP,
    "tiiuae/Falcon-H1-34B-Base": FALCON_H1_34B,
    "nvidia/Nemotron-H-8B-Base-8K": NEMOTRON_H_8B,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": NEMOTRON_NANO_9B,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": NEMOTRON_3_NANO,
}

#: checkpoints in layouts of their authors
OTHERS: dict[str, Published] = {
    "state-spaces/mamba2-130m": _state_spaces_mamba2(768, 24),
    "state-spaces/mamba2-370m": _state_spaces_mamba2(1024, 48),
    "state-spaces/mamba2-1.3b": _state_spaces_mamba2(2048, 48),
    "Zyphra/BlackMamba-1.5B": _black_mamba(1152, 30, 3072),
    "Zyphra/BlackMamba-2.8B": _black_mamba(1472, 36, 3872),
    "togethercomputer/StripedHyena-Hessian-7B": _striped_hyena(),
}
