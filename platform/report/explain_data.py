"""What an explanation's page colours by token: measures by block, the maps of hidden attention, and the strip below the
tokens, as its script gets them and as it stands there without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..interp.explain.explanation import Explanation
from ..interp.explain.findings import block, rows_of, sentence, site_words
from .heat_maps import visible_token

LINE = 4  # pixels of a block in the strip


class Token(NamedTuple):
    """A token as it stands in the prompt. text: with line ends that can be seen; style: of the strip below it."""

    text: str
    title: str
    evidence: bool
    style: str


def data_of(found: Explanation) -> dict[str, Any]:
    """The data of the script. measures: name, what they are, and for each block a value for each token (None: not
    measured); maps: of hidden attention by block, as shares in thousandths, row by row of their lower triangle; shown:
    the block whose map is drawn first, the one that the answer needs most."""
    span = found.chosen.span
    maps: dict[int, list[int]] = {}
    width = 1
    for cell in rows_of(found, "maps"):
        maps.setdefault(cell["layer"], []).append(round(1000 * cell["share"]))
        width = cell["width"]
    cut = [row for row in rows_of(found, "readers") if row["layer"] is not None and row["cut"] is not None]
    return {
        "tokens": [visible_token(token) for token in found.chosen.tokens],
        "evidence": None if span is None else list(span),
        "measures": _measures(found),
        "shown": min(cut, key=lambda row: row["cut"])["layer"] if cut else None,
        "maps": {"width": width, "blocks": [{"layer": layer, "cells": cells} for layer, cells in maps.items()]},
    }


def _measures(found: Explanation) -> list[dict[str, Any]]:
    states, reads, traces = (rows_of(found, name) for name in ("tokens", "reads", "traces"))
    made = [
        ("Delta", "mean over channels; a large step forgets more and writes more", states, "delta"),
        ("write", "Frobenius norm of what the token writes into the block's state", states, "write"),
        ("read at the end", "share of what the last token reads through the block's scan", reads, "share"),
    ]
    made += [
        (f"brings the answer back: {site_words(site)}", "what the answer's metric gains where it is restored there",
         [row for row in traces if row["site"] == site], "effect")
        for site in dict.fromkeys(row["site"] for row in traces)
    ]  # fmt: skip
    return [measure for one in made if (measure := _measure(found, *one)) is not None]


def _measure(
    found: Explanation, name: str, meaning: str, rows: Sequence[dict[str, Any]], column: str
) -> dict[str, Any] | None:
    lines: dict[str, list[float | None]] = {}
    for row in rows:
        if row[column] is not None:
            values = lines.setdefault(sentence(block(row, _places(rows)))[:-1], [None] * len(found.chosen.tokens))
            values[row["position"]] = float(f"{row[column]:.4g}")
    if not lines:
        return None
    return {"name": name, "meaning": meaning, "lines": [{"label": k, "values": v} for k, v in lines.items()]}


def _places(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each recurrence."""
    return list({(row["layer"], row.get("site")): row for row in rows}.values())


def strip_of(found: Explanation, data: dict[str, Any]) -> list[Token]:
    """The prompt's tokens with the strip of the first measure."""
    span, measures = found.chosen.span, data["measures"]
    lines = measures[0]["lines"] if measures else []
    tops = [max((abs(v) for v in line["values"] if v is not None), default=0.0) for line in lines]
    tokens: list[Token] = []
    for i, text in enumerate(found.chosen.tokens):
        values = [line["values"][i] for line in lines]
        said = ", ".join(f"{line['label']}: {value:.3g}" for line, value in zip(lines, values, strict=True)
                         if value is not None)  # fmt: skip
        shares = [None if v is None or not top else max(0.0, v / top) for v, top in zip(values, tops, strict=True)]
        seen = "".join("\u23ce\n" if c == "\n" else c for c in text) if text.strip(" ") else text
        tokens.append(Token(
            text=seen if seen.strip(" ") or seen else visible_token(text),
            title=f"{i}: {visible_token(text)}" + (f"; {measures[0]['name']}: {said}" if said else ""),
            evidence=span is not None and span[0] <= i < span[1],
            style=gradient(shares),
        ))  # fmt: skip
    return tokens


def gradient(shares: Sequence[float | None]) -> str:
    """CSS of a strip: a line of `LINE` pixels for each share of the full colour, the first on top; None is grey."""
    if not shares:
        return ""
    colours = ["var(--hole)" if share is None else f"rgb(var(--ink) / {share:.2f})" for share in shares]
    stops = ",".join(f"{c} {LINE * i}px {LINE * (i + 1)}px" for i, c in enumerate(colours))
    height = LINE * len(shares)
    return f"padding-bottom:{height + 2}px;background-size:100% {height}px;background-image:linear-gradient({stops})"
