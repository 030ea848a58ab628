"""The settings of the planted benchmark: which search on which plants, with how many questions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...core.config import Config
from ...core.option import Option
from ...core.typed_lists import parse_names
from .catalogue import PLANTS, is_searched
from .judging import ALPHA, CONTROLS

#: plants whose damage a search over channels can undo, and the carriers, on which nothing is damaged
USUAL = [name for name, plant in PLANTS.items() if is_searched(plant)]


def _plants(text: str, option: str) -> list[str]:
    return USUAL if text.strip() == "usual" else parse_names(text, PLANTS, option=option)


def _controls(text: str, option: str) -> list[str]:
    return [] if text.strip() == "none" else parse_names(text, CONTROLS, option=option)


class PlantedConfig(Config):
    """Everything that decides the tables of the planted benchmark."""

    search: Annotated[
        Literal["discover", "none"],
        Option(help="discover: the search of `mplat steer discover`; none: leave every model as it is."),
    ] = "discover"
    """discover: the search of `mplat steer discover`; none: every model is left as it is."""
    plants: Annotated[
        list[str],
        Option(metavar="usual|all|NAMES", help="Models with a known damage; usual: those that searches can mend.",
               parse=_plants),
    ] = USUAL  # fmt: skip
    """Models with a known damage; default: those whose damage a search over channels can undo, and the carriers."""
    seeds: Annotated[int, Option(help="Seeds of the questions, from 0.")] = Field(1, ge=1)
    """How many seeds of questions, from 0."""
    per_level: Annotated[int, Option(help="Development questions of each of the six levels.")] = Field(40, ge=1)
    """Development questions of each of the six levels."""
    per_level_test: Annotated[int, Option(help="Test questions of each of the six levels.")] = Field(25, ge=1)
    """Test questions of each of the six levels."""
    controls: Annotated[
        list[str], Option(metavar="all|none|NAMES", help="What a recipe is compared with.", parse=_controls)
    ] = list(CONTROLS)
    """What a recipe is compared with."""
    draws: Annotated[int, Option(help="Draws of each control.")] = Field(3, ge=1)
    """Draws of each control."""
    alpha: float = Field(ALPHA, gt=0, lt=1)
    """Below it a difference is supported."""
