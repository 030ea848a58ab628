"""Logits equal transformers' for random weights: float32 to 1e-5 relative, float64 to 1e-10; folders both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mplat.models import LanguageModel, build, load
from mplat.models.files.catalog import shape
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM
from transformers_float64 import everything_float64, relative

# vocabulary, d_model, layers, state, kernel, rows, tokens, then (dt_rank) or (head_dim, groups, chunk)
MAMBA = [
    (33, 16, 1, 1, 2, 1, 1, 1),
    (50, 24, 2, 16, 4, 2, 37, 3),
    (64, 40, 3, 7, 3, 3, 65, "auto"),
    (257, 64, 2, 33, 4, 1, 130, 5),
    (41, 8, 4, 5, 4, 4, 19, 1),
]
MAMBA2 = [
    (33, 16, 1, 1, 2, 1, 1, 8, 1, 4),
    (50, 24, 2, 16, 4, 2, 37, 16, 3, 8),
    (64, 40, 3, 7, 3, 3, 65, 20, 2, 32),
    (257, 64, 2, 33, 4, 1, 130, 64, 2, 16),
    (41, 8, 4, 5, 4, 4, 19, 4, 4, 256),
]


def reference(arch: str, case: tuple) -> MambaForCausalLM | Mamba2ForCausalLM:
    vocab, d, layers, state, kernel, *_ = case
    common = {
        "vocab_size": vocab, "hidden_size": d, "num_hidden_layers": layers, "state_size": state, "conv_kernel": kernel,
    }  # fmt: skip
    torch.manual_seed(sum(case[:5]))
    if arch == "mamba":
        model = MambaForCausalLM(MambaConfig(**common, time_step_rank=case[7]))
    else:
        head, groups, chunk = case[7:]
        config = Mamba2Config(
            **common, head_dim=head, num_heads=2 * d // head, n_groups=groups, chunk_size=chunk, pad_token_id=0
        )
        model = Mamba2ForCausalLM(config)
    return model.eval()


@pytest.mark.parametrize(("arch", "case"), [("mamba", c) for c in MAMBA] + [("mamba2", c) for c in MAMBA2])
@torch.no_grad()
def test_logits_equal_transformers(arch: str, case: tuple, tmp_path: Path) -> None:
    theirs = reference(arch, case)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, case[0], (case[5], case[6]), generator=torch.Generator().manual_seed(7))
    assert relative(load(tmp_path)(tokens), theirs(tokens).logits) <= 1e-5
    ours64 = load(tmp_path, dtype=torch.float64)(tokens)
    theirs = theirs.double()
    theirs.config.residual_in_fp32 = False
    for block in theirs.backbone.layers:
        block.residual_in_fp32 = False
    with everything_float64():
        theirs64 = theirs(tokens).logits
    assert theirs64.dtype == ours64.dtype == torch.float64
    assert relative(ours64, theirs64) <= 1e-10


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
@torch.no_grad()
def test_a_folder_we_write_is_read_by_transformers(arch: str, tmp_path: Path) -> None:
    from model_zoo import nano, tokens
    from transformers import AutoModelForCausalLM

    ours = nano(arch, dtype=torch.float32)
    ours.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert relative(theirs(tokens(2, 21)).logits, ours(tokens(2, 21))) <= 1e-5
    again = load(tmp_path)
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_known_parameter_counts() -> None:
    def count(name: str) -> int:
        model: LanguageModel = build(shape(name), device="meta")
        return model.n_parameters

    assert count("mamba-130m") == 129_135_360
    assert count("mamba-370m") == 371_516_416
    assert count("mamba-790m") == 793_204_224
    assert count("mamba-1.4b") == 1_372_178_432
    assert count("mamba2-130m") == 128_989_632
    assert count("mamba2-370m") == 368_346_624
    assert count("mamba2-1.3b") == 1_343_757_312
