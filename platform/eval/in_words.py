"""An evaluation in words: the plan before it, the table per level and the verdict after it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..core.plain_text import Table, with_interval
from .detectable import detectable
from .detectable import in_words as detectable_words
from .dose_response import in_words as dose_words
from .likelihood_summary import in_words as likelihood_words
from .robustness import in_words as robust_words

if TYPE_CHECKING:
    from .planning import Plan
    from .runner import EvalResult
    from .summary import Summary


def plan_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON."""
    return {
        "model": plan.model.name,
        "variant": plan.variant.name,
        "mode": plan.mode,
        "development": len(plan.development),
        "test": len(plan.test),
        "unanswerable": len(plan.unanswerable),
        "unused": len(plan.unused),
        "refused": len(plan.refused),
        "cut": sum(prompt.cut_tokens > 0 for prompt in plan.prompts.values()),
        "evidence_lost": sum(prompt.evidence_kept is False for prompt in plan.prompts.values()),
        "search": None
        if plan.search is None
        else {"places": [place.name for place in plan.search.where], "tokens": plan.search.tokens},
        "doses": list(plan.config.doses or ()),
        "controls": {name: plan.draws_of(name) for name in plan.controls},
        "tokens": plan.tokens,
        "detectable": _detectable(plan),
    }


def _detectable(plan: Plan) -> dict[str, Any] | None:
    """The least gain that the test questions find, by the share of changed answers; None where nothing is steered."""
    if not plan.steers:
        return None
    found = detectable(plan.asked_in_test, alpha=1 - plan.config.confidence)
    return dataclasses.asdict(found) | {"gains": {f"{share:g}": gain for share, gain in found.gains.items()}}


def _arithmetic(plan: Plan) -> str:
    """The dtype of the weights and why."""
    from ..models.precision import faster_dtype

    name = str(plan.model.dtype).removeprefix("torch.")
    if plan.config.dtype != "auto":
        return name
    return f"{name} ({faster_dtype(plan.model.device, plan.model.config.d_model)[1]})"


def plan_lines(plan: Plan) -> list[str]:
    """What will be asked of what, and what is searched for."""
    counted = f"{len(plan.development)} development, {len(plan.test)} test" if plan.steers else str(len(plan.test))
    lines = [
        f"model: {plan.model.name}, variant {plan.variant.name}, {_arithmetic(plan)}",
        f"questions: {counted}"
        + (f", {len(plan.unanswerable)} without an answer" if plan.unanswerable else "")
        + (f", {len(plan.unused)} of the development side unused" if plan.unused else "")
        + (f", {len(plan.refused)} cannot be asked or scored" if plan.refused else ""),
        _steering_line(plan),
    ]
    if plan.steers:
        lines.append(f"controls: {', '.join(f'{name} x {plan.draws_of(name)}' for name in plan.controls) or 'none'}")
        lines.append(detectable_words(detectable(plan.asked_in_test, alpha=1 - plan.config.confidence)))
        lines.append(f"price: {len(plan.price_texts.texts)} texts of {plan.price_texts.source}")
    if cut := sum(prompt.cut_tokens > 0 for prompt in plan.prompts.values()):
        lost = sum(prompt.evidence_kept is False for prompt in plan.prompts.values())
        lines.append(
            f"contexts: {cut} are cut to {plan.config.max_prompt_tokens} tokens a prompt, {lost} of them lose evidence"
        )
    return lines


def _steering_line(plan: Plan) -> str:
    if not plan.steers:
        return "not steered: every question is asked of the model as it is"
    if plan.recipe is not None:
        unknown = "; it does not say on which questions it was found, some of these may be among them"
        given = plan.config.steering.recipe or plan.config.steering.edits or plan.recipe.name
        return f"recipe: {given}{unknown if plan.recipe.decided_on is None else ''}"
    if plan.rule is not None:
        return f"recipe: the published rule of {plan.rule}, by costs of ablation on development questions; no search"
    assert plan.search is not None
    by_site: dict[str, list[int]] = {}
    for place in plan.search.where:
        by_site.setdefault(place.site, []).append(place.layer)
    where = "; ".join(f"{site} in layers {', '.join(map(str, layers))}" for site, layers in by_site.items())
    return f"search: gains of the channels of {where}; at most {plan.search.tokens:,} tokens"


def result_words(result: EvalResult) -> list[str | Table]:
    """The table per level, with data sets where there are several, and the verdict."""
    summary = result.summary
    families = list(summary.overall.em.conditions)
    compared = [name for name in summary.overall.em.differences if name.startswith("steered-")]
    at = [dataclasses.replace(group, name=f"distance {group.name}") for group in summary.distances]
    at += [dataclasses.replace(group, name=f"prompt {group.name}") for group in summary.cuts]
    at += [dataclasses.replace(group, name=f"evidence {group.name}") for group in summary.evidence]
    groups = [*summary.levels, *(summary.datasets if len(summary.datasets) > 1 else []), *at, summary.overall]
    rows = []
    for group in groups:
        row: list[object] = [group.level, group.name, group.n]
        row += [_cell(group.em.conditions[family]) for family in families]
        row += [_cell(group.em.differences[name], signed=True) for name in compared]
        differences = [group.em.differences[name] for name in compared]
        rows.append([*row, *(d.p if d.p_holm is None else d.p_holm for d in differences)])
    names = [family.removeprefix("control_") for family in families]
    columns = ["level", "group", "n", *names, *(c.replace("control_", "").replace("-", " - ") for c in compared)]
    columns += [f"p({c.split('-')[1].removeprefix('control_')})" for c in compared]
    bad = summary.bad_test_rows
    lines: list[str | Table] = [
        f"exact match on {'test' if compared else 'all'} questions, {summary.method['confidence']:.0%} intervals"
        + ("; p corrected across levels" if compared else ""),
        Table(columns, rows),
        "",
        *_guess_lines(summary, families),
        *likelihood_words(summary.likelihoods),
        *robust_words(summary.robust),
        *(dose_words(summary.dose_response, summary.method["tolerated"]) if summary.dose_response else ()),
        summary.verdict.sentence,
    ]
    if bad:
        counted = ", ".join(
            f"{family} {status} {count}"
            for family, statuses in summary.status.items()
            for status, count in statuses.items()
            if status != "ok"
        )
        lines.append(f"{bad} of {summary.test_rows} test rows have no score ({counted}).")
    return [*lines, f"results: {result.out}"]


def _guess_lines(summary: Summary, families: list[str]) -> list[str | Table]:
    """How often something was answered that the text does not say; nothing where nobody was asked such a question."""
    if not summary.guesses:
        return []
    names = [family.removeprefix("control_") for family in families]
    rows: list[list[object]] = []
    for guesses in summary.guesses:
        named = [_cell(guesses.named.conditions[family]) for family in families]
        rows.append([guesses.kind, guesses.n, *named, *(_cell(guesses.original.conditions[f]) for f in families)])
    columns = ["no answer", "n", *(f"{name} guesses" for name in names), *(f"{name} original" for name in names)]
    return [
        "answers to questions that their text does not answer: any name of the right kind, and the original's answer",
        Table(columns, rows),
        "",
    ]


def _cell(value: Any, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return with_interval(value.mean, value.low, value.high, f"{sign}.3f", f"{sign}.2f")
