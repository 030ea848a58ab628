"""`mplat steer discover`: look for a recipe on development questions, and leave judging it to `mplat eval --recipe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import run_folder, writable
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..eval.eval_config import EvalConfig
    from ..eval.planning import Plan
    from ..steering import Found, Recipe

RECIPE, CANDIDATES = "recipe.json", "search.parquet"
_OF_JUDGING = (
    "--recipe", "--edits", "--header", "--controls", "--draws", "--robust", "--strength", "--max-new-tokens",
    "--batch-size", "--price-texts", "--fail-over", "--actors", "--address",
)  # fmt: skip


@command("steer discover", order=46, config="eval.eval_config.EvalConfig", without=_OF_JUDGING)
def steer_discover(typed: Typed[EvalConfig]) -> Run:
    """Search for a recipe on the development side of the questions; `mplat eval --recipe` judges it on the others."""
    from ..core.whole_files import replace_table
    from ..eval.planning import prepare, variant_and_model
    from ..steering import discover

    _, opened = variant_and_model(typed.config)
    plan = prepare(typed.with_blocks(opened.n_layers), opened)
    search = plan.search
    if search is None:
        raise UsageError(
            "there is nothing to search for: leave out a recipe, stored edits, a published rule and --steering none"
        )

    def work(at: At) -> Outcome:
        found = discover(opened, search)
        recipe = _named(found.recipe, plan)
        path = recipe.save(at.folder / RECIPE)
        replace_table(found.table, at.folder / CANDIDATES)
        return Outcome(_values(found, recipe, path), _words(found, recipe, path))

    places = [place.name for place in search.where]
    questions = len(search.items)
    return Run(
        work,
        folder=run_folder("discover", opened, plan.config.questions),
        operations=None,
        lines=(
            f"model: {opened.name}; {questions} development questions, {len(plan.test)} are kept for judging",
            f"search: {len(places)} places ({places[0]} ... {places[-1]}); at most {search.tokens:,} tokens",
        ),
        plan={"questions": questions, "places": places, "tokens": search.tokens,
              "config": plan.config.model_dump(mode="json")},
        check=_refuse_what_is_there,
        prepare=writable,
    )  # fmt: skip


def _named(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with the name of its variant and every question that an evaluation may not judge it on."""
    from ..datasets.prompting.asked_before import question_digests

    made_from = {"questions": list(question_digests(plan.development))}
    return dataclasses.replace(recipe, name=plan.variant.name, made_from=made_from)


def _refuse_what_is_there(folder: Path, *, fresh: bool) -> None:
    """UsageError for the folder of another run, and for a recipe that is not to be replaced."""
    if (folder / "run.json").exists():
        raise UsageError(f"--out {folder}: holds the results of another command; choose another folder")
    if (folder / RECIPE).exists() and not fresh:
        raise UsageError(f"--out {folder}: holds a recipe already; choose another folder, or replace it with --fresh")


def _values(found: Found, recipe: Recipe, path: Path) -> dict[str, Any]:
    from ..eval.finding import said
    from ..steering.in_words import describe

    return {"out": str(path.parent), "recipe": recipe.to_dict(), "does": describe(recipe), "search": said(found)}


def _words(found: Found, recipe: Recipe, path: Path) -> list[str]:
    from ..steering.in_words import describe

    cross, naive = found.cross_fitted, found.naive
    crossed = f"cross-fitted {cross.exact:+.3f} (standard error {cross.exact_se:.3f}, n {cross.n})"
    known = "" if naive is None else f"; naive {naive.exact:+.3f}, on the questions that it was found on"
    return [
        *describe(recipe),
        f"gain in exact match: {crossed}{known}",
        f"{found.tokens:,} tokens were read, {found.table.num_rows} candidates are in {path.with_name(CANDIDATES)}",
        f"recipe: {path}",
    ]
