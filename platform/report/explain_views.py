"""The tables, bars and figures of an explanation's page: what stands in its tables, laid out; nothing is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..interp.explain.explanation import Explanation
from ..interp.explain.findings import block, number, percent, rows_of, signed, site_words, total_effect
from ..interp.methods.restoration import STATE
from .charts.view_figures import draw
from .content import Curves, Point, ValueMap
from .heat_maps import visible_token

_FEW_LINES = 5  # blocks that lines can be told apart of; more become a map
_MOST_POINTS = 24  # of a line
_STRONGEST = 6


class Bar(NamedTuple):
    """A block's number beside that of other tokens. width, other: in percent of the longest of the section."""

    label: str
    text: str
    width: float
    others: str
    other: float


class Figure(NamedTuple):
    """A drawn figure."""

    title: str
    note: str
    svg: str


class Block(NamedTuple):
    """A line of the table of blocks; shades: from 0 to 1, for each text; None: nothing was measured."""

    label: str
    cells: tuple[tuple[str, float | None], ...]


def block_rows(found: Explanation) -> list[Block]:
    """What each block does with the evidence, in one line."""
    states: dict[int, dict[str, Any]] = {}
    for row in rows_of(found, "states"):
        states.setdefault(row["layer"], row)
    readers = {row["layer"]: row for row in rows_of(found, "readers")}
    lens = {row["layer"]: row for row in rows_of(found, "lens")}
    top = max((row["write_ratio"] or 0.0 for row in states.values()), default=0.0)
    rows: list[Block] = []
    for layer in found.layers:
        state, reader, read_out = states.get(layer, {}), readers.get(layer, {}), lens.get(layer, {})
        ratio, cut = state.get("write_ratio"), reader.get("cut")
        rows.append(Block(f"block {layer}", (
            ("\u2013", None) if ratio is None else (f"{number(ratio)} ×", ratio / top if top else 0.0),
            _share(state.get("left_write")),
            _share(reader.get("read")),
            ("\u2013", None) if cut is None else (signed(cut), min(1.0, max(0.0, -cut))),
            _share(read_out.get("answer_prob")),
        )))  # fmt: skip
    return rows


def _share(value: float | None) -> tuple[str, float | None]:
    return ("\u2013", None) if value is None else (percent(value), value)


def written_bars(found: Explanation) -> list[Bar]:
    """How strongly each block writes the evidence, beside the mean of other spans of as many tokens."""
    rows = rows_of(found, "states")
    bars: list[Bar] = []
    for row in rows:
        # each block by its own scale: norms of different blocks have nothing in common
        longest = max(row["write"], row["write_others"] or 0.0) or 1.0
        others = "no other tokens" if row["write_others"] is None else (
            f"{number(row['write_others'])}; {percent(row['write_above'])} of {row['spans']} above"
        )  # fmt: skip
        bars.append(Bar(block(row, rows), number(row["write"]), 100 * row["write"] / longest, others,
                        100 * (row["write_others"] or 0.0) / longest))  # fmt: skip
    return bars


def read_bars(found: Explanation) -> dict[str, list[Bar]]:
    """Shares of hidden attention, and what the answer loses where a block no longer reads the evidence."""
    shares: list[Bar] = []
    losses: list[Bar] = []
    for row in rows_of(found, "readers"):
        name = "all at once" if row["layer"] is None else f"block {row['layer']}"
        if row["read"] is not None:
            others = "no other tokens" if row["read_others"] is None else (
                f"{percent(row['read_others'])}, at most {percent(row['read_high'])}"
            )  # fmt: skip
            shares.append(Bar(name, percent(row["read"]), 100 * row["read"], others, 100 * (row["read_others"] or 0.0)))
        if row["cut"] is not None:
            others = "no other tokens" if row["cut_low"] is None else (
                f"{signed(row['cut_low'])} to {signed(row['cut_high'])}"
            )  # fmt: skip
            losses.append(Bar(name, signed(row["cut"]), _loss(row["cut"]), others, _loss(row["cut_low"])))
    return {"shares": shares, "losses": losses}


def _loss(change: float | None) -> float:
    """A loss in percent of the answer's probability; a gain has no bar."""
    return 0.0 if change is None else 100 * min(1.0, max(0.0, -change))


