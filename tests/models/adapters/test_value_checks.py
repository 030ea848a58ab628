"""Configurations of transformers' types are checked by key before transformers sees them, and before any memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapter_zoo import CASES
from mplat.core.errors import InputError
from mplat.models import adapters, load
from mplat.models.adapters import AdaptedConfig

INF, NAN = math.inf, math.nan
WRONG: dict[type, list[Any]] = {
    int: ["32", "x", "", True, 2.5, 2.0, -1, 10**12, 10**400, INF, NAN, [], [[3]], {}, {"__float__": "Infinity"}],
    bool: ["false", "true", 0, 1, [], {}, "x", 0.0],
    float: ["0.1", "x", True, -INF, INF, NAN, [], {}, {"__float__": "Infinity"}, {"__float__": "x"}],
    str: [3, True, [], {}, 1.5],
}
TYPES = ["gpt2", "gpt_neox", "jamba", "bamba", "falcon_h1", "nemotron_h", "zamba2:adapters"]
#: derived by transformers and read by nobody
UNREAD = {"kv_channels", "num_query_groups"}


def content(case: str) -> dict[str, Any]:
    """Everything that transformers' class has, written out."""
    model_class, given = CASES[case]
    config = getattr(transformers, f"{model_class}Config")(**given)
    filled = json.loads(config.to_json_string(use_diff=False))
    other = transformers.PreTrainedConfig().to_dict().keys() - {"tie_word_embeddings", "vocab_size"}
    return {k: v for k, v in filled.items() if k not in other | UNREAD or k == "model_type"}


def said(read: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        AdaptedConfig.from_hf(read, source="folder/config.json")
    text = str(error.value)
    assert text.startswith("folder/config.json: ") and "\n" not in text and len(text) < 300, text
    return text


@pytest.mark.parametrize("case", TYPES)
def test_wrong_values_are_refused_by_key(case: str) -> None:
    read = content(case)
    assert AdaptedConfig.from_hf(read).content["model_type"] == read["model_type"]
    for key, value in read.items():
        for wrong in WRONG.get(type(value), []) if key != "model_type" else []:
            if not (isinstance(value, float) and isinstance(wrong, int) and not isinstance(wrong, bool)):
                assert key in said(read | {key: wrong}), (key, wrong)
    for key in ("vocab_size", "tie_word_embeddings", "initializer_range"):
        assert key in said(read | {key: None})


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("gpt2", {"n_head": 7}, "n_embd 24 is not a multiple of n_head 7"),
        ("gpt2", {"activation_function": "gelu_newest"}, "activation_function 'gelu_newest' is no activation"),
        ("jamba", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("jamba", {"num_experts_per_tok": 5}, "num_experts_per_tok 5 is more than num_experts 4"),
        ("jamba", {"pad_token_id": 40}, "pad_token_id 40 is not below vocab_size 40"),
        ("jamba", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("bamba", {"attn_layer_indices": [1, 9]}, "attn_layer_indices names block 9 of num_hidden_layers 3"),
        ("bamba", {"mamba_n_groups": 4}, "mamba_n_heads 6 is not a multiple of mamba_n_groups 4"),
        ("bamba", {"time_step_limit": "32"}, "time_step_limit must be a list of two numbers"),
        ("bamba", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not supported"),
        ("falcon_h1", {"ssm_multipliers": [1.0, 2.0]}, "ssm_multipliers must be a list of 5 finite numbers"),
        ("falcon_h1", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.0],
                       "long_factor": [2.0, 2.0], "factor": 2.0}}, "rope_type 'longrope' is not supported"),
        ("falcon_h1", {"rope_parameters": {"rope_type": "spiral"}}, "rope_parameters.rope_type"),
        ("falcon_h1", {"rope_theta": "10000"}, "rope_theta must be a number"),
        ("falcon_h1", {"rope_scaling": 3}, "rope_scaling must be an object"),
        ("nemotron_h", {"topk_group": 2}, "topk_group 2 is more than n_group 1"),
        ("nemotron_h", {"layers_block_type": []}, "layers_block_type must be a list, not empty"),
        ("nemotron_h", {"mamba_hidden_act": "gelu"}, "mamba_hidden_act 'gelu' is not supported"),
        ("zamba2:adapters", {"mamba_headdim": 9}, "n_mamba_heads 6 times mamba_headdim 9 is not mamba_expand times"),
        ("zamba2:adapters", {"attention_hidden_size": 24}, "attention_hidden_size 24 is not 2 times hidden_size 24"),
        ("zamba2:adapters", {"hybrid_layer_ids": [0, 1]}, "hybrid_layer_ids are not the blocks"),
    ],
)  # fmt: skip
def test_what_one_key_asks_of_another(case: str, changes: dict[str, Any], words: str) -> None:
    assert words in said(content(case) | changes)


@pytest.mark.parametrize("case", TYPES)
def test_a_whole_number_stands_for_a_real_one(case: str) -> None:
    read = content(case)
    key = next(k for k in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps") if k in read)
    assert AdaptedConfig.from_hf(read | {key: 1}).content[key] == 1.0


@pytest.mark.parametrize("limit", ["[0.0, Infinity]", '[0.0, {"__float__": "Infinity"}]', "[0, 1e999]", "null"])
def test_infinity_in_every_spelling(limit: str) -> None:
    with torch.device("meta"):
        model = adapters.construct(AdaptedConfig.from_hf(content("bamba") | {"time_step_limit": json.loads(limit)}))
    assert model.blocks[0].mixer.config.dt_limit == (0.0, INF)


def test_what_no_check_knows_is_a_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("shapes\ndo not fit")

    monkeypatch.setattr(transformers.JambaForCausalLM, "__init__", fails)
    (tmp_path / "config.json").write_text(json.dumps(content("jamba")))
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match="transformers builds no JambaForCausalLM of what config.json says .*shapes do"
    ):
        load(tmp_path)
