"""Several models side by side in words: a column for each, of what the analyses that compare them found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.plain_text import Table, with_interval

if TYPE_CHECKING:
    import pyarrow as pa

#: step -> its tables by part
Found = Mapping[str, Mapping[str, "pa.Table"]]
Row = Mapping[str, Any]


def values(found: Found) -> dict[str, Any]:
    """What the summaries below show, as plain JSON: rows by analysis and part, without those of single prompts."""
    left_out = {("model_comparison", "prompts"), ("causal_equivalence", "pairs")}
    return {
        "results": {
            step: {part: table.to_pylist() for part, table in tables.items() if (step, part) not in left_out}
            for step, tables in found.items()
        }
    }


def in_words(found: Found) -> list[str | Table]:
    """A table of all models, then one of each further analysis that was made."""
    words: list[str | Table] = []
    for step, show in _SHOWN.items():
        if step in found:
            title, table = show(found[step])
            words += ["\n" + title if words else title, table]
    return words


def _overview(tables: Mapping[str, pa.Table]) -> tuple[str, Table]:
    models = tables[""].to_pylist()
    lines: list[tuple[str, Callable[[Row], str]]] = [
        ("architecture", lambda r: r["arch"]),
        ("parameters", lambda r: f"{r['parameters']:,}"),
        ("  used by a token", lambda r: f"{r['active_parameters']:,}"),
        ("blocks", lambda r: str(r["blocks"])),
        ("width", lambda r: str(r["width"])),
        ("state of one text, bytes", lambda r: f"{r['state_bytes']:,}"),
        ("  after the longest prompt", lambda r: f"{r['state_bytes_longest']:,} ({r['longest']} tokens)"),
        ("questions", lambda r: str(r["n_questions"])),
        ("share of answers right", lambda r: _interval(r, "accuracy", ".3f")),
        ("  less that of the first", lambda r: _interval(r, "difference", "+.3f")),
        ("  p, corrected", lambda r: "-" if r["p_holm"] is None else f"{r['p_holm']:.2g}"),
        ("log-probability of the answer, nats", lambda r: _interval(r, "logprob", ".3f")),
    ]
    return "On the same questions", Table(
        ["", *(row["model"] for row in models)], [[title, *(of(row) for row in models)] for title, of in lines]
    )


def _traces(tables: Mapping[str, pa.Table]) -> tuple[str, Table]:
    """Where restoring a kind of site has the largest effect, for the tokens that matter most."""
    rows = tables["effects"].to_pylist()
    models = list(dict.fromkeys(row["model"] for row in rows))
    shown: list[list[str]] = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for at in ("subject_last", "last"):
            cells: list[str] = []
            for model in models:
                here = [r for r in rows if (r["model"], r["kind"], r["bin"], r["status"]) == (model, kind, at, "ok")]
                best = max(here, key=lambda r: r["effect"], default=None)
                cells.append("-" if best is None else f"{_interval(best, 'effect', '.3f', '')} at {best['depth']:.2f}")
            shown.append([f"{kind}, {at.replace('_', ' ')}", *cells])
    counted = {m: sum(r["counted"] for r in tables["prompts"].to_pylist() if r["model"] == m) for m in models}
    totals = {r["model"]: r["total_effect"] for r in rows if r["total_effect"] is not None}
    head = [
        ["prompts that count", *(str(counted[model]) for model in models)],
        ["total effect", *(f"{totals[model]:.3f}" if model in totals else "-" for model in models)],
    ]
    return "Largest effect of restoring clean values, and its relative depth", Table(["", *models], head + shown)


def _equivalence(tables: Mapping[str, pa.Table]) -> tuple[str, Table]:
    rows = tables["patching"].to_pylist()
    aligned = [row for row in rows if row["stand_in"] == "aligned"]
    columns = ["into", "site", "layer", "its layer", "map", "remains", "mismatched", "shuffled weights", "p", "verdict"]
    shown: list[list[object]] = []
    for row in aligned:
        its = ("other", "site", "layer", "map")
        controls = [
            [r["share"] for r in rows if r["stand_in"] == kind and all(r[c] == row[c] for c in its)]
            for kind in ("mismatched questions", "shuffled weights")
        ]
        means = ["-" if not of or None in of else f"{sum(of) / len(of):.3f}" for of in controls]
        p = None if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        shown.append([row["other"], row["site"], row["layer"], row["other_layer"], row["map"],
                      _interval(row, "share", ".3f"), *means, p, row["verdict"]])  # fmt: skip
    return "What remains of the answers with mapped activations: 1 all, 0 as with the mean", Table(columns, shown)


def _universality(tables: Mapping[str, pa.Table]) -> tuple[str, Table]:
    rows = [row for row in tables["overlaps"].to_pylist() if row["status"] == "ok"]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["comparison"], row["model"], row["other"]), []).append(row)
    columns = ["comparison", "model", "other", "pairs", "shared", "by chance", "p corrected <= .05"]
    shown = [
        [*key, len(of), _mean(of, "shared"), _mean(of, "expected"),
         "-" if of[0]["control"] else str(sum(r["p_holm"] <= 0.05 for r in of))]
        for key, of in groups.items()
    ]  # fmt: skip
    return "Units that circuits share, mean over pairs of circuits", Table(columns, shown)


_SHOWN = {
    "model_overview": _overview,
    "model_comparison": _traces,
    "causal_equivalence": _equivalence,
    "universality": _universality,
}


def _interval(row: Row, name: str, form: str, prefix: str | None = None) -> str:
    before = f"{name}_" if prefix is None else prefix
    return with_interval(row[name], row[f"{before}low"], row[f"{before}high"], form, form)


def _mean(rows: Sequence[Row], name: str) -> str:
    return f"{sum(row[name] for row in rows) / len(rows):.2f}"
