"""Adapted models compute what transformers' do, from its files and for its files; and are right where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_zoo import CASES, adapted, theirs
from model_zoo import tokens
from mplat.models import load
from transformers_float64 import everything_float64, relative


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    reference, text = theirs(case), tokens(3, 37)
    expected = reference(text).logits
    assert expected.std() > 0.3  # weights large enough that a wrong part would be seen
    ours = adapted(case, tmp_path, torch.float32)
    assert relative(ours(text), expected) <= 1e-5
    with everything_float64():
        expected64 = reference.double()(text).logits
    ours64 = load(tmp_path, dtype=torch.float64)(text)
    assert ours64.dtype == expected64.dtype == torch.float64
    assert relative(ours64, expected64) <= 1e-10
