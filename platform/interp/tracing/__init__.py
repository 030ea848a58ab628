"""Causal tracing and its relatives: what of a prompt a model's answer comes from, by layer, position and site."""

from __future__ import annotations

from .averages import average_traces
from .bins import bin_trace, token_bins
from .corruption import subject_noise
from .trace import causal_trace

__all__ = ["average_traces", "bin_trace", "causal_trace", "subject_noise", "token_bins"]
