"""What a result depends on besides its configuration: program sources, versions, kernels. Read, never guessed."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.versions import versions

if TYPE_CHECKING:
    from .model import LanguageModel

_ROOT = Path(__file__).resolve().parent.parent
# What turns a prompt's tokens into a row. Everything before that is in the items, everything after is computed anew.
_SOURCES = (
    "models", "scoring/metrics", "eval/answers.py", "eval/conditions.py", "eval/schema.py", "eval/side_effects.py",
    "perplexity/bits_per_byte.py", "perplexity/perplexity_worker.py",
    "steering/operators.py", "steering/recipe.py", "steering/variants",
)  # fmt: skip
_DECISIVE = ("torch", "transformers", "tokenizers")


@cache
def sources_digest() -> str:
    """sha256 of the code that turns tokens into rows; comments and layout do not count."""
    h = hashlib.sha256()
    for part in _SOURCES:
        path = _ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            h.update(f"{file.relative_to(_ROOT).as_posix()}\n".encode())
            h.update(ast.dump(ast.parse(file.read_bytes())).encode())
    return h.hexdigest()


def kernels(model: LanguageModel) -> dict[str, str]:
    """Operation -> backend that a forward pass of `model` uses."""
    from .kernels import operations, resolve

    weight = next(model.parameters())
    return {operation: resolve(operation, weight) for operation in operations()}


def computation_key(model: LanguageModel) -> dict[str, Any]:
    """What decides a worker's rows besides its items and arguments."""
    return {
        "model": model.digest,
        "dtype": str(model.dtype).removeprefix("torch."),
        "kernels": kernels(model),
        "sources": sources_digest(),
        "versions": {name: versions()[name] for name in _DECISIVE},
    }
