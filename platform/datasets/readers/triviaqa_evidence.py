"""The evidence documents of TriviaQA, which its questions name but which are not part of them.

The official archive has a text file for each; here they are records {Filename, text}, one to a line. The questions of
TriviaQA are classified and asked without them.
"""

from __future__ import annotations

from pathlib import Path

from ...core.errors import InputError
from ..data_set import BadRecord
from ..sources.files import values
from .fields import identifier, text


def documents(path: Path | str) -> dict[str, str]:
    """Text by file name, as `EntityPages` and `SearchResults` name it; InputError for a record that is none."""
    found: dict[str, str] = {}
    for entry in values(Path(path)):
        try:
            if entry.problem:
                raise BadRecord(entry.problem)
            name = identifier(entry.value, "Filename")
            if name in found:
                raise BadRecord("duplicate_id", f"{name!r} is there already")
            found[name] = text(entry.value, "text")
        except BadRecord as bad:
            raise InputError(f"{path}, {entry.where}: not a document of {{Filename, text}}: {bad}") from bad
    return found
