"""What is drawn of a finished trace: heat maps of the averages and of some single prompts, and the interactive page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyarrow import compute

from ..interp.methods.bins import BINS
from ..interp.methods.table import about, token_labels
from ..interp.methods.trace_words import (
    BIN_TITLES,
    UNITS,
    corruption_in_words,
    judged_in_words,
    used_in_words,
    window_in_words,
)
from ..models.lending import label
from .heat_maps import HeatMap, Panel, render, visible_token
from .trace_page import page

if TYPE_CHECKING:
    import pyarrow as pa

    from ..interp.methods.trace_plan import TracePlan

_TITLE = 110  # characters of a prompt in a title


def draw(plan: TracePlan, traces: pa.Table, averages: pa.Table) -> dict[str, bytes]:
    """Every picture of a trace by the name of its file: heat maps as PNG and SVG, of several prompts their averages
    too, and the page."""
    singles = plan.singles(traces)
    pictures: dict[str, HeatMap] = {}
    if plan.many:
        pictures["averages"] = average_map(plan, averages)
    for number, trace in enumerate(singles[: plan.config.pictures], 1):
        name = about(trace)["id"]
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
        pictures[f"{number:02d}-{slug}" if plan.many else "prompt"] = prompt_map(plan, trace, plan.texts[name])
    files = {
        f"heat_maps/{name}.{kind}": data for name, picture in pictures.items() for kind, data in render(picture).items()
    }
    left_out = traces.select(["id", "status", "reason"]).filter(compute.field("status") != "ok").to_pylist()
    text = page(plan, averages, [(trace, plan.texts[about(trace)["id"]]) for trace in singles], left_out)
    return files | {"trace.html": text.encode("utf-8")}


def prompt_map(plan: TracePlan, trace: pa.Table, text: str) -> HeatMap:
    """One prompt: tokens down, layers across."""
    facts = about(trace)
    labels = dict(zip(trace["position"].to_pylist(), trace["token"].to_pylist(), strict=True))
    start, stop = (int(bound) for bound in facts["subject"].split(":"))
    positions = sorted(labels)
    answer = visible_token(answer_of(plan, facts))
    return HeatMap(
        title=_cut(visible_token(text.strip())),
        notes=[
            f"{label(plan.model)}, {corruption_in_words(plan)}; {window_in_words(plan)}",
            f"colours: effect ({UNITS[plan.config.metric]}), each panel with its own scale; *: subject",
            f"answer {answer}: p {float(facts['p_clean']):.3g} clean, {float(facts['p_corrupted']):.3g} corrupted",
        ],
        rows=[visible_token(labels[p], starred=start <= p < stop) for p in positions],
        layers=plan.layers,
        panels=_panels(plan.sites, trace.to_pylist(), "position", positions, plan.layers),
    )


def average_map(plan: TracePlan, averages: pa.Table) -> HeatMap:
    """Averages over prompts: token bins down, layers across."""
    rows = averages.to_pylist()
    there = [name for name in BINS if any(row["bin"] == name for row in rows)]
    used = int((averages.schema.metadata or {})[b"used"])
    return HeatMap(
        title=f"{label(plan.model)}: average indirect effect; prompts: {used_in_words(plan, used)}",
        notes=[
            f"{corruption_in_words(plan)}; {window_in_words(plan)}",
            f"colours: AIE ({UNITS[plan.config.metric]}), each panel with its own scale; "
            f"answer: {judged_in_words(plan)}",
        ],
        rows=[BIN_TITLES[name] for name in there],
        layers=plan.layers,
        panels=_panels(plan.sites, rows, "bin", there, plan.layers),
    )


def answer_of(plan: TracePlan, facts: Mapping[str, str]) -> str:
    """What the answer's token says."""
    return token_labels(plan.model, [int(facts["answer"])])[0]


def _panels(
    sites: Sequence[str], rows: Sequence[Mapping[str, Any]], key: str, places: Sequence[Any], layers: Sequence[int]
) -> list[Panel]:
    known = {(row["site"], row["layer"], row[key]): row["effect"] for row in rows}
    return [Panel(site, [[known.get((site, layer, place)) for layer in layers] for place in places]) for site in sites]


def _cut(text: str) -> str:
    return text if len(text) <= _TITLE else f"{text[: _TITLE // 2]} ... {text[-_TITLE // 2 :]}"
