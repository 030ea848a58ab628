"""The metrics log of a run: one JSON object per line, appended as training goes.

Three kinds of line: {"kind": "train", "step", "loss", "answer_loss", "grad_norm", "lr", "tokens", "skipped", and what
`speed.Speed` holds}, {"kind": "eval", "step", <metric>...} and {"kind": "sample", "step", "prompt", "greedy", "drawn"}.
`step` counts finished optimizer steps. A number that is not finite is null, never NaN. On resume, lines after the
resumed step are dropped, so that no step appears twice, and damaged ones are put aside, in log.jsonl.damaged.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.inside import open_itself
from ..core.json_files import strict
from ..core.whole_files import publish_bytes


class MetricsLog:
    """Appends to `path`; lines written before `resume_step` are kept, later ones and a torn last one dropped.

    warn: told of damaged lines, which are put aside. Raises UsageError where the log is a symbolic link."""

    def __init__(self, path: Path, resume_step: int = 0, warn: Callable[[str], None] = lambda text: None) -> None:
        content = log_content(path) if path.exists() and resume_step else LogContent([], [])
        if content.damaged:
            aside = path.with_name(f"{path.name}.damaged")
            publish_bytes(b"".join(line + b"\n" for line in content.damaged), aside)
            warn(f"{path}: {len(content.damaged)} damaged lines are put aside in {aside.name}; the others stay")
        kept = [line for line in content.lines if line["step"] <= resume_step]
        publish_bytes("".join(map(_dumps, kept)).encode(), path)
        self._file = os.fdopen(open_itself(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line, flushed, so that a reader sees it at once."""
        self._file.write(_dumps({"kind": kind, "step": step} | values))
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _dumps(line: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


class LogContent(NamedTuple):
    """What a log holds: its lines in order, and those that are damaged as they are."""

    lines: list[dict[str, Any]]
    damaged: list[bytes]


def log_content(path: Path) -> LogContent:
    """The log at `path`; a torn last line, left by a crash, is in neither list. Raises InputError where it cannot be
    read."""
    try:
        *texts, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); `mplat train` writes it") from error
    content = LogContent([], [])
    for text in texts:
        line = _line(text)
        if line is not None:
            content.lines.append(line)
        elif text.strip():
            content.damaged.append(text)
    return content


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's lines in order, without damaged ones. Raises InputError where it cannot be read."""
    return log_content(path).lines


def _line(text: bytes) -> dict[str, Any] | None:
    """A line of the log: numbers, texts in samples alone, null where a number was not finite."""
    try:
        line = strict(text.decode())
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str) or type(line.get("step")) is not int:
        return None
    said = int | float | str | None if line["kind"] == "sample" else int | float | None
    return line if all(isinstance(value, said) for name, value in line.items() if name != "kind") else None
