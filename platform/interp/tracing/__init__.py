"""Causal tracing and its relatives: what of a prompt a model's answer comes from, by layer, position and site."""

from __future__ import annotations

from .attribution import attribution_patching
from .averages import average_traces
from .bins import bin_trace, token_bins
from .comparison import compare
from .coordinate_attribution import coordinate_attribution
from .corruption import prompt_seed, subject_noise
from .hidden_attention import HiddenAttention, hidden_attention, rollout
from .knockout import knockout, layer_windows
from .logit_lens import logit_lens
from .path_patching import path_patching
from .trace import causal_trace

__all__ = [
    "HiddenAttention", "attribution_patching", "average_traces", "bin_trace", "causal_trace", "compare",
    "coordinate_attribution",
    "hidden_attention", "knockout", "layer_windows", "logit_lens", "path_patching", "prompt_seed",
    "rollout", "subject_noise", "token_bins",
]  # fmt: skip
