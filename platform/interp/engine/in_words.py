"""A run of analyses in words: the plan before it, what was found after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.plain_text import Table, byte_size, duration, short_duration
from .statuses import sentence

if TYPE_CHECKING:
    from .costs import Estimate
    from .failures import Carried
    from .run import Plan, StepResult


def plan_values(plan: Plan, missing: Collection[str], cache: Path, estimate: Estimate | None = None) -> dict[str, Any]:
    """What would be computed on what, as plain JSON; missing: steps that the cache lacks; estimate: what these cost."""
    costs = {} if estimate is None else estimate.steps
    return {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "questions": len(plan.data.items),
        "layers": list(plan.layers),
        "cache": str(cache),
        "steps": [
            {"step": name, "key": planned.key.digest, "cached": name not in missing}
            | ({"seconds": costs[name].seconds, "bytes": costs[name].bytes} if name in costs else {})
            for name, planned in plan.steps.items()
        ],
        "config": plan.config.model_dump(mode="json"),
    }


def plan_words(
    plan: Plan, missing: Collection[str], cache: Path, estimate: Estimate | None = None
) -> list[str | Table]:
    """The same in words."""
    batches = len(plan.data.plan(plan.config.batch_size))
    costs = {} if estimate is None else estimate.steps

    def cost(name: str) -> list[str | None]:
        if estimate is None:
            return []
        known = costs.get(name)
        return [None, None] if known is None else [short_duration(known.seconds), byte_size(known.bytes)]

    rows = [
        [name, "missing" if name in missing else "cached", planned.key.digest[:12], name in plan.wanted, *cost(name)]
        for name, planned in plan.steps.items()
    ]
    words: list[str | Table] = [
        f"model: {plan.model.name}, layers {', '.join(map(str, plan.layers))}",
        f"prompts: {len(plan.data.items)} in {batches} batches, {sum(plan.data.lengths):,} tokens",
        f"cache: {cache}",
        Table(["step", "state", "key", "asked for", *(["about", "writes"] if estimate is not None else [])], rows),
    ]
    if estimate is not None:
        words.append(f"what is missing writes about {byte_size(sum(cost.bytes for cost in costs.values()))}")
    return words


def result_values(plan: Plan, done: Carried, cache: Path, again: Callable[[str], str] | None = None) -> dict[str, Any]:
    """What was found and where it is cached, and what failed, as plain JSON; again: the command that runs a step."""
    values = {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "questions": len(plan.data.items),
        "left_out": {e.id: e.status for e in plan.data.excluded},
        "layers": list(plan.layers),
        "cache": str(cache),
        "steps": [
            {
                "step": name,
                "key": result.key,
                "cached": result.seconds is None,
                "rows": result.rows,
                "not_ok": result.bad,
                "folder": str(cache / name / result.key),
            }
            for name, result in done.results.items()
        ],
        "failures": [f.values(None if again is None else again(name)) for name, f in done.failures.items()],
    }
    if certificate := _certificate(plan, done.results):
        values["checks"] = certificate
    return values


def result_words(plan: Plan, done: Carried, again: Callable[[str], str] | None = None) -> list[str | Table]:
    """What was found in words, with blank lines between."""
    results = done.results
    rows: list[list[object]] = [
        [
            name,
            result.rows,
            sum(result.bad.values()),
            "cached" if result.seconds is None else duration(result.seconds),
            result.key[:12],
        ]
        for name, result in results.items()
    ]
    rows += [[name, None, None, failure.status, failure.key[:12]] for name, failure in done.failures.items()]
    words: list[str | Table] = [
        f"{len(plan.data.items)} prompts, model {plan.model.name} (digest {plan.model.digest[:12]})\n",
        Table(["step", "rows", "not ok", "time", "key"], rows),
    ]
    if sentences := [text for result in results.values() if (text := sentence(result)) is not None]:
        words += ["", *sentences]
    if certificate := _certificate(plan, results):
        words += ["\nparity certificate, differences in units of the largest value compared:"]
        shown = ("check", "status", "difference", "bound", "reason")
        words += [Table(shown, [[row[name] for name in shown] for row in certificate])]
    if "bottlenecks" in results and "bottlenecks" in plan.wanted:
        words += ["\nmean ablation, change of the right answer's log-probability (nats) and accuracy:"]
        words += [_bottlenecks(results["bottlenecks"])]
    for name, failure in done.failures.items():
        words += [f"\n{failure}", *([] if again is None else [f"run it again with: {again(name)}"])]
    return words


def _certificate(plan: Plan, results: Mapping[str, StepResult]) -> list[dict[str, Any]]:
    """The checks of the step `setup`, where it was asked for."""
    if "setup" not in plan.wanted or "setup" not in results:
        return []
    return results["setup"].tables["checks"].to_pylist()


def _bottlenecks(result: StepResult) -> Table:
    """Every ablation beside the mean of its random controls, with the test against them."""
    rows = [row for row in result.tables[""].to_pylist() if row["kind"] == "group"]
    shown = []
    for row in rows:
        if row["control"]:
            continue
        family = ("layer", "site", "n_channels")
        controls = [
            r["effect_logprob"]
            for r in rows
            if r["control"] and all(r[key] == row[key] for key in family) and r["effect_logprob"] is not None
        ]
        random = sum(controls) / len(controls) if controls else None
        shown.append(
            [row["layer"], row["site"], row["group"], row["n_channels"], row["effect_logprob"], row["effect_low"],
             row["effect_high"], random, row["difference"], row["p_holm"], row["verdict"] or "", row["accuracy_change"],
             row["status"]]
        )  # fmt: skip
    columns = ["layer", "site", "ablated", "channels", "log p", "low", "high", "random", "difference", "p", "verdict",
               "accuracy", "status"]  # fmt: skip
    return Table(columns, shown)
