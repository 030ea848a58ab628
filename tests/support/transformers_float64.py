"""Comparing with transformers in float64, where a difference is a difference; not a test file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def everything_float64() -> Iterator[None]:
    """transformers casts to float32 in norms, scan and head; for a float64 comparison these casts become no-ops."""
    to, to_float = torch.Tensor.to, torch.Tensor.float

    def keep(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if self.dtype == torch.float64:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return to(self, *args, **kwargs)  # type: ignore[arg-type]

    torch.Tensor.to = keep  # type: ignore[method-assign]
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else to_float(self)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float = to, to_float  # type: ignore[method-assign]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
