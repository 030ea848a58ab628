"""Analyses of a model: a graph of steps whose results are kept in a cache keyed by everything that could change them.

results = run_steps(load("tiny-mamba"), facts.prompts(20))  # every step; a result has .table or .tables
channels = bottleneck_channels(model, questions, layer=3, site="mixer_out", k=8)
"""

from __future__ import annotations

from ..core.observer import Observer
from .engine.cache import Cache
from .engine.graph import all_steps
from .engine.interp_config import InterpConfig, config_model, default_config
from .engine.run import Plan, StepResult, plan_steps, run_plan, run_steps
from .engine.step import Job, Step, StepSettings, step
from .methods.channels import bottleneck_channels, bottleneck_finder
from .reading import read, read_stored

__all__ = [
    "Cache", "InterpConfig", "Job", "Observer", "Plan", "Step", "StepResult", "StepSettings", "all_steps",
    "bottleneck_channels", "bottleneck_finder", "config_model", "default_config", "plan_steps", "read", "read_stored",
    "run_plan", "run_steps", "step",
]  # fmt: skip
