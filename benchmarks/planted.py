"""Which plants the search of `mplat.steering.search` mends, and how often it is wrong where nothing is damaged.

Usage: python benchmarks/planted.py [--plants NAME ...] [--seeds 1] [--first-seed 0] [--per-level 40]
       [--per-level-test 40] [--draws 3] [--sites SITE ...] [--budget TOKENS]
       python benchmarks/planted.py --table

Each plant is searched with the development questions of every seed and judged on other questions, with controls
(`mplat.eval.planted`). A case takes two to six minutes of a processor that is shared, half of that with a budget
of 2500000, nearly all of it the search. Without --plants: those whose damage is a factor on channels of a site that
searches look at, and the two carriers. Writes every case as soon as it is known to
results/planted.json, beside those of other plants and seeds; asking again for a case measures it again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mplat.datasets.records import Question
from mplat.eval.planted import PLANTS, Case, score
from mplat.eval.planted.catalogue import is_searched
from mplat.models import LanguageModel
from mplat.scoring.statistics import holm
from mplat.steering import Recipe
from mplat.steering.search import discover, plan_search

RESULTS = Path(__file__).resolve().parent / "results"


def row(case: Case, cpu_s: float) -> dict[str, Any]:
    """What is kept of a case."""
    return {
        "plant": case.plant, "kind": case.kind, "seed": case.seed, "questions": case.n, "clean": case.clean,
        "damaged": case.damaged, "steered": case.steered, "restored": case.restored, "p": case.gain.p,
        "supported": case.supported, "controls": {name: case.restored_by(name) for name in case.controls},
        "without": dict(case.without), "sites": list(case.sites), "changed": case.found, "hits": case.hits,
        "planted": case.planted, "cpu_s": round(cpu_s),
    }  # fmt: skip


def searched(
    model: LanguageModel, questions: Sequence[Question], *, sites: Sequence[str] | None, budget: int | None
) -> Recipe:
    """The largest search that `budget` forward tokens hold, at `sites` of every layer that has them."""
    return discover(model, plan_search(model, questions, seed=0, sites=sites, budget=budget)).recipe


def place(case: dict[str, Any]) -> tuple[str, int, int]:
    """Which case it is, and where it stands."""
    return case["plant"], case["budget"] or 0, case["seed"]


def table(cases: Sequence[dict[str, Any]]) -> list[str]:
    """The results as a table of a page: a line for each plant and places looked at, means over seeds, the worst seed,
    the best control and the largest p-value after Holm over all cases of damaged models."""
    damaged = [case for case in cases if case["restored"] is not None]
    corrected = dict(zip((id(case) for case in damaged), holm([case["p"] for case in damaged]), strict=True))
    heads = ["plant", "looked at", "seeds", "clean", "damaged", "steered", "restored", "worst", "best control"]
    heads += ["p, Holm", "supported"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in cases:
        sites = case["looked_at"] if isinstance(case["looked_at"], str) else ", ".join(case["looked_at"])
        sites += f"; {case['budget'] / 1e6:g}M tokens" if case["budget"] else ""
        groups.setdefault((case["plant"], sites), []).append(case)
    for (plant, sites), of in groups.items():
        mean = {key: fmean(case[key] for case in of) for key in ("clean", "damaged", "steered")}
        restored = [case["restored"] for case in of if case["restored"] is not None]
        by_control = [
            fmean(known) for name in {name for case in of for name in case["controls"]}
            if (known := [v for case in of if (v := case["controls"].get(name)) is not None])
        ]  # fmt: skip
        p_values = [p for case in of if (p := corrected.get(id(case))) is not None]
        cells = [
            f"`{plant}`", sites, str(len(of)), *(f"{mean[key]:.3f}" for key in mean),
            f"{fmean(restored):.2f}" if restored else "-", f"{min(restored):.2f}" if restored else "-",
            f"{max(by_control):.2f}" if by_control and restored else "-",
            f"{max(p_values):.2g}" if p_values else "-", f"{sum(case['supported'] for case in of)} of {len(of)}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    usual = [name for name, plant in PLANTS.items() if is_searched(plant)]
    parser.add_argument("--plants", nargs="+", default=usual, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--per-level", type=int, default=40)
    parser.add_argument("--per-level-test", type=int, default=40)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sites", nargs="+", metavar="SITE", help="default: those that the model's variant scales")
    parser.add_argument("--budget", type=int, help="forward tokens of a search; default: the largest search")
    parser.add_argument("--table", action="store_true", help="show what was measured, and measure nothing")
    options = parser.parse_args()
    path = RESULTS / "planted.json"
    known = json.loads(path.read_text())["cases"] if path.exists() else []
    if options.table:
        print("\n".join(table(known)))
        return
    for name in options.plants:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            started = time.process_time()
            search = partial(searched, sites=options.sites, budget=options.budget)
            (case,) = score(
                search, plants=[name], seeds=[seed], per_level=options.per_level,
                per_level_test=options.per_level_test, draws=options.draws,
            )  # fmt: skip
            measured = row(case, time.process_time() - started)
            measured |= {"looked_at": options.sites or "all of the variant", "budget": options.budget}
            known = [other for other in known if place(other) != place(measured)] + [measured]
            known.sort(key=place)
            path.write_text(json.dumps({"python": platform.python_version(), "cases": known}, indent=1) + "\n")
            restored = "-" if case.restored is None else f"{case.restored:.2f}"
            print(
                f"{name} seed {seed}: restored {restored}, supported {case.supported}, {measured['cpu_s']} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
