"""Causal tracing and its relatives: what of a prompt a model's answer comes from, by layer, position and site."""

from __future__ import annotations

from .attribution import attribution_patching
from .coordinate_attribution import coordinate_attribution
from .corruption import subject_noise
from .hidden_attention import HiddenAttention, hidden_attention, rollout
from .knockout import knockout, layer_windows
from .logit_lens import logit_lens
from .path_patching import path_patching
from .trace import causal_trace

__all__ = [
    "HiddenAttention", "attribution_patching", "causal_trace", "coordinate_attribution", "hidden_attention", "knockout",
    "layer_windows", "logit_lens", "path_patching", "rollout", "subject_noise",
]  # fmt: skip
