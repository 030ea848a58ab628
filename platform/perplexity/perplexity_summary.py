"""What a table of documents says: bits per byte and perplexities per set, with intervals over documents.

Only documents with a value are summed; how many there were besides is counted. Intervals are percentile bootstraps of
the ratio of sums, with documents as units. Pure functions of tables; they read and write no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..scoring.statistics import Estimate, Resampling, bootstrap_ratio
from .bits_per_byte import PREFIX_OF_NAMES, bits_per_byte, perplexity

ALL = "all"


@dataclass(frozen=True)
class SetResult:
    """One set. documents: all that were given; scored: those with a value, which alone are summed.

    estimates: name of a measure -> value with interval over documents; None where it is no finite number.
    """

    name: str
    documents: int
    scored: int
    bytes: int
    words: int
    tokens: int
    estimates: dict[str, Estimate]


def summarise(table: pa.Table, method: str, how: Resampling) -> list[SetResult]:
    """Every set of a table of documents, by name, then all of them together."""
    rows = table.to_pylist()
    names = sorted({row["set_name"] for row in rows})
    groups = [(name, [row for row in rows if row["set_name"] == name]) for name in names]
    return [_set_result(name, of_set, method, how) for name, of_set in [*groups, (ALL, rows)]]


def _set_result(name: str, rows: Sequence[Mapping[str, Any]], method: str, how: Resampling) -> SetResult:
    ok = [row for row in rows if row["status"] == "ok"]
    sums = {
        key: np.array([row[key] for row in ok], dtype=np.float64) for key in ("log_likelihood", "n_bytes", "n_words")
    }

    def per(unit: str) -> Estimate:
        """Log-likelihood of a unit."""
        return bootstrap_ratio(
            sums["log_likelihood"],
            sums[unit],
            seed=how.seed,
            confidence=how.confidence,
            n_resamples=how.resamples,
        )

    prefix = PREFIX_OF_NAMES[method]
    of_byte, of_word = per("n_bytes"), per("n_words")
    return SetResult(
        name, len(rows), len(ok), int(sums["n_bytes"].sum()), int(sums["n_words"].sum()),
        sum(row["n_tokens"] for row in ok),
        {
            f"{prefix}bits_per_byte": _falling(of_byte, lambda v: bits_per_byte(v, 1)),
            f"{prefix}byte_perplexity": _falling(of_byte, lambda v: perplexity(v, 1)),
            f"{prefix}word_perplexity": _falling(of_word, lambda v: perplexity(v, 1)),
        },
    )  # fmt: skip


def _falling(mean: Estimate, change: Callable[[float], float | None]) -> Estimate:
    """The estimate of a falling function of a mean: its bounds change places."""
    value, low, high = (None if v is None else change(v) for v in (mean.mean, mean.high, mean.low))
    return Estimate(mean.n, value, low, high)


def set_values(result: SetResult) -> dict[str, Any]:
    """One set as plain JSON."""
    estimates = {name: {"value": e.mean, "low": e.low, "high": e.high} for name, e in result.estimates.items()}
    counts = {key: getattr(result, key) for key in ("documents", "scored", "bytes", "words", "tokens")}
    return {"set": result.name, **counts, **estimates}
