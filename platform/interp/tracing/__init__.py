"""Causal tracing and its relatives: what of a prompt a model's answer comes from, by layer, position and site."""

from __future__ import annotations

from .corruption import subject_noise
from .trace import causal_trace

__all__ = ["causal_trace", "subject_noise"]
