"""Comparing with transformers in float64, where a difference is a difference; not a test file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def everything_float64() -> Iterator[None]:
    """transformers casts to float32 in norms, scan, router and head; for a float64 comparison the casts do nothing."""
    to, to_type, to_float = torch.Tensor.to, torch.Tensor.type, torch.Tensor.float
    softmax = torch.nn.functional.softmax

    def same(value: object) -> object:
        return torch.float64 if value is torch.float32 else value

    def keep_to(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if self.dtype == torch.float64:
            args, kwargs = tuple(map(same, args)), {k: same(v) for k, v in kwargs.items()}
        return to(self, *args, **kwargs)  # type: ignore[arg-type]

    def keep_type(self: torch.Tensor, *args: object) -> torch.Tensor:
        return to_type(self, *(map(same, args) if self.dtype == torch.float64 else args))  # type: ignore[arg-type]

    def keep_softmax(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if x.dtype == torch.float64:
            kwargs = {k: same(v) for k, v in kwargs.items()}
        return softmax(x, *args, **kwargs)  # type: ignore[arg-type]

    torch.Tensor.to, torch.Tensor.type = keep_to, keep_type  # type: ignore[method-assign]
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else to_float(self)  # type: ignore[method-assign]
    torch.nn.functional.softmax = keep_softmax
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.type, torch.Tensor.float = to, to_type, to_float  # type: ignore[method-assign]
        torch.nn.functional.softmax = softmax


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
