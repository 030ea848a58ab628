"""`mplat eval planted`: does a search mend models with a known damage, and is it silent where there is none?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.plain_text import Table
from .frame.command import command
from .frame.folders import writable
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..eval.planted import Benchmark
    from ..eval.planted.planted_config import PlantedConfig


@command(
    "eval planted",
    order=45,
    config="eval.planted.planted_config.PlantedConfig",
    without=("--actors", "--address", "--fresh"),
)
def eval_planted(typed: Typed[PlantedConfig]) -> Run:
    """Judge a search on models with a planted damage, with controls, detectors and false alarms."""
    from ..core.whole_files import replace_table
    from ..eval.planted import benchmark, discovered, left_alone

    config = typed.config
    search = discovered if config.search == "discover" else left_alone
    cases = len(config.plants) * config.seeds
    took = "; each takes one to two minutes of a processor" if config.search == "discover" else ""
    out = typed.shared.out

    def work(at: At) -> Outcome:
        result = benchmark(
            {config.search: search},
            plants=config.plants,
            seeds=range(config.seeds),
            per_level=config.per_level,
            per_level_test=config.per_level_test,
            controls=config.controls,
            draws=config.draws,
            alpha=config.alpha,
        )
        if out is not None:
            for name, table in result.tables().items():
                replace_table(table, out / f"{name}.parquet")
        return Outcome(
            {"out": None if out is None else str(out)} | _values(result, config.search), _words(result, config.search)
        )

    return Run(
        work,
        folder=None,
        operations=None,
        lines=(f"searches: {cases} (plants: {len(config.plants)}, seeds: {config.seeds}){took}",),
        plan={"cases": cases, "config": config.model_dump(mode="json")},
        prepare=writable,
    )


def _values(result: Benchmark, search: str) -> dict[str, Any]:
    alarms, intact = result.false_alarms(search)
    return {
        "summary": [vars(line) for line in result.summary()],
        "detectors": result.tables()["detectors"].to_pylist(),
        "false_alarms": alarms,
        "intact": intact,
    }


def _words(result: Benchmark, search: str) -> list[str | Table]:
    """A line for each plant, one for each detector on each plant, and the false alarms."""
    shown = ["plant", "kind", "seeds", "supported", "damaged", "restored", "worst", "best control", "p"]
    plants = [
        [line.plant, line.kind, line.seeds, line.supported, line.damaged_share, line.restored, line.worst,
         line.control, line.p]
        for line in result.summary()
    ]  # fmt: skip
    detectors = [[d.plant, d.detector, d.precision, d.recall, d.lift, d.verdict] for d in result.detections]
    alarms, intact = result.false_alarms(search)
    return [
        Table(shown, plants),
        "",
        Table(["plant", "detector", "precision", "recall", "lift", "verdict"], detectors),
        f"\nfalse alarms: {alarms} of {intact} searches where nothing was damaged",
    ]
