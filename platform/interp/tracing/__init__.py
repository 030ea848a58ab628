"""Causal tracing and its relatives: what of a prompt a model's answer comes from, by layer, position and site."""

from __future__ import annotations

from ..methods.attribution import attribution_patching
from ..methods.averages import average_traces
from ..methods.bins import bin_trace, token_bins
from ..methods.comparison import compare
from ..methods.coordinate_attribution import coordinate_attribution
from ..methods.corruption import prompt_seed, subject_noise
from ..methods.hidden_attention import HiddenAttention, hidden_attention, rollout
from ..methods.knockout import knockout, layer_windows
from ..methods.logit_lens import logit_lens
from ..methods.path_patching import path_patching
from ..methods.trace import causal_trace

__all__ = [
    "HiddenAttention", "attribution_patching", "average_traces", "bin_trace", "causal_trace", "compare",
    "coordinate_attribution",
    "hidden_attention", "knockout", "layer_windows", "logit_lens", "path_patching", "prompt_seed",
    "rollout", "subject_noise", "token_bins",
]  # fmt: skip
