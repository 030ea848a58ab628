"""Nano models that say something, one with answers through known, damaged channels; not a test file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from mplat.datasets import facts
from mplat.datasets.records import Question
from mplat.models import LanguageModel, ModelConfig, build, generate, load

TOKENIZER = Path(__file__).resolve().parents[2] / "platform" / "models" / "tiny" / "tokenizer"
LAYER = 1
CHANNELS = (3, 11, 17, 26)
DAMAGE = 0.1
ANSWER_TOKENS = 6


def talking(arch: str = "mamba", seed: int = 3, gain: float = 10.0) -> LanguageModel:
    """Three layers, width 32, random weights; what it says depends on the prompt, mostly through CHANNELS of LAYER."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER), local_files_only=True)
    model = build(ModelConfig(arch, 1024, 32, 3, 8, head_dim=16), seed, tokenizer=tokenizer)
    _scale(model, gain)
    return model.eval()


def _scale(model: LanguageModel, factor: float) -> None:
    with torch.no_grad():
        model.get_submodule(f"backbone.layers.{LAYER}.mixer.out_proj").weight[list(CHANNELS)] *= factor  # type: ignore[index]


@dataclass(frozen=True)
class Planted:
    """A model damaged in known channels, and questions whose answers are what it said before."""

    damaged: LanguageModel
    questions: list[Question]


def planted(folder: Path, arch: str = "mamba", per_level: int = 6) -> Planted:
    """The damaged model lies in `folder`, so that workers elsewhere can load it."""
    model = talking(arch)
    asked = facts.prompts(per_level=per_level, seed=5)
    said = generate(model, [q.prompt or "" for q in asked], max_new_tokens=ANSWER_TOKENS)
    questions = [dataclasses.replace(q, answers=(a.text.strip(),)) for q, a in zip(asked, said, strict=True)]
    _scale(model, DAMAGE)
    model.save(folder)
    return Planted(load(folder), questions)
