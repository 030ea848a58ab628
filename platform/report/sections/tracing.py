"""A trace's folder -> `Tracing`: average indirect effects by site, layer and kind of token, as the stage measured them.

Reads run.json, averages.parquet and of traces.parquet the prompts without effects. A trace that was not finished, or in
which no prompt was traced, gives a section that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import compute

from ...core.errors import InputError
from ...interp.methods.bins import BINS
from ...interp.methods.trace_words import BIN_TITLES
from ...runtime import read_table
from ...scoring.statistics import Estimate
from ..content import Fact, TracedBin, TracedSite, Tracing
from ..documents import Document, flat, read_rows
from ..section import section

Row = Mapping[str, Any]
_REMEDY = "make it again with `mplat trace`"
_COLUMNS = ("site", "layer", "bin", "effect", "low", "high", "prompts", "ate", "ate_low", "ate_high")
_STATUS = ["id", "status", "reason"]
_LEFT_OUT_SHOWN = 20
_NO_ESTIMATE = Estimate(0, None, None, None)
SITE_MEANINGS = {
    "resid_pre": "the residual stream before the block",
    "resid_post": "the residual stream after the block",
    "mixer_out": "what the mixer (or attention) adds to the residual stream",
    "mlp_out": "what the feed-forward part adds to the residual stream",
    "h": "the recurrent state, before it is read at this token: this token and all later ones see it",
    "h_post": "the recurrent state after this token: later tokens see it, this one does not",
    "conv_state": "the inputs that later tokens' convolutions still see",
    "delta": "the step size at this token, by which the state decays and is written",
    "B": "what is written to the state at this token",
    "C": "how the state is read at this token",
    "gate": "the gate at this token",
    "y": "what is read out of the state at this token",
    "state": "all that the layer carries to later tokens",
}


@section("trace")
def read_tracing(folder: Path, run: Document) -> Tracing:
    """The trace in `folder`, whose run.json is `run`."""
    missing: list[str] = []
    rows: list[dict[str, Any]] = []
    left_out: list[tuple[str, str, str]] = []
    statuses: tuple[tuple[str, int], ...] = ()
    if run.at("status").text() != "done":
        missing.append(f"{folder}: the trace is not finished; run its command again")
    else:
        statuses = tuple((name, count.whole()) for name, count in run.at("counts").entries())
        there = dict(run.at("files").entries())
        if "averages.parquet" in there:
            rows = _averages(folder / "averages.parquet", missing)
        left_out = _without_effects(folder / "traces.parquet", missing)
        if not rows and not missing:
            missing.append(f"{folder}: no prompt was traced, so there is nothing to average")
    layers = tuple(layer.whole() for layer in run.at("plan").at("layers").elements())
    sites = [site.text() for site in run.at("plan").at("sites").elements()]
    words = run.at("details").at("in_words")
    return Tracing(
        folder=str(folder),
        model=Path(run.at("model").at("name").text()).name,
        about=tuple(Fact(name, value.text()) for name, value in words.entries()),
        unit=words.at("metric").text(),
        layers=layers,
        total=_total(rows),
        sites=tuple(_site(site, rows, layers) for site in sites if any(row["site"] == site for row in rows)),
        statuses=statuses,
        left_out=tuple(left_out),
        provenance=tuple(Fact(name, value) for name, value in flat(run.value)),
        missing=tuple(missing),
    )


def _averages(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The averages; a table that should be there and is not is noted."""
    if path.is_file():
        return read_rows(path, _COLUMNS, _REMEDY)
    missing.append(f"{path.name}: {path} is not there; {_REMEDY}")
    return []


def _without_effects(path: Path, missing: list[str]) -> list[tuple[str, str, str]]:
    """Id, status and reason of the first prompts without effects; the table may have millions of rows of others."""
    if not path.is_file():
        missing.append(f"{path.name}: {path} is not there; {_REMEDY}")
        return []
    table = read_table(path, advice=_REMEDY)
    absent = [name for name in _STATUS if name not in table.column_names]
    if absent:
        raise InputError(f"{path}: has no column {', '.join(absent)}; {_REMEDY}")
    bad = table.select(_STATUS).filter(compute.field("status") != "ok").slice(0, _LEFT_OUT_SHOWN)
    return [(row["id"], row["status"], row["reason"] or "") for row in bad.to_pylist()]


def _total(rows: Sequence[Row]) -> Estimate:
    if not rows:
        return _NO_ESTIMATE
    first = rows[0]
    return Estimate(max(row["prompts"] for row in rows), first["ate"], first["ate_low"], first["ate_high"])


def _site(site: str, rows: Sequence[Row], layers: Sequence[int]) -> TracedSite:
    known = {
        (row["layer"], row["bin"]): Estimate(row["prompts"], row["effect"], row["low"], row["high"])
        for row in rows
        if row["site"] == site
    }
    bins = [
        TracedBin(
            title=BIN_TITLES[name],
            effects=tuple(known.get((layer, name), _NO_ESTIMATE) for layer in layers),
            drawn=name != "prefix",
        )
        for name in BINS
        if any(place == name for _, place in known)
    ]
    return TracedSite(site, _meaning(site), tuple(bins))


def _meaning(site: str) -> str:
    parts = [SITE_MEANINGS.get(part.strip().removeprefix("mixer."), "") for part in site.split("+")]
    return "; and ".join(parts) if all(parts) else ""
