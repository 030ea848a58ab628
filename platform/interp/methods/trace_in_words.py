"""A trace as the command says it: the plan before it, where most of the answer comes back after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.plain_text import Table
from .trace_words import corruption_in_words, window_in_words

if TYPE_CHECKING:
    from .trace_folder import TraceResult
    from .trace_plan import TracePlan


def plan_values(plan: TracePlan) -> dict[str, Any]:
    """What will be restored where, as plain JSON."""
    return {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "prompts": len(plan.items),
        "excluded": {e.id: e.status for e in plan.excluded},
        "correct_only": plan.correct_only,
        "tokens": sum(len(item.tokens) for item in plan.items),
        "sites": list(plan.sites),
        "layers": list(plan.layers),
        "corruption": plan.kind,
        "noise": plan.noise,
        "restorations": plan.restorations,
    }


def plan_lines(plan: TracePlan) -> list[str]:
    """The same in words."""
    which = "" if not plan.many else ", those answered correctly" if plan.correct_only else ", all of them"
    return [
        f"model: {plan.model.name}, layers {', '.join(map(str, plan.layers))}",
        f"prompts: {len(plan.items)}{which}; {sum(len(item.tokens) for item in plan.items):,} tokens"
        + (f"; {len(plan.excluded)} cannot be traced" if plan.excluded else ""),
        f"corruption: {corruption_in_words(plan)}",
        f"restored: {', '.join(plan.sites)}; {window_in_words(plan)}; {plan.restorations:,} restorations at most",
    ]


def result_values(plan: TracePlan, result: TraceResult) -> dict[str, Any]:
    """What was found, as plain JSON."""
    total = None
    if result.averages is not None and result.averages.num_rows:
        first = result.averages.slice(0, 1).to_pylist()[0]
        total = {name: first[name] for name in ("ate", "ate_low", "ate_high")}
    return {
        "out": str(result.out),
        **plan_values(plan),
        "statuses": result.statuses,
        "traced": result.traced,
        "total_effect": total,
        "strongest": _strongest(plan, result),
        "files": result.files,
    }


def result_words(plan: TracePlan, result: TraceResult) -> list[str | Table]:
    """Where most of the answer comes back, in words."""
    best = _strongest(plan, result)
    lines: list[str | Table] = []
    if best:
        first = result.traces.to_pylist()[0] if not plan.many else None
        if first is not None:
            lines.append(
                f"answer {first['answer_token']!r}: p {first['p_clean']:.4g} clean, {first['p_corrupted']:.4g} "
                "corrupted; where most of it comes back:"
            )
        else:
            lines.append("average indirect effects: where most of the answer comes back")
        lines.append(Table(list(best[0]), [list(row.values()) for row in best]))
    counts = ", ".join(f"{status} {count}" for status, count in result.statuses.items())
    if plan.many:
        lines.append(f"prompts: {counts}")
    return [*lines, f"results: {result.out}"]


def failure(plan: TracePlan, result: TraceResult) -> str | None:
    """Why too little was traced: nothing at all, or too many prompts failed; None where neither."""
    where = f"their status and reason are in {result.out / 'traces.parquet'}"
    if not result.traced:
        counts = ", ".join(f"{status} {count}" for status, count in result.statuses.items())
        hint = "; --all traces them too" if "model_wrong" in result.statuses else ""
        return f"no prompt was traced ({counts}){hint}; {where}"
    if result.failed_share > plan.config.fail_over:
        return (
            f"{result.failed_share:.0%} of the prompts failed, more than the --fail-over {plan.config.fail_over:g} "
            f"allows; {where}"
        )
    return None


def _strongest(plan: TracePlan, result: TraceResult) -> list[dict[str, Any]]:
    """The place of each site that brings most back: an average's for facts, a token's for one prompt."""
    source = result.averages if plan.many else result.traces
    if source is None or not result.traced:
        return []
    rows = source.to_pylist()
    kept = ("site", "layer", *(("bin", "effect", "low", "high", "prompts") if plan.many else
            ("position", "token", "effect", "effect_std")))  # fmt: skip
    best: list[dict[str, Any]] = []
    for site in plan.sites:
        of_site = [row for row in rows if row["site"] == site]
        if of_site:
            row = max(of_site, key=lambda row: row["effect"])
            best.append({name: row[name] for name in kept})
    return best
