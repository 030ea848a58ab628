"""What a run leaves in its folder: `run.json`, and a copy of every table that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.session import Session
from ..runtime.storage import publish_json, replace_table
from .run import Plan, StepResult


def write_run(folder: Path, plan: Plan, results: Mapping[str, StepResult], session: Session) -> list[Path]:
    """Write `<step>.parquet` (or `<step>-<part>.parquet`) for the wanted steps and `run.json`; the tables' paths."""
    files: dict[str, Path] = {}
    for name in plan.wanted:
        for part, table in results[name].tables.items():
            path = folder / (f"{name}-{part}.parquet" if part else f"{name}.parquet")
            replace_table(table, path)
            files[path.name] = path
    publish_json(_record(plan, results, session) | {"tables": sorted(files)}, folder / "run.json")
    return [files[name] for name in sorted(files)]


def _record(plan: Plan, results: Mapping[str, StepResult], session: Session) -> dict[str, Any]:
    """Resolved configuration, versions, digests, seeds and backend; nothing in it depends on where the run was made
    but `session`."""
    first = next(iter(plan.steps.values())).key.components
    return {
        "command": "interp",
        "config": plan.config.model_dump(mode="json"),
        "model": {"name": plan.model.name, "digest": plan.model.digest, "parameters": plan.model.n_parameters},
        "layers": list(plan.layers),
        "seed": plan.config.seed,
        "questions": {
            "used": len(plan.data.items),
            "left_out": [{"id": e.id, "status": e.status, "reason": e.reason} for e in plan.data.excluded],
            "digest": plan.data.digest,
        },
        "dtype": first["dtype"],
        "backend": first["backend"],
        "versions": first["versions"],
        "steps": {name: {"key": r.key, "rows": r.rows} for name, r in results.items()},
        "session": session.describe(),
    }
