"""Suggestions go by meaning: what is only spelled alike is none."""

from __future__ import annotations

import pytest
from mplat.core.errors import suggest
from mplat.models import adapters
from mplat.models import mixer as mixers

TYPES = [*mixers.names(), *adapters.names()]


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("mamba3", "mamba"), ("zamba3", "zamba2"), ("jambba", "jamba"), ("gptneox", "gpt_neox"),
        ("nemotron", "nemotron_h"), ("Mamba2", "mamba2"),
        ("striped-hyena", "striped_hyena"), ("moe", "moe_mamba"), ("falcon", "falcon_h1"),
    ],
)  # fmt: skip
def test_a_slip_and_a_part_of_a_name_are_understood(asked: str, near: str) -> None:
    assert suggest(asked, TYPES).startswith(f"did you mean '{near}'? valid: ")


@pytest.mark.parametrize("asked", ["llama", "mistral", "rwkv", "qwen2", "bert", "phi3"])
def test_another_architecture_is_not_mistaken_for_one_of_ours(asked: str) -> None:
    assert suggest(asked, TYPES).startswith("valid: ")


def test_words_decide() -> None:
    assert "did you mean" not in suggest("falcon_mamba", ["stable_mamba", "dense_mamba", "moe_mamba"])
    assert "did you mean 'mamba'" in suggest("falcon_mamba", ["stable_mamba", "mamba", "dense_mamba"])
    assert "did you mean 'batch_size'" in suggest("batchsize", ["batch_size", "seed"])
    assert "did you mean 'eval'" in suggest("evaluation", ["train", "eval"])
    sites = ["resid_pre", "resid_post", "mixer_in", "mixer_out", "mixer.h", "mixer.y", "logits", "embed"]
    assert "did you mean 'resid_pre'" in suggest("resid_mid", sites)  # few names have that word
