"""The interactive page of a trace: one HTML file that shows every site, prompt and the averages as heat maps.

Promises
- The file stands alone: style, script and data are inside it, its content policy forbids everything else, and it asks
  for nothing. Without a script it still says what was traced, with the averages as a table.
- No text that comes from data becomes markup: the template engine escapes it, and the script sets text only. The data
  are JSON in which no `<` is left.
- Numbers have four significant digits here; the tables beside the page have all of them. At most so many cells go into
  the page as a browser can hold with ease; the page says how many prompts it shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..interp.methods.bins import BINS
from ..interp.methods.table import about
from ..interp.methods.trace_words import (
    BIN_TITLES,
    UNITS,
    corruption_in_words,
    judged_in_words,
    used_in_words,
    window_in_words,
)
from ..models.lending import label
from .heat_maps import visible_token

if TYPE_CHECKING:
    import pyarrow as pa

    from ..interp.methods.trace_plan import TracePlan

_TEMPLATES = Path(__file__).parent / "templates"
MOST_CELLS = 400_000  # about 8 MB of numbers
_LEFT_OUT_SHOWN = 200


def page(
    plan: TracePlan, averages: pa.Table, singles: Sequence[tuple[pa.Table, str]], left_out: Sequence[dict[str, Any]]
) -> str:
    """The page as text. singles: traces with their prompts' texts; left_out: id, status and reason of the others."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              keep_trailing_newline=True)  # fmt: skip
    shown = _that_fit(singles)
    data = {
        "layers": list(plan.layers),
        "sites": list(plan.sites),
        "unit": UNITS[plan.config.metric],
        "views": ([_averages(averages, plan.sites, plan.layers)] if plan.many else [])
        + [_prompt(plan, trace, text) for trace, text in shown],
    }
    return environment.get_template("trace.html.j2").render(
        title=f"Causal traces of {label(plan.model)}",
        style=Markup((_TEMPLATES / "trace.css").read_text(encoding="utf-8")),
        script=Markup((_TEMPLATES / "trace.js").read_text(encoding="utf-8")),
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
        facts={
            "model": f"{label(plan.model)}, {plan.model.config.arch}, digest {plan.model.digest[:12]}",
            "corruption": corruption_in_words(plan),
            "restored": window_in_words(plan),
            "metric": f"{UNITS[plan.config.metric]} of the answer: {judged_in_words(plan)}",
            "prompts": used_in_words(plan, len(singles)),
        },
        shown=len(shown),
        traced=len(singles),
        averages=averages.to_pylist() if plan.many else [],
        bin_titles=BIN_TITLES,
        left_out=left_out[:_LEFT_OUT_SHOWN],
        left_out_count=len(left_out),
    )


def _that_fit(singles: Sequence[tuple[pa.Table, str]]) -> list[tuple[pa.Table, str]]:
    """The first prompts whose cells together are not too many; always at least one."""
    found, cells = [], 0
    for trace, text in singles:
        cells += trace.num_rows
        if found and cells > MOST_CELLS:
            break
        found.append((trace, text))
    return found


def _averages(averages: pa.Table, sites: Sequence[str], layers: Sequence[int]) -> dict[str, Any]:
    rows = averages.to_pylist()
    places = [name for name in BINS if any(row["bin"] == name for row in rows)]
    known = {(row["site"], row["layer"], row["bin"]): row for row in rows}
    cells = {
        site: [
            [
                None
                if (row := known.get((site, layer, place))) is None
                else [_short(row["effect"]), _short(row["low"]), _short(row["high"]), row["prompts"]]
                for layer in layers
            ]
            for place in places
        ]
        for site in sites
    }
    return {"kind": "averages", "name": "averages over prompts", "rows": [BIN_TITLES[p] for p in places],
            "starred": [], "cells": cells, "text": ""}  # fmt: skip


def _prompt(plan: TracePlan, trace: pa.Table, text: str) -> dict[str, Any]:
    from ..interp.methods.table import token_labels

    facts = about(trace)
    start, stop = (int(bound) for bound in facts["subject"].split(":"))
    rows = trace.to_pylist()
    labels = {row["position"]: visible_token(row["token"]) for row in rows}
    known = {(row["site"], row["layer"], row["position"]): row for row in rows}
    positions = sorted(labels)
    cells = {
        site: [
            [
                None
                if (row := known.get((site, layer, p))) is None
                else [_short(row["effect"]), _short(row["effect_std"])]
                for layer in plan.layers
            ]
            for p in positions
        ]
        for site in plan.sites
    }
    answer, predicted = token_labels(plan.model, [int(facts["answer"]), int(facts["predicted"])])
    said = f"answer {visible_token(answer)}, p {float(facts['p_clean']):.3g} clean, "
    said += f"{float(facts['p_corrupted']):.3g} corrupted; the model says {visible_token(predicted)}"
    return {"kind": "prompt", "name": facts["id"], "rows": [labels[p] for p in positions],
            "starred": [i for i, p in enumerate(positions) if start <= p < stop], "cells": cells,
            "text": text, "said": said}  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
