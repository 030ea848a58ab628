"""MiniPLM-Mamba: transformers' Mamba layout with Falcon's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mplat.models import ModelConfig, build, load
from mplat.models.files import catalog
from mplat.steering.variants import find_variant
from transformers import MambaConfig, MambaForCausalLM

HUB = "MiniLLM/MiniPLM-Mamba-130M"


def test_its_shape_has_the_published_number_of_parameters() -> None:
    """140,458,752 float32 parameters are the 561.8 MB of the published file."""
    (entry,) = [e for e in catalog.entries() if e.name == HUB]
    assert entry.n_parameters == 140_458_752 and entry.needs_network
    assert entry.n_bytes / 1e6 == pytest.approx(561.8, abs=0.1)
    assert build(catalog.shape("MiniPLM-Mamba-130M"), device="meta").n_parameters == 140_458_752


@torch.no_grad()
def test_a_folder_as_published_loads(tmp_path: Path) -> None:
    """The hub's config.json has these keys; the weights are small here, vocabulary and end of text are not."""
    config = MambaConfig(
        vocab_size=65024, hidden_size=32, num_hidden_layers=2, state_size=16, bos_token_id=11, eos_token_id=11,
        pad_token_id=11, use_cache=True, residual_in_fp32=True,
    )  # fmt: skip
    theirs = MambaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"] == "mamba" and content["architectures"] == ["MambaForCausalLM"]
    ours = load(tmp_path)
    tokens = torch.randint(65024, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
    assert ours.config.eos_token_id == 11


def test_the_variant_steers_it_as_a_mamba_and_has_a_shipped_model() -> None:
    variant = find_variant("miniplm")
    assert variant.default_model == "tiny-miniplm" and "tiny-miniplm" in catalog.shipped()
    assert variant.arch == catalog.shape(HUB).arch == catalog.shape("tiny-miniplm").arch
    assert isinstance(catalog.HUB[HUB], ModelConfig)
