"""The metrics log of a run: one JSON object per line, appended as training goes.

Three kinds of line: {"kind": "train", "step", "loss", "answer_loss", "grad_norm", "lr", "tokens", "skipped", and what
`speed.Speed` holds}, {"kind": "eval", "step", <metric>...} and {"kind": "sample", "step", "prompt", "greedy", "drawn"}.
`step` counts finished optimizer steps. A number that is not finite is null, never NaN. On resume, lines after the
resumed step are dropped, so that no step appears twice.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO


class MetricsLog:
    """Appends to `path`; lines written before `resume_step` are kept, later ones and a torn last one dropped."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        kept = [line for line in read_log(path) if line["step"] <= resume_step] if path.exists() and resume_step else []
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join(_dumps(line) for line in kept), encoding="utf-8")
        os.replace(part, path)
        self._file: TextIO = path.open("a", encoding="utf-8")

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


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's lines in order; a torn last line, left by a crash, is not one of them."""
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        if text:
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # everything after a torn write belongs to it
    return lines
