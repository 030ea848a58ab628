"""Small random models of transformers' own types, and the same ones adapted; not a test file.

Stirred, so that no part is near zero, or one, or the identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from mplat.models import LanguageModel, load


class Case(NamedTuple):
    """transformers' model class, and what its configuration is told."""

    model_class: str
    config: dict[str, Any]


_COMMON = {"vocab_size": 40, "hidden_size": 24, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20}
_NEOX = {**_COMMON, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_MAMBA2 = {"mamba_n_heads": 6, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_chunk_size": 8}
_NEMOTRON = {
    **_COMMON, **_HEADS, "head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 5,
    "moe_intermediate_size": 8, "moe_shared_expert_intermediate_size": 5, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "chunk_size": 8,
}  # fmt: skip
_ZAMBA = {
    **_COMMON, "num_attention_heads": 4, "intermediate_size": 20, "n_mamba_heads": 6, "mamba_ngroups": 2,
    "mamba_d_state": 5, "chunk_size": 8, "adapter_rank": 3, "num_hidden_layers": 5,
    "layers_block_type": ["hybrid", "linear_attention", "hybrid", "hybrid", "linear_attention"],
}  # fmt: skip

#: a name per case; what stands before the colon is the model_type
CASES: dict[str, Case] = {
    "gpt2": Case("GPT2", {**_COMMON, "n_layer": 2, "n_head": 2, "n_positions": 140}),
    "gpt2:scaled": Case(
        "GPT2",
        {**_COMMON, "n_layer": 2, "n_head": 3, "n_positions": 140, "n_inner": 10, "tie_word_embeddings": False,
         "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt_neox": Case("GPTNeoX", _NEOX),
    "gpt_neox:serial": Case("GPTNeoX", {**_NEOX, "use_parallel_residual": False, "tie_word_embeddings": True}),
    "bamba": Case(
        "Bamba",
        {**_COMMON, **_HEADS, **_MAMBA2, "num_hidden_layers": 3, "attn_layer_indices": [1], "mamba_proj_bias": True},
    ),
    "jamba": Case(
        "Jamba",
        {**_COMMON, **_HEADS, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4,
         "expert_layer_period": 3, "expert_layer_offset": 1, "mamba_d_state": 5, "mamba_dt_rank": 3,
         "rms_norm_eps": 1e-2},
    ),
    "falcon_h1": Case(
        "FalconH1",
        {**_COMMON, **_HEADS, **_MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 48, "lm_head_multiplier": 0.5,
         "embedding_multiplier": 2.0, "mlp_multipliers": [0.7, 1.3], "key_multiplier": 0.6,
         "attention_out_multiplier": 0.8, "attention_in_multiplier": 1.2, "ssm_in_multiplier": 0.9,
         "ssm_out_multiplier": 1.1, "ssm_multipliers": [0.5, 1.5, 0.75, 1.25, 2.0]},
    ),
    "falcon_h1:normed": Case(
        "FalconH1",
        {**_COMMON, **_HEADS, **_MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 48, "mamba_rms_norm": True,
         "mamba_norm_before_gate": False, "projectors_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
    "falcon_h1:gated": Case(
        "FalconH1",
        {**_COMMON, **_HEADS, **_MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 48, "mamba_rms_norm": True},
    ),
    "nemotron_h": Case(
        "NemotronH", {**_NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]}
    ),
    "nemotron_h:latent": Case(
        "NemotronH",
        {**_NEMOTRON, "layers_block_type": ["moe", "linear_attention", "full_attention"], "moe_latent_size": 8,
         "n_group": 2, "topk_group": 1, "routed_scaling_factor": 1.7, "mlp_bias": True, "use_bias": True,
         "norm_topk_prob": False, "time_step_min": 0.4},
    ),
    "zamba2": Case("Zamba2", {**_ZAMBA, "num_mem_blocks": 2}),
    "zamba2:adapters": Case(
        "Zamba2",
        {**_ZAMBA, "num_mem_blocks": 2, "use_shared_attention_adapter": True, "use_mem_rope": True,
         "add_bias_linear": True},
    ),
    "zamba2:untied": Case("Zamba2", {**_ZAMBA, "num_mem_blocks": 1, "tie_word_embeddings": False}),
}  # fmt: skip


def theirs(case: str, seed: int = 0, **changes: Any) -> Any:
    """transformers' model, float32."""
    model_class, config = CASES[case]
    made = getattr(transformers, f"{model_class}Config")(**config | changes)
    suffix = "LMHeadModel" if model_class == "GPT2" else "ForCausalLM"
    torch.manual_seed(seed)
    model = getattr(transformers, model_class + suffix)(made).eval()
    model.set_experts_implementation("eager")  # the others compute neither float64 nor odd widths
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.02 if "A_log" in name else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(0.2 * torch.randn_like(buffer))
    return model


def adapted(case: str, folder: Path, dtype: torch.dtype = torch.float64, **changes: Any) -> LanguageModel:
    """The same model, through a folder that transformers writes."""
    theirs(case, **changes).save_pretrained(folder)
    return load(folder, dtype=dtype)
