"""In bfloat16, logits are as near to float64 as transformers' are: a float32 residual stream is read unrounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from adapter_zoo import CASES, theirs
from mplat.models import load
from torch import Tensor

_SHAPE = {"vocab_size": 150, "hidden_size": 64, "num_hidden_layers": 6, "state_size": 8}
_MAMBA2 = {**_SHAPE, "head_dim": 16, "num_heads": 8, "n_groups": 2, "chunk_size": 16, "pad_token_id": 0}
MODELS = {
    "mamba": ("Mamba", _SHAPE),
    "mamba:untied": ("Mamba", {**_SHAPE, "tie_word_embeddings": False}),
    "mamba:narrow residual": ("Mamba", {**_SHAPE, "residual_in_fp32": False}),
    "mamba2": ("Mamba2", _MAMBA2),
    "falcon_mamba": ("FalconMamba", _SHAPE),
}


def rms(logits: Tensor, exact: Tensor) -> float:
    return float((logits.double() - exact).square().mean().sqrt())


def compare(model: transformers.PreTrainedModel, folder: Path, vocabulary: int) -> None:
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    text = torch.randint(0, vocabulary, (6, 48), generator=torch.Generator().manual_seed(5))
    exact = load(folder, dtype="float64")(text)
    ours = load(folder, dtype="bfloat16")(text)
    assert rms(ours, exact) <= 1.1 * rms(model(text).logits, exact)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_rounding_is_no_more_than_that_of_transformers(name: str, tmp_path: Path) -> None:
    kind, values = MODELS[name]
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**values))
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            parameter.add_(0.3 * torch.randn_like(parameter))
        elif parameter.ndim > 1 and "A_log" not in parameter_name:
            parameter.mul_(20.0 if "embeddings" in parameter_name else 1.5)
    compare(model, tmp_path, values["vocab_size"])


@pytest.mark.parametrize("name", [n for n in CASES if ":" not in n])
@torch.no_grad()
def test_adapted_models_too(name: str, tmp_path: Path) -> None:
    compare(theirs(name), tmp_path, 40)
