"""A convolution of one tap: a factor per channel, no window. The same everywhere, and what transformers computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted, theirs
from model_zoo import nano, tokens
from mplat.models import load
from mplat.models.kernels import causal_conv
from mplat.models.kernels.backend import backends
from transformers import AutoConfig, AutoModelForCausalLM
from transformers_float64 import relative

WITH_A_SCAN = ["mamba", "mamba2", "falcon_mamba", "dense_mamba", "moe_mamba", "stable_mamba", "stable_mamba_attached"]
HYBRIDS = {"jamba": "mamba_d_conv", "bamba": "mamba_d_conv", "falcon_h1": "mamba_d_conv", "nemotron_h": "conv_kernel",
           "zamba2": "mamba_d_conv"}  # fmt: skip


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "falcon_mamba"])
@torch.no_grad()
def test_logits_and_texts_equal_transformers(arch: str, tmp_path: Path) -> None:
    heads = {"num_heads": 4, "head_dim": 8, "n_groups": 2} if arch == "mamba2" else {}
    config = AutoConfig.for_model(
        arch, vocab_size=40, hidden_size=16, num_hidden_layers=2, conv_kernel=1, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, **heads,
    )  # fmt: skip
    torch.manual_seed(2)
    reference = AutoModelForCausalLM.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    ours, text = load(tmp_path), tokens(2, 11)
    assert relative(ours(text), reference(text).logits) <= 1e-5
    ids = reference.generate(torch.tensor([[5, 9, 3]]), max_new_tokens=6, do_sample=False, eos_token_id=-1)
    (answer,) = ours.generate([[5, 9, 3]], max_new_tokens=6)
    assert answer == ids[0, 3 : 3 + len(answer)].tolist()


@pytest.mark.parametrize("case", HYBRIDS)
@torch.no_grad()
def test_hybrids_equal_transformers(case: str, tmp_path: Path) -> None:
    ours, text = adapted(case, tmp_path, torch.float32, **{HYBRIDS[case]: 1}), tokens(2, 11)
    assert relative(ours(text), theirs(case, **{HYBRIDS[case]: 1})(text).logits) <= 1e-5


@pytest.mark.parametrize("arch", WITH_A_SCAN)
def test_steps_equal_the_whole_and_there_is_no_window_to_read(arch: str) -> None:
    model, text = nano(arch, conv_kernel=1), tokens(2, 9)
    assert not any(s.name.endswith("conv_state") for s in model.sites())
    whole = model(text)
    _, state = model(text[:, :5], return_state=True)
    for t in range(5, 9):
        step, state = model(text[:, t : t + 1], state=state, return_state=True)
        torch.testing.assert_close(step[:, 0], whole[:, t], rtol=0, atol=1e-10)
    mask = torch.ones_like(text, dtype=torch.bool)
    mask[0, :3] = False
    torch.testing.assert_close(model(text, mask)[0, 3:], model(text[:1, 3:])[0], rtol=0, atol=1e-10)
    whole.sum().backward()


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
def test_every_backend_of_the_convolution(backend: str) -> None:
    u = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight, bias = torch.randn(5, 1, requires_grad=True), torch.randn(5)
    y, window = causal_conv(u, weight, bias, return_state=True, backend=backend)
    torch.testing.assert_close(y, u * weight[:, 0] + bias, rtol=1e-6, atol=1e-6)
    assert window.shape == (2, 5, 0)
    y.sum().backward()
    assert u.grad is not None and weight.grad is not None
    torch.testing.assert_close(u.grad, weight[:, 0].expand_as(u))
    torch.testing.assert_close(weight.grad[:, 0], u.sum((0, 1)))
