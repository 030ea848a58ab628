"""A token folder in words: the plan before it, the table of sets after it."""

from __future__ import annotations

from typing import Any

from ..core.plain_text import Table, byte_size
from ..datasets.tokens.folder import Manifest
from .estimate import Estimate
from .tokenise_run import TokenisePlan, TokeniseResult


def plan_lines(plan: TokenisePlan) -> list[str]:
    """What is read, by which tokenizer."""
    first = plan.files[0] + (f" and {len(plan.files) - 1} more" if len(plan.files) > 1 else "")
    return [
        f"texts: {first}, {byte_size(sum(plan.sizes))}",
        f"tokenizer: {plan.tokenizer.folder}, {plan.tokenizer.size:,} tokens",
    ]


def estimate_lines(expected: Estimate, alone: list[str], one_frame: list[str]) -> list[str]:
    """How much it will be."""
    lines = [
        f"shards: about {expected.shards:,}",
        f"unpacked: about {byte_size(expected.text_bytes)}",
        f"tokens: about {expected.tokens:,}, {byte_size(expected.folder_bytes)}",
    ]
    lines += [f"{file}: is read by one worker alone, its kind cannot be cut" for file in alone]
    return lines + [f"{file}: is one frame, as far as was looked; every worker unpacks it whole" for file in one_frame]


def result_words(result: TokeniseResult) -> list[str | Table]:
    """A row for each set, and where the folder is."""
    about = result.folder.manifest
    rows: list[list[Any]] = [_row(name or "(none)", counts) for name, counts in about.sets.items()]
    rows += [_row("all", about.total)] if len(about.sets) > 1 else []
    words: list[str | Table] = [Table(["set", "documents", "bytes", "tokens", "bytes per token"], rows)]
    if about.left_out:
        words.append("left out: " + ", ".join(f"{reason} {n}" for reason, n in about.left_out.items()))
    return [*words, f"tokens: {result.folder.path}" + ("" if result.anew else ", whole already")]


def result_values(result: TokeniseResult) -> dict[str, Any]:
    """The same for --json."""
    about: Manifest = result.folder.manifest
    values = about.model_dump(mode="json")
    return {
        "out": str(result.folder.path),
        "digest": result.folder.digest,
        "made": result.anew,
        **{name: values[name] for name in ("total", "sets", "left_out", "dtype", "tokenizer")},
    }


def _row(name: str, counts: Any) -> list[Any]:
    return [name, counts.documents, counts.bytes, counts.tokens, counts.bytes / counts.tokens]
