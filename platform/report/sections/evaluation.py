"""An evaluation run's folder -> `Evaluation`.

Reads run.json (what was asked), summary.json (the numbers), search.parquet (the candidates of the search),
items.parquet (answers) and prompts.parquet. Only run.json must be there: what else is absent is listed in `missing`
with the command that makes it.
Numbers come from summary.json as they are; nothing is averaged here.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...eval.conditions import STEERED, UNSTEERED
from ...eval.split import TEST
from ...models.lending import label_of
from ...scoring.statistics import Difference, Estimate
from ...steering import Recipe
from ...steering.in_words import describe
from ..content import Candidate, Comparison, Condition, Evaluation, Fact, Found, LevelRow, PriceRow, Role, StatusRow
from ..documents import Document, flat, read_json, read_rows
from ..section import section
from .answers import EXAMPLE_COLUMNS, examples
from .beside_scores import beside_scores

_CANDIDATE_COLUMNS = ("fold", "rung", "site", "layer", "detector", "n_channels", "factor", "n", "logprob_gain",
                      "exact_gain")  # fmt: skip
_SHOWN_CANDIDATES = 40

_UNFINISHED = "No verdict: the run is not finished."
#: settings of `mplat eval` that have an option of their own
_OPTIONS = {"model": "--model", "steering.variant": "--steering", "questions": "--questions", "mode": "--mode",
            "per_level": "--per-level", "steering.recipe": "--recipe", "draws": "--draws", "seed": "--seed",
            "limit": "--limit", "batch_size": "--batch-size", "max_new_tokens": "--max-new-tokens"}  # fmt: skip


@section("eval")
def read_evaluation(folder: Path, run: Document) -> Evaluation:
    """The evaluation in `folder`, whose run.json is `run`."""
    command = command_of(folder, run)
    remedy = f"make it again with `{command}`"
    missing: list[str] = []

    def there(name: str, what: str) -> bool:
        if (folder / name).is_file():
            return True
        missing.append(f"{what}: {folder / name} is not there; `{command}` makes it")
        return False

    finished = there("summary.json", "accuracy, differences and price")
    summary = read_json(folder / "summary.json", remedy) if finished else None
    details, variant = run.at("details"), run.at("plan").at("variant").text()
    recipe = details.at("recipe") if "recipe" in details else None
    conditions = _conditions(summary) if summary is not None else ()
    levels = tuple(_levels(summary, conditions)) if summary is not None else ()
    candidates: tuple[Candidate, ...] = ()
    searched = summary is not None and "search" in summary and summary.at("search").value is not None
    if searched and there("search.parquet", "the candidates of the search"):
        rows = read_rows(folder / "search.parquet", _CANDIDATE_COLUMNS, remedy)
        known = [row for row in rows if row["fold"] is None] or rows
        best = sorted(known, key=lambda row: -(row["logprob_gain"] if row["logprob_gain"] is not None else -math.inf))
        candidates = tuple(_candidate(row) for row in best[:_SHOWN_CANDIDATES])
    answers = ()
    if there("items.parquet", "examples of answers"):
        rows = read_rows(folder / "items.parquet", EXAMPLE_COLUMNS, remedy)
        kept = there("prompts.parquet", "the prompts of the example answers")
        texts = read_rows(folder / "prompts.parquet", ["prompt_digest", "text"], remedy) if kept else []
        prompts = {row["prompt_digest"]: row["text"] for row in texts}
        answers = examples([row for row in rows if row["split"] == TEST], prompts)
    statuses, status_rows = _statuses(summary) if summary is not None else ((), ())
    return Evaluation(
        folder=str(folder),
        model=Path(label_of(run.at("model").at("name").text())).name,
        variant=variant,
        verdict=_UNFINISHED if summary is None else summary.at("verdict").at("sentence").text(),
        conditions=conditions,
        levels=levels,
        cuts=tuple(_cuts(summary, conditions)) if summary is not None else (),
        comparisons=tuple(_comparisons(summary, conditions)) if summary is not None else (),
        statuses=statuses,
        status_rows=status_rows,
        price=tuple(_price(summary, conditions)) if summary is not None else (),
        price_text=_price_text(summary) if summary is not None else "",
        beside=tuple(beside_scores(summary, conditions)) if summary is not None else (),
        recipe=_in_words(recipe) if recipe is not None else None,
        found=_found(summary.at("search")) if searched and summary is not None else None,
        candidates=candidates,
        answers=answers,
        provenance=tuple(Fact(name, value) for name, value in flat(run.value) if ".recipe." not in name),
        reproduce=command,
        missing=tuple(missing),
        kind="" if summary is None else summary.at("verdict").at("kind").text(),
    )


def command_of(folder: Path, run: Document) -> str:
    """The command that makes this evaluation: its settings that are not the defaults, as `--set`."""
    from ...eval.eval_config import EvalConfig

    defaults = dict(flat(EvalConfig.model_validate({}).model_dump(mode="json")))
    words = ["mplat", "eval"]
    for name, value in flat_settings(run.at("config").value):
        if name not in defaults or defaults[name] != _plain(value):
            option = _OPTIONS.get(name)
            words += [option, str(value)] if option else ["--set", f"{name}={_yaml(value)}"]
    address = run.at("backend").at("session").at("address").text()
    return shlex.join([*words, "--address", address, "--out", str(folder)])


def flat_settings(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names and values; lists stay whole, as `--set` wants them."""
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, dict):
            yield from flat_settings(inner, name)
        else:
            yield name, inner


def _plain(value: Any) -> str:
    return next(text for _, text in flat({"value": value}))


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)


