"""The planted benchmark as a whole: detectors, searches, controls and false alarms, each with the counts behind it.

    result = benchmark({"mplat": discovered}, plants=PLANTS, seeds=range(20))
    result.detectors, result.cases, result.summary()

Nothing here knows the truth before a search has answered. What was measured is kept case by case; `summary` only adds
up. `tables` gives it as Arrow tables, for files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import pyarrow as pa

from ...core.errors import UsageError
from ...datasets.records import Question
from ...scoring.statistics import holm
from ...steering.recipe import Recipe
from .catalogue import find_plant, is_searched
from .detecting import Detection, detect
from .judging import Case, Search, Terms, score, scored_on
from .plant import Plant

if TYPE_CHECKING:
    from ...models import LanguageModel

DETECTORS_SCHEMA = pa.schema([
    ("plant", pa.string()), ("kind", pa.string()), ("detector", pa.string()), ("seed", pa.int32()),
    ("planted", pa.int32()), ("channels", pa.int32()), ("precision", pa.float64()), ("recall", pa.float64()),
    ("chance", pa.float64()), ("lift", pa.float64()), ("right_sign", pa.float64()), ("verdict", pa.string()),
])  # fmt: skip
CASES_SCHEMA = pa.schema([
    ("search", pa.string()), ("plant", pa.string()), ("kind", pa.string()), ("seed", pa.int32()), ("n", pa.int32()),
    ("em_clean", pa.float64()), ("em_damaged", pa.float64()), ("em_steered", pa.float64()), ("restored", pa.float64()),
    ("gain", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("p", pa.float64()),
    ("p_holm", pa.float64()), ("supported", pa.bool_()), ("sites", pa.list_(pa.string())), ("changed", pa.int32()),
    ("hits", pa.int32()), ("planted", pa.int32()), ("seconds", pa.float64()),
])  # fmt: skip
CONTROLS_SCHEMA = pa.schema([
    ("search", pa.string()), ("plant", pa.string()), ("seed", pa.int32()), ("control", pa.string()),
    ("draws", pa.int32()), ("em", pa.float64()), ("em_best", pa.float64()), ("restored", pa.float64()),
    ("reason", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A search on a plant, over seeds. searched: whether the damage is a factor on channels of a site that searches
    look at by default, so that all of it should come back. restored: mean over seeds, and the worst; control: of the
    control that restores most, its mean. p: the largest over seeds, after Holm over all cases of the search."""

    search: str
    plant: str
    kind: str
    searched: bool
    seeds: int
    supported: int
    damaged_share: float | None
    restored: float | None
    worst: float | None
    control: float | None
    p: float | None


