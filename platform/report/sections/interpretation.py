"""An interp run's folder -> `Interpretation`: maps by layer and channel, and the effect of ablations by layer.

Reads run.json and, of the step results beside it, those that can be shown: `delta_sensitivity`, `attribution` and
`bottlenecks`. A step that was run and is not there is listed in `missing`; numbers are the steps' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..content import Fact, Interpretation, LayerMap, LayerTable
from ..documents import Document, flat, read_rows
from ..text import signed

Row = Mapping[str, Any]
_ABLATIONS = ("kind", "layer", "site", "group", "draw", "n_channels", "effect_logprob", "effect_low", "effect_high",
              "accuracy_change", "accuracy_low", "accuracy_high", "n_prompts")  # fmt: skip
_TESTS = ("difference", "difference_low", "difference_high", "p_holm", "verdict")  # not in older runs
_SHOWN_COLUMNS = ("layer", "site", "ablated", "channels", "log-probability, nats", "random channels", "difference",
                  "p", "verdict", "accuracy", "random channels", "prompts")  # fmt: skip
_FAMILY = ("layer", "site", "n_channels")


def read_interpretation(folder: Path, run: Document) -> Interpretation:
    """The interp run in `folder`, whose run.json is `run`."""
    model = Path(run.at("model").at("name").text()).name
    remedy = "make it again with `mplat interp`"
    steps = {
        name: folder / result.at("file").text()
        for name, result in run.at("details").at("steps").entries()
        if "file" in result
    }
    missing = [f"{name}: {path} is not there; {remedy}" for name, path in steps.items() if not path.is_file()]
    there = {name: path for name, path in steps.items() if path.is_file()}
    maps: list[LayerMap] = []
    tables: list[LayerTable] = []
    if path := there.get("delta_sensitivity"):
        maps += sensitivity_maps(read_rows(path, ("layer", "site", "channel", "variance"), remedy))
    if path := there.get("attribution"):
        maps += attribution_maps(read_rows(path, ("layer", "site", "channel", "attribution"), remedy))
    if path := there.get("bottlenecks"):
        tables.append(ablation_table(read_rows(path, _ABLATIONS, remedy, optional=_TESTS)))
    return Interpretation(
        folder=str(folder),
        model=model,
        maps=tuple(maps),
        tables=tuple(tables),
        provenance=tuple(Fact(name, value) for name, value in flat(run.value)),
        missing=tuple(missing),
    )


def sensitivity_maps(rows: Sequence[Row]) -> list[LayerMap]:
    """Variance over tokens, one map per site."""
    return [
        LayerMap(
            title=f"Variance of {_site(site)}",
            label="variance",
            scale="log",
            note="How much the channel varies over the tokens of the prompts. A channel that varies chooses; it need "
            "not matter. Channels without any variance are blank.",
            layers=_layers(rows, site),
            values=_grid(rows, site, "variance"),
        )
        for site in _sites(rows)
    ]


def attribution_maps(rows: Sequence[Row]) -> list[LayerMap]:
    """Gradient times activation of the answer, one map per site."""
    return [
        LayerMap(
            title=f"Attribution of {_site(site)}",
            label="nats",
            scale="signed",
            note="First-order contribution of the channel to the log-probability of the right answer.",
            layers=_layers(rows, site),
            values=_grid(rows, site, "attribution"),
        )
        for site in _sites(rows)
    ]


def ablation_table(rows: Sequence[Row]) -> LayerTable:
    """Effects of mean-ablating groups of channels, each beside its random controls."""
    groups = [row for row in rows if row["kind"] == "group"]
    names = {"all": "all channels", "top": "most attributed"}
    shown = []
    for row in groups:
        if row["draw"] is not None:
            continue
        family = tuple(row[key] for key in _FAMILY)
        draws = [r for r in groups if r["draw"] is not None and tuple(r[key] for key in _FAMILY) == family]
        shown.append((
            row["layer"],
            row["site"],
            names.get(row["group"], row["group"]),
            row["n_channels"],
            _effect(row, "effect_logprob", "effect_low", "effect_high"),
            _draws(draws, "effect_logprob") if row["group"] != "all" else "",
            _effect(row, "difference", "difference_low", "difference_high") if row["group"] != "all" else "",
            None if row["p_holm"] is None else float(f"{row['p_holm']:.2g}"),
            row["verdict"] or "",
            _effect(row, "accuracy_change", "accuracy_low", "accuracy_high"),
            _draws(draws, "accuracy_change") if row["group"] != "all" else "",
            row["n_prompts"],
        ))  # fmt: skip
    return LayerTable(
        title="Bottlenecks: what taking channels away costs",
        note="Channels are replaced by their means at every token. The channels were chosen on the same prompts, so an "
        "effect says where to look and is no evidence for steering. Beside each effect: that of as many random "
        "channels, one number for each draw, and the difference from their mean, for which each half of the prompts "
        "has the channels chosen on the other. Only where the verdict is a stronger effect are the channels more than "
        "random ones; p is corrected for all rows.",
        columns=_SHOWN_COLUMNS,
        rows=tuple(shown),
    )


def _effect(row: Row, mean: str, low: str, high: str) -> str | None:
    if row[mean] is None:
        return None
    if row[low] is None or row[high] is None:
        return signed(row[mean])
    return f"{signed(row[mean])} ({signed(row[low])} to {signed(row[high])})"


def _draws(rows: Sequence[Row], column: str) -> str:
    values = [row[column] for row in sorted(rows, key=lambda row: row["draw"])]
    return ", ".join("not measured" if value is None else signed(value) for value in values)


def _sites(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["site"] for row in rows))


def _site(site: str) -> str:
    return {"mixer.delta": "the step size Delta", "mixer_out": "the mixer's output"}.get(site, site)


def _layers(rows: Sequence[Row], site: str) -> tuple[int, ...]:
    return tuple(sorted({row["layer"] for row in rows if row["site"] == site}))


def _grid(rows: Sequence[Row], site: str, column: str) -> tuple[tuple[float | None, ...], ...]:
    """Layers in ascending order, each with its channels in ascending order; a channel without a row is None."""
    known = {(row["layer"], row["channel"]): row[column] for row in rows if row["site"] == site}
    width = 1 + max(channel for _, channel in known)
    return tuple(tuple(known.get((layer, channel)) for channel in range(width)) for layer in _layers(rows, site))
