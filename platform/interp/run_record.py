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
    files: dict[str, dict[str, Path]] = {}
    for name in plan.wanted:
        files[name] = {}
        for part, table in results[name].tables.items():
            path = folder / (f"{name}-{part}.parquet" if part else f"{name}.parquet")
            replace_table(table, path)
            files[name][part] = path
    publish_json(_record(plan, results, session, files), folder / "run.json")
    return [path for parts in files.values() for path in parts.values()]


def _record(
    plan: Plan, results: Mapping[str, StepResult], session: Session, files: Mapping[str, Mapping[str, Path]]
) -> dict[str, Any]:
    """Resolved configuration, versions, digests, seeds, backend; only `session` depends on where the run was made."""
    first = next(iter(plan.steps.values())).key.components
    return {
        "command": "interp",
        "config": plan.config.model_dump(mode="json"),
        "model": {
            "name": plan.model.name,
            "digest": plan.model.digest,
            "arch": plan.model.config.arch,
            "parameters": plan.model.n_parameters,
        },
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
        "steps": {name: {"key": r.key, "rows": r.rows, **_kept(files.get(name, {}))} for name, r in results.items()},
        "session": session.describe(),
    }


def _kept(files: Mapping[str, Path]) -> dict[str, Any]:
    """Under `file` a step's only table, under `parts` several; nothing for a step that was not asked for."""
    if "" in files:
        return {"file": files[""].name}
    return {"parts": {part: path.name for part, path in files.items()}} if files else {}
