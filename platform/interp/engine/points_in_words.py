"""What a run at several points would do, and what it found: as plain values for --json and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.plain_text import Table, byte_size, duration, short_duration
from ...models.probe import Cost
from .points_run import Again, Done, Outline


def plan_values(outlines: Sequence[Outline], cache: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What would be computed at every point. config: what they share."""
    return {
        "cache": str(cache),
        "points": [
            {
                "point": dict(one.point.values),
                "model": None if one.record.model is None else one.record.model.name,
                "counts": {} if one.record.data is None else one.record.data.counts,
                "left_out": {} if one.record.data is None else one.record.data.left_out,
                "steps": [
                    {"step": name, "key": key, "cached": name not in one.missing} | _cost_values(one, name)
                    for name, key in one.keys.items()
                ],
            }
            for one in outlines
        ],
        "config": dict(config),
    }


def _cost_values(one: Outline, name: str) -> dict[str, float]:
    cost = None if one.costs is None else one.costs.steps.get(name)
    return {} if cost is None else {"seconds": cost.seconds, "bytes": cost.bytes}


def plan_words(outlines: Sequence[Outline], cache: Path) -> list[str | Table]:
    """The same in words."""
    columns = list(outlines[0].point.values)
    costed = outlines[0].costs is not None
    rows: list[list[object]] = []
    for one in outlines:
        for name, key in one.keys.items():
            row = [*one.point.values.values(), name, "missing" if name in one.missing else "cached", key[:12]]
            cost = None if one.costs is None else one.costs.steps.get(name)
            known = [None, None] if cost is None else [short_duration(cost.seconds), byte_size(cost.bytes)]
            rows.append([*row, *(known if costed else [])])
    asked = [[*one.point.values.values(), _counted(one)] for one in outlines]
    return [
        f"cache: {cache}",
        Table([*columns, "prompts"], asked),
        Table([*columns, "step", "state", "key", *(["about", "writes"] if costed else [])], rows),
    ]


def _counted(one: Outline) -> str:
    if one.record.data is None:
        return ""
    counts = ", ".join(f"{n} {kind}" for kind, n in one.record.data.counts.items())
    left_out = ", ".join(f"{status} {n}" for status, n in sorted(one.record.data.left_out.items()))
    return counts + (f" (left out: {left_out})" if left_out else "")


def total(outlines: Sequence[Outline]) -> Cost:
    """What all points together cost; what each has to itself is in `plan_words`."""
    known = [one.costs for one in outlines if one.costs is not None]
    seconds = sum(each.total.seconds for each in known)
    worst = max(known, key=lambda each: each.total.seconds)
    return Cost(seconds, max(each.total.memory_bytes for each in known), f"the sum of all points; {worst.total.how}")


def result_values(done: Sequence[Done], cache: Path, again: Again) -> dict[str, Any]:
    """What was found at every point and where it is cached, and what failed."""
    return {
        "cache": str(cache),
        "points": [
            {
                "point": dict(one.point.values),
                "steps": [
                    {
                        "step": name,
                        "key": result.key,
                        "cached": result.seconds is None,
                        "rows": result.rows,
                        "not_ok": result.bad,
                        "folder": str(cache / name / result.key),
                    }
                    for name, result in one.carried.results.items()
                ],
                "left_out": {} if one.outline.record.data is None else one.outline.record.data.left_out,
                "failures": [f.values(again(one.point, name)) for name, f in one.carried.failures.items()],
            }
            for one in done
        ],
    }


def result_words(done: Sequence[Done], again: Again, out: Path | None) -> list[str | Table]:
    """The same in words. out: the folder of the tables, where they were written."""
    rows: list[list[object]] = []
    for one in done:
        values = list(one.point.values.values())
        for name, result in one.carried.results.items():
            time = "cached" if result.seconds is None else duration(result.seconds)
            rows.append([*values, name, result.rows, sum(result.bad.values()), time, result.key[:12]])
        for name, failure in one.carried.failures.items():
            rows.append([*values, name, None, None, failure.status, failure.key[:12]])
    words: list[str | Table] = [Table([*done[0].point.values, "step", "rows", "not ok", "time", "key"], rows)]
    for one in done:
        for name, failure in one.carried.failures.items():
            words += [f"\n{one.point.name}: {failure}", f"run it again with: {again(one.point, name)}"]
    return words if out is None else [*words, f"\ntables of all points: {out}"]


def warnings(outlines: Sequence[Outline]) -> list[str]:
    """What of the items is not read at which point, counted."""
    said = list(dict.fromkeys(note for one in outlines for note in one.notes))
    for one in outlines:
        if one.record.data is not None and one.record.data.left_out:
            said.append(f"{one.point.name}: {_counted(one)}")
    sets = {one.record.data.digest for one in outlines if one.record.data is not None}
    counts = [one.record.data.counts for one in outlines if one.record.data is not None]
    if len(sets) > 1 and any(count != counts[0] for count in counts):
        said.append("points read different numbers of prompts: what differs between them may be of these prompts")
    return said
