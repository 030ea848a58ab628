"""Every value of a config.json is looked at before anything is computed from it; a wrong one is one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import InputError, UsageError
from mplat.models import ModelConfig, load
from mplat.models import mixer as mixers
from mplat.models.config_checks import read_options
from mplat.models.files import layouts

INF, NAN = math.inf, math.nan
#: what a value of each kind may not be
WRONG: dict[type, list[Any]] = {
    int: ["32", "x", "", True, False, 2.5, 2.0, -1, 10**12, 10**400, INF, NAN, [], [3], {}, {"__float__": "Infinity"}],
    bool: ["false", "true", 0, 1, None, [], {}, "x", 0.0],
    float: ["0.1", "x", True, -INF, INF, NAN, [], {}, {"__float__": "Infinity"}, {"__float__": "x"}],
    list: ["32", "", True, 3, {}, [None], [[]], [{}], {"0": 0, "1": 1}],
    str: [3, True, [], {}, 1.5],
}
#: written for other programs, or part of no architecture's function
UNREAD = {"architectures", "model_type", "hidden_act", "rescale_prenorm_residual"}
#: a factor is any number, there may be several end tokens, and no pattern is BlackMamba's own default
ALLOWED: list[tuple[str, Any]] = [
    ("expand", 2.5), ("expand", 2.0), ("eos_token_id", [3]), ("expansion_factor", 2.5), ("expansion_factor", 2.0),
    ("mamba_moe_layers", ""),
]  # fmt: skip
NEVER_NULL = ["vocab_size", "hidden_size", "num_hidden_layers", "state_size", "expand", "conv_kernel", "use_bias"]


def content(arch: str) -> dict[str, Any]:
    return json.loads(json.dumps(nano(arch).config.to_hf()))


def refused(read: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        ModelConfig.from_hf(read | {key: value}, source="folder/config.json")
    said = str(error.value)
    assert said.startswith("folder/config.json: ") and key in said, (key, value, said)
    assert "\n" not in said and len(said) < 300 and "bug" not in said


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_wrong_values_are_refused_by_key(arch: str) -> None:
    read = content(arch)
    unread = UNREAD | ({"intermediate_size"} if mixers.get(arch).hf_inner is None else set())
    for key in read.keys() - unread:
        for value in WRONG.get(type(read[key]), []):
            if (key, value) not in ALLOWED:
                refused(read, key, value)
    for key in NEVER_NULL:
        refused(read, key, None)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_whole_number_stands_for_a_real_one_and_is_written_as_one(arch: str) -> None:
    read = content(arch) | {"layer_norm_epsilon": 1, "time_step_max": 1}
    config = ModelConfig.from_hf(read)
    assert isinstance(config.norm_eps, float) and config.norm_eps == 1.0
    assert '"layer_norm_epsilon": 1.0' in json.dumps(config.to_hf())  # transformers takes no other


@pytest.mark.parametrize(
    "limit", ["32", "", None, [], [1], [1, 2, 3], [2.0, 1.0], [-1.0, 1.0], ["0", "1"], [0.0, None], [INF, INF],
              [0.0, {"__float__": "x"}], {"0": 1}, [0.0, NAN], [False, True], 3.0]
)  # fmt: skip
def test_the_range_of_delta(limit: Any) -> None:
    refused(content("mamba2"), "time_step_limit", limit)


@pytest.mark.parametrize("spelled", ['{"__float__": "Infinity"}', "Infinity", "1e999"])
def test_infinity_in_every_spelling(spelled: str) -> None:
    read = json.loads(f"[0.0, {spelled}]")
    assert ModelConfig.from_hf(content("mamba2") | {"time_step_limit": read}).dt_limit == (0.0, INF)
    assert ModelConfig.from_hf(content("mamba2") | {"time_step_limit": [0, 3]}).dt_limit == (0.0, 3.0)


@pytest.mark.parametrize("value", [[], ["2"], [2, True], [-1], "2", True, 2.0, {}, [[2]], [2, None]])
def test_end_tokens_are_numbers_or_a_list_of_them(value: Any) -> None:
    refused(content("mamba"), "eos_token_id", value)


def test_python_callers_are_told_the_same() -> None:
    for changes in (
        {"d_model": "16"},
        {"tie_embeddings": "false"},
        {"dt_limit": "32"},
        {"n_layers": 10**9},
        {"expand": 0},
    ):
        (key,) = changes
        with pytest.raises(UsageError, match=f"model config: {key} must be"):
            ModelConfig(**{"arch": "mamba2", "vocab_size": 8, "d_model": 16, "n_layers": 1, "head_dim": 8} | changes)


# -- the layouts of other programs -----------------------------------------------------------------------------------

STATE_SPACES = {
    "d_model": 64, "n_layer": 2, "vocab_size": 50, "rms_norm": True, "residual_in_fp32": True, "tie_embeddings": True,
    "pad_vocab_size_multiple": 8, "ssm_cfg": {},
}  # fmt: skip
SSM = {
    "layer": "Mamba2", "d_state": 16, "d_conv": 4, "expand": 2, "headdim": 16, "ngroups": 1, "chunk_size": 8,
    "dt_limit": [0.0, 1.0], "dt_min": 0.001, "dt_max": 0.1, "dt_init_floor": 0.0001, "conv_bias": True, "bias": False,
    "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False,
}  # fmt: skip
BLACK_MAMBA = {
    "num_layers": 2, "hidden_size": 16, "state_size": 4, "conv_dimension": 4, "vocab_size": 48, "expansion_factor": 2,
    "mamba_moe_layers": ["r", "4"], "ffn_hidden_size": 8, "add_bias_linear": False, "swiglu": True,
}  # fmt: skip
STRIPED = {
    "model_type": "stripedhyena", "vocab_size": 48, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 4,
    "proj_groups": 2, "state_size": 2, "short_filter_length": 3, "attn_layer_idxs": [1], "hyena_layer_idxs": [0],
    "inner_mlp_size": 24, "rotary_emb_base": 10000.0, "eps": 1e-5, "short_filter_bias": True, "tie_embeddings": False,
    "final_norm": True, "qkv_proj_bias": False, "hyena_filter_groups": 1,
}  # fmt: skip


@pytest.mark.parametrize("good", [STATE_SPACES, BLACK_MAMBA, STRIPED], ids=["original", "blackmamba", "stripedhyena"])
def test_layouts_of_other_programs_are_checked_too(good: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(good))
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    layout = layouts.recognise(tmp_path, good)
    assert layout is not None and layout.read_config(tmp_path, good).n_layers == 2
    for key in good.keys() - {"model_type", "ssm_cfg"}:
        for value in WRONG[type(good[key])]:
            if (key, value) in ALLOWED:
                continue
            (tmp_path / "config.json").write_text(json.dumps(good | {key: value}))
            with pytest.raises(InputError) as error:
                load(tmp_path)
            said = str(error.value)
            # numbers that JSON does not have are refused before anything is known of their keys
            assert "config.json: " in said and (key in said or "not valid JSON" in said), (key, value, said)


def test_the_inner_object_of_the_original_layout(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    for key in SSM:
        for value in WRONG[type(SSM[key])]:
            if (key, value) in ALLOWED:
                continue
            (tmp_path / "config.json").write_text(json.dumps(STATE_SPACES | {"ssm_cfg": SSM | {key: value}}))
            with pytest.raises(InputError) as error:
                load(tmp_path)
            said = str(error.value)
            assert f"ssm_cfg.{key}" in said or "config.json: not valid JSON" in said, (key, value, said)
    for value in ("Mamba2", [], 3, True, ["layer"]):
        (tmp_path / "config.json").write_text(json.dumps(STATE_SPACES | {"ssm_cfg": value}))
        with pytest.raises(InputError, match="ssm_cfg must be an object"):
            load(tmp_path)


def test_an_options_type_says_the_rule() -> None:
    @dataclass(frozen=True)
    class Some:
        kind: Literal["a", "b"] = "a"
        widths: tuple[int, ...] = ()
        rates: tuple[float, float] = (0.0, 1.0)
        bound: float | None = None
        own: dict[str, int] | None = None

    good = {"kind": "b", "widths": [3, 4], "rates": [1, 2], "bound": 2, "own": {"a": 1}}
    assert read_options(Some, good, "here") == good | {"widths": (3, 4), "rates": (1.0, 2.0), "bound": 2.0}
    for key, value in (("kind", "c"), ("widths", [2.0]), ("rates", [1]), ("bound", "2"), ("bound", NAN)):
        with pytest.raises(InputError, match=f"here: {key} must be"):
            read_options(Some, {key: value}, "here")
