"""The names under which users import things stay, wherever the things themselves lie."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("public", "place", "names"),
    [
        ("mplat.errors", "mplat.core.errors", ["InputError", "UsageError", "MplatError"]),
        ("mplat.config", "mplat.core.config", ["Config", "load_config", "dump_config"]),
        ("mplat.models.edits", "mplat.models.access.edits", ["Scale", "Add", "Replace", "Edit"]),
        ("mplat.eval.metrics", "mplat.scoring.metrics", ["score", "evaluate", "names", "Score"]),
        ("mplat.eval.metrics.triviaqa", "mplat.scoring.metrics.triviaqa", ["oracle"]),
        ("mplat.eval.metrics.likelihood", "mplat.scoring.metrics.likelihood", ["lambada"]),
        ("mplat.interp.tracing", "mplat.interp.methods.trace", ["causal_trace"]),
        ("mplat.interp.tracing", "mplat.interp.methods.comparison", ["compare"]),
        ("mplat.models.kernels", "mplat.models.kernels.scan.scan_call", ["selective_scan"]),
        ("mplat.models.kernels", "mplat.models.kernels.ssd.ssd_call", ["ssd"]),
        ("mplat.models", "mplat.models.access.edits", ["Scale"]),
        ("mplat.datasets.factual", "mplat.datasets.factual.reading", ["read_factual"]),
    ],
)
def test_a_public_name_is_the_thing_itself(public: str, place: str, names: list[str]) -> None:
    module, home = importlib.import_module(public), importlib.import_module(place)
    assert all(getattr(module, name) is getattr(home, name) for name in names)


def test_modules_of_metrics_are_attributes_of_their_public_name() -> None:
    from mplat.eval import metrics
    from mplat.eval.metrics import likelihood, triviaqa

    assert (
        metrics.likelihood is likelihood
        and metrics.triviaqa is triviaqa
        and metrics.names()
        and callable(metrics.metric)
    )