def _conditions(summary: Document) -> tuple[Condition, ...]:
    draws = {name: sum(1 for _ in found.elements()) for name, found in summary.at("draws").entries()}
    found = []
    for family, _ in summary.at("overall").at("em").at("conditions").entries():
        role: Role = "unsteered" if family == UNSTEERED else "steered" if family == STEERED else "control"
        found.append(Condition(family, role, title_of(family), draws.get(family, 0)))
    order: dict[Role, int] = {"unsteered": 0, "steered": 1, "control": 2}
    return tuple(sorted(found, key=lambda c: order[c.role]))


def title_of(family: str) -> str:
    """How a family of conditions is called on the page."""
    return f"controlled ({_control(family)})" if family.startswith("control_") else family.replace("_", " ")


def _control(family: str) -> str:
    """A control by what is put in the place of the chosen channels."""
    name = family.removeprefix("control_").replace("_", " ")
    return f"{name} channels" if name in ("random", "variance matched", "high variance") else name


def _levels(summary: Document, conditions: tuple[Condition, ...]) -> Iterator[LevelRow]:
    for group in summary.at("levels").elements():
        level = group.at("level").value
        name = group.at("name").text().replace("_", " ")
        yield _row(group, f"{level} {name}" if level is not None else name, str(level or name), False, conditions)
    yield _row(summary.at("overall"), "all", "all", True, conditions)


def _cuts(summary: Document, conditions: tuple[Condition, ...]) -> Iterator[LevelRow]:
    for name, what in (("cuts", "prompt"), ("evidence", "evidence")):
        for group in summary.at(name).elements() if name in summary else ():  # older summaries do not have them
            title = f"{what} {group.at('name').text()}"
            yield _row(group, title, title, False, conditions)


def _row(group: Document, title: str, short: str, total: bool, conditions: tuple[Condition, ...]) -> LevelRow:
    return LevelRow(
        title=title,
        short=short,
        total=total,
        n=group.at("n").whole(),
        scored=group.at("scored").whole(),
        em=tuple(estimate(group.at("em").at("conditions").at(c.name)) for c in conditions),
        f1=tuple(estimate(group.at("f1").at("conditions").at(c.name)) for c in conditions),
    )


def _comparisons(summary: Document, conditions: tuple[Condition, ...]) -> Iterator[Comparison]:
    groups = [*summary.at("levels").elements(), summary.at("overall")]
    steered = next((c for c in conditions if c.role == "steered"), None)
    for other in conditions:
        if steered is not None and other is not steered:
            name = f"{steered.name}-{other.name}"
            rows = tuple(difference(group.at("em").at("differences").at(name)) for group in groups)
            yield Comparison(f"{steered.title} \u2212 {_control(other.name)}", other.name, rows)


def _statuses(summary: Document) -> tuple[tuple[str, ...], tuple[StatusRow, ...]]:
    counts = {
        family: {name: n.whole() for name, n in found.entries()} for family, found in summary.at("status").entries()
    }
    names = sorted({name for found in counts.values() for name in found}, key=lambda name: (name != "ok", name))
    order = sorted(counts, key=lambda family: (family == "candidate", family != UNSTEERED, family != STEERED, family))
    # A status that a condition does not list occurred no times in it: that is what the table of counts says.
    rows = tuple(StatusRow(_status_title(f), tuple(counts[f].get(name, 0) for name in names)) for f in order)
    return tuple(names), rows


def _status_title(family: str) -> str:
    return "candidates on development questions" if family == "candidate" else title_of(family)


def _price(summary: Document, conditions: tuple[Condition, ...]) -> Iterator[PriceRow]:
    price = summary.at("price")
    nll = price.at("nll")
    for condition in conditions:
        bits = price.at("bits_per_byte").at(condition.name) if "bits_per_byte" in price else None
        kl = price.at("kl").at("conditions").at(condition.name) if "kl" in price else None
        change = nll.at("differences").at(f"{condition.name}-{UNSTEERED}") if condition.role != "unsteered" else None
        yield PriceRow(
            condition=condition.title,
            nll=estimate(nll.at("conditions").at(condition.name)),
            change=None if change is None else difference(change),
            bits_per_byte=None if bits is None else estimate(bits),
            kl=None if kl is None else estimate(kl),
        )


def _price_text(summary: Document) -> str:
    price = summary.at("price")
    return price.at("source").text() if "source" in price else ""


def estimate(value: Document) -> Estimate:
    """A mean with its interval as summary.json has it."""
    return Estimate(
        value.at("n").whole(), value.at("mean").number(), value.at("low").number(), value.at("high").number()
    )


def difference(value: Document) -> Difference:
    """A paired difference as summary.json has it; earlier ones do not say of how many groups, and no effect size."""
    groups, effect = (value.at(key).number() if key in value else None for key in ("n_groups", "effect"))
    return Difference(
        *estimate(value), p=value.at("p").number(), p_holm=value.at("p_holm").number(),
        n_groups=None if groups is None else int(groups), effect=effect,
    )  # fmt: skip


def _in_words(value: Document) -> tuple[str, ...]:
    return tuple(describe(Recipe.from_dict(value.value, source=f"{value.path}: recipe")))


def _found(value: Document) -> Found:
    naive, cross = value.at("naive"), value.at("cross_fitted")
    return Found(
        None if naive.value is None else naive.at("exact").number(),
        cross.at("exact").number(), cross.at("exact_se").number(), cross.at("n").whole(),
    )  # fmt: skip


def _candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate(**{name: row[name] for name in _CANDIDATE_COLUMNS if name != "fold"})