def strongest_reads(found: Explanation) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Block -> the tokens that the last one reads most, with their share and whether they are evidence."""
    span, by_layer = found.chosen.span, dict[int, list[dict[str, Any]]]()
    for row in rows_of(found, "reads"):
        by_layer.setdefault(row["layer"], []).append(row)
    return [
        (f"block {layer}", [
            (visible_token(row["token"]), percent(row["share"]),
             span is not None and span[0] <= row["position"] < span[1])
            for row in sorted(rows, key=lambda row: -row["share"])[:_STRONGEST] if row["share"] > 0
        ])
        for layer, rows in by_layer.items()
    ]  # fmt: skip


def held_figures(found: Explanation) -> list[Figure]:
    """What is left of the evidence by token, by decay and by restoring."""
    rows = [row for row in rows_of(found, "left") if row["write"] is not None]
    places = list({(row["layer"], row["site"]): row for row in rows}.values())
    made = [_over_distance(
        "held-left", "Left of what the evidence wrote, by decay",
        "Norm of the evidence's own write after every further token; 100 % right behind it.",
        "left, %", {block(p, places): [(r["distance"], 100 * r["write"]) for r in rows
                                       if (r["layer"], r["site"]) == (p["layer"], p["site"])] for p in places},
    )]  # fmt: skip
    total, last = total_effect(found), len(found.chosen.tokens) - 1
    if total is not None and total > 0:
        kept = [r for r in rows_of(found, "traces", site=STATE) if r["distance"] >= 0 and r["position"] < last]
        lines = {f"block {layer}": [(r["distance"], 100 * r["effect"] / total) for r in kept if r["layer"] == layer]
                 for layer in dict.fromkeys(r["layer"] for r in kept)}  # fmt: skip
        made.append(_over_distance(
            "held-restored", "Brought back by restoring what a block hands on",
            "Share of the noise's effect that is undone when the block's whole state is given back clean there.",
            "brought back, %", lines,
        ))  # fmt: skip
    return [figure for figure in made if figure is not None]


def _over_distance(
    name: str, title: str, note: str, label: str, lines: dict[str, list[tuple[int, float]]]
) -> Figure | None:
    """Lines by distance, or of many blocks a map; None of no lines."""
    if not lines:
        return None
    x_label = "tokens after the evidence"
    if len(lines) <= _FEW_LINES:
        thin = {key: its[:: -(-len(its) // _MOST_POINTS)] for key, its in lines.items()}
        shown: Curves | ValueMap = Curves(
            title, note, x_label, label,
            tuple((key, tuple(Point(x, y, None, None) for x, y in its)) for key, its in thin.items()),
        )  # fmt: skip
    else:
        distances = sorted({x for its in lines.values() for x, _ in its})
        values = tuple(tuple(dict(its).get(x) for x in distances) for its in lines.values())
        names = tuple(key.removeprefix("block ") for key in lines)
        shown = ValueMap(title, note, label, "linear", "block", x_label, names, tuple(distances), values)
    return Figure(title, note, _drawn(name, shown))


def trace_figures(found: Explanation) -> list[Figure]:
    """A map of effects for every restored site, blocks down and tokens across."""
    rows = [row for row in rows_of(found, "traces") if row["distance"] >= 0 or row["position"] >= 0]
    figures: list[Figure] = []
    for number_, site in enumerate(dict.fromkeys(row["site"] for row in rows)):
        its = [row for row in rows if row["site"] == site]
        positions = sorted({row["position"] for row in its})
        layers = sorted({row["layer"] for row in its})
        known = {(row["layer"], row["position"]): row["effect"] for row in its}
        columns = tuple(_label(found.chosen.tokens[p]) for p in positions)
        values = tuple(tuple(known.get((layer, p)) for p in positions) for layer in layers)
        title = f"Restored: {site_words(site)}"
        shown = ValueMap(title, "", "effect", "signed", "block", "token", tuple(layers), columns, values)
        figures.append(Figure(title, f"site {site}", _drawn(f"trace-{number_}", shown)))
    return figures


def _drawn(name: str, shown: Curves | ValueMap) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's own font has it
        return draw(name, shown)


def _label(token: str) -> str:
    """A token below a figure; a dollar would begin a formula there."""
    return visible_token(token).replace("$", r"\$")


class LensRow(NamedTuple):
    """What the stream says after a block. best: token, probability, whether it is the answer's."""

    label: str
    rank: int
    p: str
    kl: str
    best: tuple[tuple[str, str, float, bool], ...]


def lens_rows(found: Explanation) -> list[LensRow]:
    """The most probable tokens after every block."""
    answer = found.chosen.item.answer[0]
    return [
        LensRow(
            f"block {row['layer']}", row["answer_rank"], percent(row["answer_prob"]), f"{row['kl']:.2f}",
            tuple((visible_token(token), percent(p), p, id_ == answer) for token, id_, p
                  in zip(row["top_tokens"], row["top_ids"], row["top_probs"], strict=True)),
        )
        for row in rows_of(found, "lens")
    ]  # fmt: skip


def feature_groups(found: Explanation) -> list[tuple[str, Sequence[dict[str, Any]]]]:
    """Autoencoder and token -> its strongest latents."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(found, "features"):
        at = "the evidence" if row["at"] == "evidence" else "the last token"
        name = f"Block {row['layer']}, {site_words(row['site'])}, {row['kind']}: at {at}, {visible_token(row['token'])}"
        groups.setdefault(name, []).append(row)
    return list(groups.items())
