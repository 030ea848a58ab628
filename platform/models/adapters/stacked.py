"""Experts that a file holds as one tensor, as transformers keeps them in memory, one by one as they are named here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ...core.errors import InputError

_STACK = re.compile(r"(?P<experts>.+\.experts)\.(?P<parts>gate_up_proj|gate_proj|up_proj|down_proj)(?:\.weight)?")
_PARTS = {"gate_up_proj": ("gate_proj", "up_proj")}


def unstacked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`x.experts.up_proj` (E, f, d) as `x.experts.0.up_proj.weight` (f, d) and so on; in `gate_up_proj` (E, 2 f, d) the
    gate's rows come first. All else unchanged. Raises InputError where an expert is there both ways."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stack = _STACK.fullmatch(name)
        if stack is None or tensor.ndim != 3:
            names = {name: tensor}
        else:
            parts = _PARTS.get(stack["parts"], (stack["parts"],))
            names = {
                f"{stack['experts']}.{number}.{part}.weight": rows.clone()
                for number, expert in enumerate(tensor)
                for part, rows in zip(parts, expert.chunk(len(parts)), strict=True)
            }
        twice = next((n for n in names if n in found), None)
        if twice is not None:
            raise InputError(f"{twice}: is in the weights twice, alone and in a stack of experts; keep one of them")
        found |= names
    return found
