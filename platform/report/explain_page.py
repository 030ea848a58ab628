"""The page of one question taken apart: one HTML file that shows its tokens, states, readers, traces and features.

Promises
- The file stands alone: style, figures, script and data are inside it, its content policy forbids everything else, and
  it asks for nothing. Without a script every section still has its finding, figures and numbers, but the one map that
  is drawn by it.
- No text that comes from data becomes markup: the template engine escapes it, the script sets text only, and the data
  are JSON in which no `<` is left.
- A section without anything to show says why in one sentence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..interp.explain.explanation import Explanation
from ..interp.explain.findings import findings
from ..models.lending import label
from .explain_data import data_of, strip_of
from .explain_views import (
    block_rows,
    feature_groups,
    held_figures,
    lens_rows,
    read_bars,
    strongest_reads,
    trace_figures,
    written_bars,
)
from .heat_maps import visible_token
from .text import plain_number, visible

_TEMPLATES = Path(__file__).parent / "templates"


def page(found: Explanation, again: str) -> str:
    """The page as text. again: the command that makes it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return visible(value).replace(" %", "\u00a0%")  # no line ends between a number and its unit

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              finalize=finalize, keep_trailing_newline=True)  # fmt: skip
    environment.filters["plain_number"] = plain_number
    data, chosen = data_of(found), found.chosen
    figures = {name: [(f.title, f.note, Markup(f.svg)) for f in made]
               for name, made in (("held", held_figures(found)), ("trace", trace_figures(found)))}  # fmt: skip
    return environment.get_template("explain.html.j2").render(
        title=f"{chosen.item.id} in {label(found.model)}",
        style=Markup(
            "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "explain.css"))
        ),
        script=Markup((_TEMPLATES / "explain.js").read_text(encoding="utf-8")),
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
        found=found,
        says=findings(found),
        tokens=strip_of(found, data),
        measures=data["measures"],
        maps=data["maps"],
        blocks=block_rows(found),
        written=written_bars(found),
        figures=figures,
        read=read_bars(found),
        strongest=strongest_reads(found),
        lens=lens_rows(found),
        features=feature_groups(found),
        evidence="" if chosen.span is None else visible_token("".join(chosen.tokens[slice(*chosen.span)]).strip()),
        facts=_facts(found),
        again=again,
    )


def _facts(found: Explanation) -> dict[str, str]:
    """What the numbers belong to."""
    config: Any = found.config
    traced = config.fact_tracing
    return {
        "model": f"{label(found.model)}, {found.model.config.arch}, digest {found.model.digest[:12]}",
        "question": f"{found.chosen.item.id} of {found.chosen.dataset}",
        "blocks": ", ".join(map(str, found.layers)),
        "trace": f"noise on the evidence, {traced.samples} samples, {traced.window} "
        f"{'block' if traced.window == 1 else 'blocks'} restored at once, seed {config.seed}",
        "lens": f"{config.logit_lens.site} through the model's own final norm and head",
    }
