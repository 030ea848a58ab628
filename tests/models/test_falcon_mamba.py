"""Falcon Mamba is transformers' FalconMambaForCausalLM: same logits, same files; and right where that one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import ModelConfig, load
from transformers import AutoModelForCausalLM, FalconMambaConfig, FalconMambaForCausalLM
from transformers_float64 import everything_float64, relative

# vocabulary, d_model, layers, state, kernel, dt_rank, epsilon of the mixer's norms, rows, tokens
CASES = [
    (33, 16, 1, 1, 2, 1, 1e-6, 1, 1),
    (50, 24, 2, 16, 4, 3, 1e-2, 2, 37),
    (64, 40, 3, 7, 3, "auto", 1e-6, 3, 65),
    (41, 8, 4, 5, 4, 1, 0.5, 4, 19),
]


def reference(case: tuple, **changes: object) -> FalconMambaForCausalLM:
    """transformers' model, stirred so that no part is near zero or one."""
    vocab, d, layers, state, kernel, rank, eps, *_ = case
    config = FalconMambaConfig(
        vocab_size=vocab, hidden_size=d, num_hidden_layers=layers, state_size=state, conv_kernel=kernel,
        time_step_rank=rank, mixer_rms_eps=eps, **changes,
    )  # fmt: skip
    torch.manual_seed(5)
    model = FalconMambaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if "A_log" in name else 0.2))
    return model


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers(case: tuple, tmp_path: Path) -> None:
    theirs = reference(case)
    theirs.save_pretrained(tmp_path)
    text = tokens(case[7], case[8], vocab=case[0])
    assert relative(load(tmp_path)(text), theirs(text).logits) <= 1e-5
    ours64 = load(tmp_path, dtype=torch.float64)(text)
    theirs = theirs.double()
    with everything_float64():
        theirs64 = theirs(text).logits
    assert theirs64.dtype == ours64.dtype == torch.float64
    assert relative(ours64, theirs64) <= 1e-10


@torch.no_grad()
def test_the_norms_count(tmp_path: Path) -> None:
    """Read as plain Mamba the same weights give other scores, so the equality above can fail."""
    reference(CASES[1]).save_pretrained(tmp_path)
    falcon = load(tmp_path)
    plain = nano("mamba", vocab_size=50, state_size=16, dt_rank=3, dtype=torch.float32)
    plain.load_state_dict(falcon.state_dict())
    assert relative(plain(tokens(2, 37)), falcon(tokens(2, 37))) > 0.1


@torch.no_grad()
def test_a_folder_we_write_is_read_by_transformers(tmp_path: Path) -> None:
    ours = nano("falcon_mamba", dtype=torch.float32, mixer_rms_eps=1e-3, tie_embeddings=False, use_bias=True)
    theirs = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path)).eval()
    assert isinstance(theirs, FalconMambaForCausalLM) and theirs.config.mixer_rms_eps == 1e-3
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    assert relative(theirs(tokens(2, 21)).logits, ours(tokens(2, 21))) <= 1e-5
    assert load(tmp_path).config == ours.config


@torch.no_grad()
def test_chunked_prefill_is_right_where_transformers_is_wrong(tmp_path: Path) -> None:
    theirs = reference(CASES[1])
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    text = tokens(2, 37)
    _, state = ours(text[:, :20], return_state=True)
    assert relative(ours(text[:, 20:], state=state), ours(text)[:, 20:]) <= 1e-5
    first = theirs(text[:, :20], use_cache=True)
    second = theirs(text[:, 20:], cache_params=first.cache_params, use_cache=True).logits
    assert relative(second, theirs(text).logits[:, 20:]) > 1e-2  # it starts the second chunk from h = 0


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mixer_rms_eps must be a number from 0 to 1, not -1.0"):
        ModelConfig.from_dict(
            {"arch": "falcon_mamba", "vocab_size": 9, "d_model": 8, "n_layers": 1, "mixer_rms_eps": -1.0}
        )
    reference(CASES[0], hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="hidden_act 'relu' is not supported"):
        load(tmp_path)
