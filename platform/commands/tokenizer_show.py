"""`mplat tokenizer show T`: a tokenizer's vocabulary, and how many bytes of a text a token stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .frame.command import command
from .frame.options import Json, as_path
from .frame.output import Output

_BYTES = 10_000_000  # of text that is looked at


@command("tokenizer show", order=27)
def tokenizer_show(
    folder: Annotated[Path, typer.Argument(metavar="T", parser=as_path, help="Folder with a tokenizer's files.")],
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", parser=as_path, help="Count bytes per token on the texts of this file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a tokenizer's vocabulary is and, on texts, how many bytes a token stands for."""
    from ..datasets.tokens.tokenizer import open_tokenizer
    from ..tokenise.shown import bytes_per_token, shown

    tokenizer, facts = open_tokenizer(folder)
    values = shown(tokenizer, facts)
    before = ", ".join(values["before_a_text"]) or "nothing"
    words = [
        f"tokenizer {facts.digest[:16]}: {facts.size:,} tokens",
        f"end of a text: {values['end_of_text']!r} ({facts.eos_id}); before a text: {before}",
        f"longest token: {values['longest']!r}",
    ]
    if text is not None:
        found = bytes_per_token(tokenizer, text, _BYTES)
        values |= found
        words.append(
            f"{found['bytes_per_token']:.4g} bytes per token on {found['documents']:,} documents of {text}, "
            f"{found['bytes']:,} bytes"
        )
    Output(json=as_json).result(values, *words)
