"""How a field of a configuration becomes an option of the command line.

    draws: Annotated[int, Option()] = Field(3, ge=1)
    "Random draws of each control."                      # --draws N, explained by this sentence

    strengths: Annotated[list[float] | None, Option("--strength", "0.5,1,2", parse=_strengths)] = None

A field with this mark is an option of every command with that configuration, in sections too: in its help, its parser
and its messages. The mark holds only what the field does not say itself. Nothing here knows a command line;
`mplat.commands.frame.config_options` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

#: the text that was typed and the option that was typed before it -> the value; raises UsageError
Parse = Callable[[str, str], Any]


@dataclass(frozen=True)
class Option:
    """What an option says and does, where that is not what its field says."""

    name: str | None = None
    """`--strength`; default: the field's name. Without dashes it is a word that has to be typed, such as DATA."""
    metavar: str | None = None
    """What stands for the value in the help; default: N for a number, FILE for a path, the words of a choice."""
    help: str | None = None
    """Default: the field's description."""
    parse: Parse | None = None
    """How a list in one word is read; numbers, paths and single words need none."""
    blocks: bool = False
    """Blocks of a model, such as 0,2-4: read when it is known how many there are."""
    sets: Callable[[str], Mapping[str, Any]] | None = None
    """What the text sets in the configuration, by dotted keys, where that is more than this field."""
    off: str | None = None
    """Of a truth value, the option that says no."""
    shows_default: bool = False


Model = Annotated[
    str | None, Option(metavar="M", help="A shipped model, a folder, or a hub id; MODEL:RECIPE is one steered.")
]
Tokenizer = Annotated[
    str | None,
    Option(
        metavar="NAME|FOLDER", help="Take the tokenizer from this model, hub id or folder; default: the model's own."
    ),
]
DEVICE = Option(
    metavar="DEVICE",
    help="Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one.",
    shows_default=True,
)
Device = Annotated[str, DEVICE]
SEED = Option(metavar="N", help="Everything random follows from it.")
