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
from ...core.whole_files import publish_bytes, publish_json, replace_table, write_errors
from ...models.decoding import ends
from ...runtime.session import Session
from .questions import prompt_table
from .run import Plan, StepResult
from .tensor_parts import SUFFIX

PROMPTS = "prompts.parquet"


def check_folder(folder: Path, plan: Plan, *, fresh: bool = False) -> None:
    """Raises UsageError where `folder` holds a run of another command or, without `fresh`, one of another plan."""
    earlier = earlier_run(folder, "interp", fresh=fresh)
    if earlier is not None and not fresh:
        refuse_other_settings(folder, "interp", _differences(plan, earlier))


def write_run(
    folder: Path, plan: Plan, results: Mapping[str, StepResult], session: Session, *, fresh: bool = False
) -> list[Path]:
    """Write `<step>.parquet` (or `<step>-<part>.parquet`) for the wanted steps, their tensors as `.safetensors`, and
    `run.json`; the paths of tables and tensors.

    Raises as `check_folder` does. fresh: what an earlier run of other settings has written is deleted first.
    """
    check_folder(folder, plan, fresh=fresh)
    if fresh:
        _clear(folder)
    replace_table(prompt_table(plan.data), folder / PROMPTS)
    files: dict[str, dict[str, Path]] = {}
    tensors: dict[str, dict[str, Path]] = {}
    for name in plan.wanted:
        stems = {part: f"{name}-{part}" if part else name for part in (*results[name].tables, *results[name].tensors)}
        files[name] = {part: folder / f"{stems[part]}.parquet" for part in results[name].tables}
        tensors[name] = {part: folder / f"{stems[part]}{SUFFIX}" for part in results[name].tensors}
        for part, path in files[name].items():
            replace_table(results[name].tables[part], path)
        for part, path in tensors[name].items():
            publish_bytes(results[name].tensors[part].path.read_bytes(), path)
    publish_json(_record(plan, results, session, files, tensors), folder / RUN_RECORD)
    return [path for of_steps in (files, tensors) for parts in of_steps.values() for path in parts.values()]


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
        names += list(step.get("tensors", {}).values())
    with write_errors(folder):
        for name in names:
            if Path(name).name == name and name.endswith((".parquet", SUFFIX)):  # never outside of the folder
                (folder / name).unlink(missing_ok=True)
        for name in (PROMPTS, RUN_RECORD):
            (folder / name).unlink(missing_ok=True)


def _record(
    plan: Plan,
    results: Mapping[str, StepResult],
    session: Session,
    files: Mapping[str, Mapping[str, Path]],
    tensors: Mapping[str, Mapping[str, Path]],
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
            name: {"key": r.key, "rows": r.rows, "not_ok": r.bad, **_kept(files.get(name, {}), tensors.get(name, {}))}
            for name, r in results.items()
        },
        "session": session.describe(),
    }


def _kept(files: Mapping[str, Path], tensors: Mapping[str, Path]) -> dict[str, Any]:
    """Under `file` a step's only table, under `parts` several, under `tensors` what holds its tensors; nothing for a
    step that was not asked for."""
    kept: dict[str, Any] = {"tensors": {part: path.name for part, path in tensors.items()}} if tensors else {}
    if set(files) == {""}:
        return {"file": files[""].name} | kept
    return ({"parts": {part: path.name for part, path in files.items()}} if files else {}) | kept
