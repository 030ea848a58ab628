"""config.json is read as transformers reads it: what is given wins over what is derived; what is absent, defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError
from mplat.models import ModelConfig, build, load
from mplat.models import mixer as mixers
from mplat.models.files import catalog
from transformers import AutoConfig, AutoModelForCausalLM
from transformers_float64 import relative

#: width, given E, given factor: falcon-mamba-7b's in small; a width that no whole factor has; less than the width
WIDTHS = [(16, 32, 16), (24, 100, 3), (24, 36, 2), (24, 20, 2)]
OF_TRANSFORMERS = [arch for arch in mixers.names() if mixers.get(arch).hf_class]


@pytest.mark.parametrize("arch", ["mamba", "falcon_mamba"])
@pytest.mark.parametrize(("d", "inner", "factor"), WIDTHS)
@torch.no_grad()
def test_a_given_inner_width_wins_over_the_factor(arch: str, d: int, inner: int, factor: int, tmp_path: Path) -> None:
    shape = {"vocab_size": 40, "hidden_size": d, "num_hidden_layers": 2, "expand": factor, "intermediate_size": inner}
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **shape)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    text = tokens(2, 9)
    assert ours.config.inner_size == inner
    assert relative(ours(text), theirs(text).logits) <= 1e-5
    again = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path / "ours"))
    assert again.config.intermediate_size == inner and torch.equal(again(text).logits, theirs(text).logits)
    assert load(tmp_path / "ours").config == ours.config


def test_mamba_2_has_no_inner_width_of_its_own() -> None:
    """transformers' class computes it from the factor, whatever the file says beside it."""
    content = ModelConfig("mamba2", vocab_size=40, d_model=16, n_layers=1, head_dim=8).to_hf()
    assert ModelConfig.from_hf(content | {"intermediate_size": 48}).inner_size == 32
    with pytest.raises(InputError, match="num_heads 3 times head_dim 8 is not"):
        ModelConfig.from_hf(content | {"num_heads": 3})


def test_equal_widths_are_equal_configurations() -> None:
    whole = ModelConfig("mamba", vocab_size=40, d_model=24, n_layers=1, expand=2)
    assert replace(whole, expand=2.0) == whole and isinstance(replace(whole, expand=2.0).expand, int)
    half = replace(whole, expand=1.5)
    assert half.inner_size == 36 and ModelConfig.from_hf(half.to_hf()) == half
    for d in range(1, 60):
        for inner in range(1, 130, 3):
            read = ModelConfig.from_hf({"model_type": "mamba", "hidden_size": d, "intermediate_size": inner})
            assert read.inner_size == inner


@pytest.mark.parametrize("layout", ["hf", "original"])
@torch.no_grad()
def test_a_broken_factor_is_kept_in_files(layout: str, tmp_path: Path) -> None:
    model = nano("mamba", dtype=torch.float32, expand=1.75)
    again = load(model.save(tmp_path, layout=layout))
    assert again.config == model.config and torch.equal(again(tokens(1, 7)), model(tokens(1, 7)))


@pytest.mark.parametrize("arch", OF_TRANSFORMERS)
def test_absent_fields_have_the_defaults_of_transformers(arch: str) -> None:
    theirs, ours = AutoConfig.for_model(arch), ModelConfig.from_hf({"model_type": arch})
    written = ours.to_hf()
    for key in written.keys() - {"architectures", "dtype", "intermediate_size", "time_step_limit"}:
        assert written[key] == getattr(theirs, key), key
    assert ours.inner_size == int(theirs.expand * theirs.hidden_size)
    assert list(ours.dt_limit) == list(getattr(theirs, "time_step_limit", (0.0, float("inf"))))


def test_falcon_mamba_7b_has_its_published_number_of_parameters() -> None:
    assert build(catalog.shape("falcon-mamba-7b"), device="meta").n_parameters == 7_272_665_088
