"""State-space language models whose every internal quantity has a name that can be read and edited.

model = load("tiny-mamba2")
with model.capture("blocks.*.mixer.delta") as acts:
    model(tokens)
with model.edit(Scale("blocks.2.mixer_out", 5.0, channels=[4, 38])):
    model.generate(["..."])
"""

from __future__ import annotations

from .access.capture import Activations
from .access.direction_edits import Features, ScaleSubspace
from .access.edit_files import load_edits, save_edits
from .access.edits import Add, Clamp, Edit, Interpolate, ProjectOut, Replace, Scale
from .access.sites import Selection, Site
from .auto_classes import transformers_auto
from .building import build
from .decoding.generation import Generation, generate
from .files.loading import load
from .model import LanguageModel
from .model_config import ModelConfig
from .state import ModelState

__all__ = [
    "Activations", "Add", "Clamp", "Edit", "Features", "Generation", "Interpolate", "LanguageModel", "ModelConfig",
    "ModelState", "ProjectOut", "Replace", "Scale", "ScaleSubspace", "Selection", "Site", "build", "generate", "load",
    "load_edits", "save_edits",
]  # fmt: skip

transformers_auto.arrange()
