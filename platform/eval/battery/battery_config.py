"""The settings of the battery: which model, which recipe beside it, and how many questions of which tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...core.config import Config, Seed
from ...core.option import Device, Model, Option, Tokenizer
from ...core.typed_lists import parse_names
from .asking import PER_TASK
from .assessing import BATCH_SIZE, MAX_PROMPT_TOKENS
from .task import task_names


def _tasks(text: str, option: str) -> list[str] | None:
    return None if text.strip() == "all" else parse_names(text, task_names(), option=option)


class BatteryConfig(Config):
    """Everything that decides the table of the battery."""

    model: Model = None
    """A shipped model, a folder, or a hub id."""
    tokenizer: Tokenizer = None
    """A folder, a tokenizer.json, a shipped model or a hub id to take the tokenizer from; default: the model's own."""
    recipe: Annotated[Path | None, Option(help="Ask steered too: a recipe's file, a run's folder or stored edits.")] = (
        None
    )
    """A recipe's file, the folder of a run that holds one, or a folder of stored edits: the model is asked steered with
    it too."""
    tasks: Annotated[list[str] | None, Option(metavar="all|NAMES", help="Tasks that are asked.", parse=_tasks)] = None
    """Tasks that are asked; default: all, those that read a file only where it is given."""
    per_task: Annotated[int, Option(help="Questions of each category.")] = Field(PER_TASK, ge=1)
    """Questions of each category."""
    seed: Seed = 0
    """Of the questions."""
    lambada: Annotated[Path | None, Option(help="The file of the task lambada.")] = None
    """The file of the task lambada, a JSON object with a text on each line."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of the intervals."""
    max_prompt_tokens: int = Field(MAX_PROMPT_TOKENS, ge=8)
    """Longest prompt."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    batch_size: int = Field(BATCH_SIZE, ge=1)
    """Prompts answered together."""
