"""Bins of tokens, and averages over prompts: which prompts count, what the intervals are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mplat.core.errors import InputError, UsageError
from mplat.interp.methods.table import trace_table
from mplat.interp.tracing import average_traces, bin_trace, token_bins
from mplat.scoring.statistics import bootstrap_mean


@pytest.mark.parametrize(
    ("length", "subject", "expected"),
    [
        (7, (1, 4), "prefix subject_first subject_middle subject_last further further last"),
        (5, (0, 2), "subject_first subject_last further further last"),
        (4, (1, 2), "prefix subject_last further last"),
        (3, (0, 2), "subject_first subject_last last"),
        (4, (1, 4), "prefix subject_first subject_middle subject_last"),
        (1, (0, 1), "subject_last"),
    ],
)
def test_every_position_is_in_one_bin(length: int, subject: tuple[int, int], expected: str) -> None:
    assert token_bins(length, subject) == expected.split()


def made(effects: np.ndarray, subject: tuple[int, int], **changes: Any) -> pa.Table:
    """A trace of one site with effects (layers, positions)."""
    rows = [
        {"site": "h_post", "layer": layer, "position": t, "token": "x", "effect": float(e), "samples": 1}
        for layer, row in enumerate(effects)
        for t, e in enumerate(row)
    ]
    about = {
        "metric": "prob", "metric_clean": 0.9, "metric_corrupted": 0.2, "answer": 3, "predicted": 3,
        "answer_given": True, "subject": f"{subject[0]}:{subject[1]}", "length": effects.shape[1],
        "window": 1, "corruption": "noise", "model": "m", "noise": 0.5,
    }  # fmt: skip
    return trace_table(rows, about | changes)


def test_a_bin_is_the_mean_of_its_positions() -> None:
    effects = np.arange(14.0).reshape(2, 7) ** 2
    binned = bin_trace(made(effects, (2, 3)))
    expected = [
        {"site": "h_post", "layer": layer, "bin": name, "effect": effects[layer, part].mean(), "positions": n}
        for layer in (0, 1)
        for name, part, n in (
            ("prefix", slice(0, 2), 2), ("subject_last", slice(2, 3), 1), ("further", slice(3, 6), 3),
            ("last", slice(6, 7), 1),
        )
    ]  # fmt: skip
    assert binned.to_pylist() == expected
    other = bin_trace(made(effects, (2, 3)), subject=(0, 4)).to_pylist()
    assert [row["bin"] for row in other[:4]] == ["subject_first", "subject_middle", "subject_last", "further"]
    with pytest.raises(UsageError, match="metadata included"):
        bin_trace(made(effects, (2, 3)).replace_schema_metadata(None))


RNG = np.random.default_rng(5)
PROMPTS = [(RNG.normal(size=(2, n)), span) for n, span in ((6, (1, 3)), (8, (2, 5)), (5, (0, 1)), (6, (1, 4)))]


def test_averages_are_means_over_prompts_with_bootstrap_intervals() -> None:
    traces = [made(effects, span, metric_clean=0.5 + 0.1 * i) for i, (effects, span) in enumerate(PROMPTS)]
    table = average_traces(traces, n_resamples=2000, seed=3)
    binned = [bin_trace(t).to_pylist() for t in traces]
    assert len(table) == 12  # two layers, six bins
    for row in table.to_pylist():
        values = [r["effect"] for b in binned for r in b if (r["layer"], r["bin"]) == (row["layer"], row["bin"])]
        assert row["prompts"] == len(values) == (2 if row["bin"] == "subject_middle" else row["prompts"])
        expected = bootstrap_mean(values, seed=3, n_resamples=2000)
        assert row["effect"] == pytest.approx(expected.mean, rel=1e-12)
        assert row["low"] == pytest.approx(expected.low, rel=1e-9)
        assert row["high"] == pytest.approx(expected.high, rel=1e-9)
    about = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert (about["traced"], about["used"], about["prompts"]) == ("4", "4", "answered correctly")
    total = bootstrap_mean([0.3 + 0.1 * i for i in range(4)], seed=3, n_resamples=2000)
    found = [float(about[k]) for k in ("total_effect", "total_effect_low", "total_effect_high")]
    assert found == pytest.approx([total.mean, total.low, total.high], rel=1e-9)


def test_only_prompts_answered_correctly_count_unless_all_are_asked_for(rng: np.random.Generator) -> None:
    effects = rng.normal(size=(1, 4))
    right, wrong = made(effects, (1, 2)), made(effects + 1.0, (1, 2), predicted=9)
    one = average_traces([right, wrong])
    assert one["effect"].to_pylist() == pytest.approx(bin_trace(right)["effect"].to_pylist())
    assert one["low"].null_count == one.num_rows  # one prompt has no interval
    both = average_traces([right, wrong], correct_only=False, by="position")
    assert both["effect"].to_pylist() == pytest.approx(list(effects[0] + 0.5))
    assert both.schema.metadata[b"prompts"] == b"all" and both.schema.metadata[b"used"] == b"2"
    with pytest.raises(InputError, match="none of 1 prompts was answered correctly"):
        average_traces([wrong])
    with pytest.raises(UsageError, match="trace 1 was made without answer"):
        average_traces([right, made(effects, (1, 2), answer_given=False)])


def test_traces_that_do_not_belong_together_are_not_averaged(rng: np.random.Generator) -> None:
    effects = rng.normal(size=(1, 4))
    with pytest.raises(UsageError, match="traces 0 and 1 differ in window"):
        average_traces([made(effects, (1, 2)), made(effects, (1, 2), window=3)])
    with pytest.raises(UsageError, match="different lengths"):
        average_traces([made(effects, (1, 2)), made(effects[:, :3], (1, 2))], by="position")
    with pytest.raises(UsageError, match="did you mean 'bin'"):
        average_traces([made(effects, (1, 2))], by="bins")
    with pytest.raises(InputError, match="nothing to average"):
        average_traces([])
