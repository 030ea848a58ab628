"""Whether bfloat16 is faster than float32 for a model here, with the reason in words.

It pays where matrix units exist and the model is wide. Forward and backward of one layer on one AMX core (256 tokens, 2
rows, processor seconds float32 / bfloat16): d_model 128 0.022 / 0.017 (Mamba), 0.022 / 0.021 (Mamba-2); 512 0.101 /
0.058, 0.098 / 0.071; 768 0.161 / 0.103, 0.181 / 0.118. Below 512 the gain is not worth the rounding. The residual
stream, states and scans stay float32 either way.
"""

from __future__ import annotations

import torch

WIDE_ENOUGH = 512  # d_model from which "auto" takes bfloat16


def bfloat16_units(device: torch.device) -> str | None:
    """Name of the hardware that makes bfloat16 fast, or None."""
    if device.type == "cuda":
        return "the GPU" if torch.cuda.is_bf16_supported() else None
    if device.type != "cpu":
        return None
    able = torch.cpu.get_capabilities()
    return next((label for key, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if able.get(key)), None)


def faster_dtype(device: torch.device, d_model: int) -> tuple[torch.dtype, str]:
    """What "auto" stands for: bfloat16 or float32, and why."""
    units = bfloat16_units(device)
    if units is None:
        return torch.float32, "no bfloat16 units here"
    if d_model < WIDE_ENOUGH:
        return torch.float32, f"d_model {d_model} is below {WIDE_ENOUGH}, where the gain is small"
    return torch.bfloat16, f"{units} multiplies bfloat16 and d_model {d_model} is at least {WIDE_ENOUGH}"
