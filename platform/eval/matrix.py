"""Several evaluations in one folder: one for each steering that was named, with p-values corrected across them.

    OUT/cells/<steering>/   an evaluation each, as `runner` writes it
    OUT/matrix.json         a row for each: exact match, gain with interval, p-value, Holm across the rows, verdict
    OUT/run.json            what was asked

The evaluations share one session, and their searches are done side by side (`searches`, in OUT/work/). Each is a run
of its own, so an interrupted matrix continues where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import UsageError
from ..core.observer import Observer, WithoutParts
from ..core.plain_text import Table, with_interval
from ..runtime import Session
from ..runtime.stage import Planned, Stage
from ..scoring.statistics import holm
from .conditions import STEERED, UNSTEERED
from .eval_config import EvalConfig
from .planning import Plan
from .runner import EvalResult, evaluate
from .searches import search_all

STAGE = Stage("eval-matrix", results=("matrix.json",), work=("cells", "work/*"))
ALL = "all"
RECIPE_SUFFIX = ".json"


class Matrix(NamedTuple):
    """Plans by the name of their cell, which is that of their folder."""

    config: EvalConfig
    plans: Mapping[str, Plan]


def several(name: str | None) -> bool:
    """Whether --steering names more than one."""
    return name is not None and (name == ALL or "," in name)


def cells(config: EvalConfig) -> dict[str, EvalConfig]:
    """A configuration for each steering that is named, by the name of its cell.

    `all` is every variant whose default model ships; with --model, every one that fits it. Raises UsageError where a
    name stands twice, and for two recipes whose cells would have one folder.
    """
    wanted = config.steering.variant or ""
    names = _all(config.model) if wanted == ALL else [name.strip() for name in wanted.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise UsageError(f"--steering {wanted}: a name stands there twice")
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(_folder(name), name)) != name:
            raise UsageError(
                f"--steering {wanted}: {other} and {name} would both be written to cells/{_folder(name)}; rename one"
            )
    return {folder: one_of(config, name) for folder, name in found.items()}


def _all(model: str | None) -> list[str]:
    """The variants that `all` stands for."""
    from ..models import load
    from ..models.files import catalog
    from ..steering import find_variant, variant_names

    known = [found for name in variant_names() if (found := find_variant(name)).steers]
    if model is None:
        shipped = set(catalog.shipped())
        return [found.name for found in known if found.default_model in shipped]
    arch = load(model).config.arch
    return [found.name for found in known if found.arch in (None, arch)]


def one_of(config: EvalConfig, name: str) -> EvalConfig:
    """`config` for the steering `name`: a variant, or the file of a recipe."""
    change = {"recipe": Path(name), "variant": None} if name.endswith(RECIPE_SUFFIX) else {"variant": name}
    return config.model_copy(update={"steering": config.steering.model_copy(update=change)})


def planned(matrix: Matrix) -> Planned:
    """The run of a matrix, to look for an earlier one in a folder or to begin."""
    models = {name: plan.model.digest for name, plan in matrix.plans.items()}
    return STAGE.plan(matrix.config, seeds={"seed": matrix.config.seed}, plan={"cells": models})


def evaluate_all(
    matrix: Matrix, *, out: Path, session: Session, fresh: bool = False, observer: Observer | None = None
) -> tuple[dict[str, EvalResult], list[dict[str, Any]]]:
    """Run every cell; their results by name, and the rows of the matrix."""
    found: dict[str, EvalResult] = {}
    with planned(matrix).begin(out, session=session, observer=observer, fresh=fresh) as run:
        searched = search_all(matrix.plans, run)
        for name, plan in matrix.plans.items():
            run.observer.say(f"{name}: {plan.model.name}")
            found[name] = evaluate(
                plan, out=out / "cells" / name, session=session, fresh=fresh, observer=WithoutParts(run.observer),
                searched=searched.get(name),
            )  # fmt: skip
        rows = _rows(matrix, found)
        run.json("matrix.json", {"format": "mplat-eval-matrix-1", "cells": rows})
        run.update(counts={"cells": len(rows)})
    return found, rows


def _rows(matrix: Matrix, found: Mapping[str, EvalResult]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, result in found.items():
        em, verdict = result.summary.overall.em, result.summary.verdict
        gain = em.differences.get(f"{STEERED}-{UNSTEERED}")
        rows.append({
            "steering": name,
            "model": matrix.plans[name].model.name,
            "n": result.summary.overall.n,
            "unsteered": em.conditions[UNSTEERED].mean,
            "steered": em.conditions[STEERED].mean if STEERED in em.conditions else None,
            "gain": None if gain is None else gain.mean,
            "low": None if gain is None else gain.low,
            "high": None if gain is None else gain.high,
            "p": None if gain is None else gain.p,
            "verdict": verdict.kind,
            "sentence": verdict.sentence,
        })  # fmt: skip
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def in_words(rows: list[dict[str, Any]]) -> list[str | Table]:
    """The matrix as a table, and what each verdict says."""
    table = Table(
        ["steering", "model", "n", "unsteered", "steered", "gain", "p, corrected", "verdict"],
        [
            [row["steering"], row["model"], row["n"], row["unsteered"], row["steered"],
             with_interval(row["gain"], row["low"], row["high"], "+.3f", "+.2f"), row["p_holm"],
             row["verdict"].replace("_", " ")]
            for row in rows
        ],
    )  # fmt: skip
    return [table, "", *(f"{row['steering']}: {row['sentence']}" for row in rows)]


def _folder(name: str) -> str:
    """The folder of a cell: a recipe's by the name of its file."""
    return Path(name).stem if name.endswith(RECIPE_SUFFIX) else name.replace(":", "-")