@dataclass(frozen=True)
class Benchmark:
    """detections: by `detect`. cases: search name -> by `score`."""

    detections: Sequence[Detection]
    cases: Mapping[str, Sequence[Case]]

    def summary(self) -> list[Line]:
        """One line for each search and plant, in their order."""
        lines: list[Line] = []
        for name, cases in self.cases.items():
            corrected = holm([case.gain.p for case in cases])
            for plant in dict.fromkeys(case.plant for case in cases):
                own = [(case, p) for case, p in zip(cases, corrected, strict=True) if case.plant == plant]
                lines.append(_line(name, [case for case, _ in own], [p for _, p in own]))
        return lines

    def false_alarms(self, search: str) -> tuple[int, int]:
        """How often `search` was supported where nothing was damaged, of how many times."""
        intact = [case for case in self.cases[search] if case.kind in ("carrier", "decoy")]
        return sum(case.supported for case in intact), len(intact)

    def tables(self) -> dict[str, pa.Table]:
        """`detectors`, `cases` and `controls`, a row for everything that was measured."""
        detectors = [
            {"plant": d.plant, "kind": d.kind, "detector": d.detector, "seed": d.seed, "planted": d.planted,
             "channels": d.width, "precision": d.precision, "recall": d.recall, "chance": d.planted / d.width,
             "lift": d.lift, "right_sign": d.right_sign, "verdict": d.verdict}
            for d in self.detections
        ]  # fmt: skip
        cases, controls = [], []
        for name, of in self.cases.items():
            for case, p_holm in zip(of, holm([case.gain.p for case in of]), strict=True):
                gain = case.gain
                cases.append({
                    "search": name, "plant": case.plant, "kind": case.kind, "seed": case.seed, "n": case.n,
                    "em_clean": case.clean, "em_damaged": case.damaged, "em_steered": case.steered,
                    "restored": case.restored, "gain": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p,
                    "p_holm": p_holm, "supported": case.supported, "sites": list(case.sites), "changed": case.found,
                    "hits": case.hits, "planted": case.planted, "seconds": case.seconds,
                })  # fmt: skip
                about = {"search": name, "plant": case.plant, "seed": case.seed}
                controls += [
                    about | {"control": control, "draws": len(draws), "em": sum(draws) / len(draws),
                             "em_best": max(draws), "restored": case.restored_by(control), "reason": None}
                    for control, draws in case.controls.items()
                ]  # fmt: skip
                controls += [
                    about | {"control": control, "draws": 0, "reason": reason}
                    for control, reason in case.without.items()
                ]  # fmt: skip
        return {
            "detectors": pa.Table.from_pylist(detectors, schema=DETECTORS_SCHEMA),
            "cases": pa.Table.from_pylist(cases, schema=CASES_SCHEMA),
            "controls": pa.Table.from_pylist(controls, schema=CONTROLS_SCHEMA),
        }


def benchmark(
    searches: Mapping[str, Search],
    *,
    plants: Iterable[str | Plant],
    seeds: Iterable[int] = (0,),
    **terms: Unpack[Terms],
) -> Benchmark:
    """Every detector and every one of `searches` on every plant; arguments as of `score`.

    Decoys are for detectors alone: there is nothing to mend, and nothing that could be mended by mistake. Raises
    UsageError as `score`, and for a plant that is given twice.
    """
    chosen = [find_plant(plant) if isinstance(plant, str) else plant for plant in plants]
    names = [plant.name for plant in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"plant {twice[0]} is given twice")
    every = list(seeds)
    cases = {
        name: score(search, plants=[plant for plant in chosen if plant.kind != "decoy"], seeds=every, **terms)
        for name, search in searches.items()
    }
    per_level = scored_on(terms).per_level
    return Benchmark(detect(chosen, seed=every[0] if every else 0, per_level=per_level), cases)


def discovered(model: LanguageModel, questions: Sequence[Question]) -> Recipe:
    """The search of `mplat steer discover` with its defaults, as a search to be scored."""
    from ...steering.search import discover, plan_search

    return discover(model, plan_search(model, questions, seed=0)).recipe


def left_alone(model: LanguageModel, questions: Sequence[Question]) -> Recipe:
    """The search that never finds anything: what restoring nothing looks like in the tables."""
    return Recipe((), model.digest)


def _line(search: str, cases: Sequence[Case], p_values: Sequence[float | None]) -> Line:
    plant, first = find_plant(cases[0].plant), cases[0]
    restored = [case.restored for case in cases if case.restored is not None]
    by_control = [
        value for name in {name for case in cases for name in case.controls}
        if (value := _mean([case.restored_by(name) for case in cases])) is not None
    ]  # fmt: skip
    tested = [p for p in p_values if p is not None]
    clean, damaged = _mean([case.clean for case in cases]), _mean([case.damaged for case in cases])
    return Line(
        search, first.plant, first.kind, is_searched(plant) and plant.factor != 1, len(cases),
        sum(case.supported for case in cases), damaged / clean if clean and damaged is not None else None,
        _mean(restored), min(restored, default=None), max(by_control, default=None), max(tested, default=None),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
