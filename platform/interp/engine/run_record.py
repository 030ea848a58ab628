"""What a run leaves in its folder: `run.json`, `prompts.parquet` with what was read, and a copy of every table that was
asked for.

The folder holds one run: another one, of this or of another command, is never written over unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.config import differing_keys
from ...core.folders import RUN_RECORD, earlier_run, refuse_other_settings
from ...core.whole_files import publish_json, replace_table, write_errors
from ...models.decoding import ends
from ...runtime.session import Session
from .questions import prompt_table
from .run import Plan, StepResult

PROMPTS = "prompts.parquet"


def check_folder(folder: Path, plan: Plan, *, fresh: bool = False) -> None:
    """Raises UsageError where `folder` holds a run of another command or, without `fresh`, one of another plan."""
    earlier = earlier_run(folder, "interp", fresh=fresh)
    if earlier is not None and not fresh:
        refuse_other_settings(folder, "interp", _differences(plan, earlier))


def write_run(
    folder: Path, plan: Plan, results: Mapping[str, StepResult], session: Session, *, fresh: bool = False
) -> list[Path]:
    """Write `<step>.parquet` (or `<step>-<part>.parquet`) for the wanted steps and `run.json`; the tables' paths.

    Raises as `check_folder` does. fresh: what an earlier run of other settings has written is deleted first.
    """
    check_folder(folder, plan, fresh=fresh)
    if fresh:
        _clear(folder)
    replace_table(prompt_table(plan.data), folder / PROMPTS)
    files: dict[str, dict[str, Path]] = {}
    for name in plan.wanted:
        files[name] = {}
        for part, table in results[name].tables.items():
            path = folder / (f"{name}-{part}.parquet" if part else f"{name}.parquet")
            replace_table(table, path)
            files[name][part] = path
    publish_json(_record(plan, results, session, files), folder / RUN_RECORD)
    return [path for parts in files.values() for path in parts.values()]


def _differences(plan: Plan, earlier: Mapping[str, Any]) -> list[str]:
    """In what the run of a run.json differs from `plan`; model and questions are compared by what they hold."""
    found = differing_keys(plan.config, earlier["config"], ignored={"model", "questions"})
    for name, digest in (("model", plan.model.digest), ("questions", plan.data.digest)):
        there = earlier.get(name)
        if not isinstance(there, dict) or there.get("digest") != digest:
            found.append(f"the {name}")
    return found


def _clear(folder: Path) -> None:
    """Delete the tables that an earlier run's record names, and the record."""
    earlier = earlier_run(folder, "interp", fresh=True)
    steps = earlier.get("steps") if earlier is not None else None
    names: list[str] = []
    for step in steps.values() if isinstance(steps, dict) else ():
        names += [step["file"]] if "file" in step else list(step.get("parts", {}).values())
    with write_errors(folder):
        for name in names:
            if Path(name).name == name and name.endswith(".parquet"):  # never outside of the folder
                (folder / name).unlink(missing_ok=True)
        for name in (PROMPTS, RUN_RECORD):
            (folder / name).unlink(missing_ok=True)


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
        "end_tokens": ends.record(plan.model),
        "layers": list(plan.layers),
        "seed": plan.config.seed,
        "questions": {
            "used": len(plan.data.items),
            "left_out": [{"id": e.id, "status": e.status, "reason": e.reason} for e in plan.data.excluded],
            "digest": plan.data.digest,
            "digests": list(plan.data.questions),
        },
        "dtype": first["dtype"],
        "backend": first["backend"],
        "versions": first["versions"],
        "steps": {
            name: {"key": r.key, "rows": r.rows, "not_ok": r.bad, **_kept(files.get(name, {}))}
            for name, r in results.items()
        },
        "session": session.describe(),
    }


def _kept(files: Mapping[str, Path]) -> dict[str, Any]:
    """Under `file` a step's only table, under `parts` several; nothing for a step that was not asked for."""
    if "" in files:
        return {"file": files[""].name}
    return {"parts": {part: path.name for part, path in files.items()}} if files else {}
