"""The worker that searches: a recipe from development questions, and what the sites it acts on do on them.

An item is one search: `shuffle` None for the real one, else a seed by which the answers are dealt to other questions of
the run, so that what is found says how much a search finds in noise. Or, without a plan, the published rule of a
variant is applied to costs measured here, or only the sites of a recipe that was given are looked at.

Everything that decides a row is in its item and in the arguments, so a search is done once and its row kept, like every
answer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..models.decoding.prefill import pad
from ..models.lending import open_model
from ..steering.ablation_costs import ablation_costs
from ..steering.answered import Asked, batches
from ..steering.detectors import DETECTORS
from ..steering.effort import Effort
from ..steering.gains import Place
from ..steering.operators import OPERATORS
from ..steering.recipe import Recipe
from ..steering.search import SEARCH_SCHEMA, Found, SearchPlan, discover
from ..steering.source_recipe import source_site
from ..steering.variants import find_variant

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..steering.cross_fitting import CrossFitted

FOUND_SCHEMA = pa.schema([
    pa.field("id", pa.string(), nullable=False),  # search, shuffled_SEED, or given
    pa.field("recipe", pa.string()),  # as JSON
    pa.field("said", pa.string()),  # what the search says of it, as JSON
    pa.field("candidates", pa.list_(pa.struct(list(SEARCH_SCHEMA)))),
    pa.field("activity", pa.string()),  # site -> mean and variance of each channel, as JSON
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
])  # fmt: skip
_ROWS = 16  # prompts that are read together for the activity


def make_worker(
    model: str,
    model_digest: str,
    plan: dict[str, Any] | None,
    asked: list[list[Any]],
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> FindingWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    return FindingWorker(open_model(model, model_digest, device, dtype, tokenizer), plan, asked)


def as_arguments(plan: SearchPlan | None, asked: Sequence[Asked]) -> dict[str, Any]:
    """What `make_worker` needs besides the model."""
    values = None
    if plan is not None:
        values = {
            "questions": list(plan.questions), "where": [list(place) for place in plan.where],
            "effort": dataclasses.asdict(plan.effort), "parts": plan.parts, "seed": plan.seed, "alpha": plan.alpha,
        }  # fmt: skip
    return {"plan": values, "asked": [[a.id, a.origin, list(a.prompt), list(a.answer)] for a in asked]}


def modules_of(recipes: Sequence[Mapping[str, Any]]) -> set[str]:
    """The modules that decide a row: of the operators of `recipes`, of all where there is none, and the detectors."""
    operators = {part["operator"] for recipe in recipes for part in recipe["parts"]}
    found_by_name = {*map(OPERATORS.module, operators or OPERATORS.names()), *map(DETECTORS.module, DETECTORS.names())}
    return {__name__, *found_by_name}


class FindingWorker:
    """Searches with one model."""

    def __init__(self, model: LanguageModel, plan: dict[str, Any] | None, asked: list[list[Any]]) -> None:
        self._model, self._plan = model, plan
        self._asked = tuple(Asked(i, origin, tuple(prompt), tuple(answer)) for i, origin, prompt, answer in asked)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        return pa.Table.from_pylist([self._row(item) for item in payload["items"]], schema=FOUND_SCHEMA)

    def _row(self, item: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"id": item["id"], "status": "ok"}
        if "rule" in item:
            recipe = self._by_rule(item["rule"])
        elif self._plan is None:
            recipe = Recipe.from_dict(item["recipe"], source="recipe")
        else:
            found = discover(self._model, self._search_plan(item["shuffle"]))
            recipe = found.recipe
            row |= {"said": json.dumps(said(found)), "candidates": found.table.to_pylist()}
        sites = [site for part in recipe.parts for site in part.full_sites()]
        rows = [list(asked.prompt) for asked in self._asked]
        activity = measure_activity(self._model, rows, sites) if item["shuffle"] is None else {}
        return row | {"recipe": json.dumps(recipe.to_dict()), "activity": json.dumps(activity)}

    def _by_rule(self, variant: str) -> Recipe:
        """The published recipe of a variant, for this model."""
        source = find_variant(variant, self._model).source
        assert source is not None, f"variant {variant} has no rule"
        asked = batches(self._asked, device=self._model.device)
        return source(self._model, ablation_costs(self._model, source_site(self._model), asked))

    def _search_plan(self, shuffle: int | None) -> SearchPlan:
        assert self._plan is not None
        values = self._plan
        items = self._asked if shuffle is None else dealt_anew(self._asked, shuffle)
        seed = values["seed"] if shuffle is None else shuffle
        return SearchPlan(
            items, tuple(values["questions"]), tuple(Place(*place) for place in values["where"]),
            Effort(**values["effort"]), values["parts"], seed, values["alpha"], (),
        )  # fmt: skip


def dealt_anew(asked: Sequence[Asked], seed: int) -> tuple[Asked, ...]:
    """The same prompts with each other's answers: a random one of the others', so that few keep their own."""
    order = np.random.default_rng(seed).permutation(len(asked))
    return tuple(
        a._replace(answer=asked[int(i)].answer) for a, i in zip(asked, np.roll(order, 1)[order.argsort()], strict=True)
    )


def said(found: Found) -> dict[str, Any]:
    """What a search says of its recipe, as plain JSON: naive and cross-fitted gain, by family, and its tokens."""

    def plain(value: CrossFitted | None) -> dict[str, Any] | None:
        return None if value is None else dict(value._asdict())

    return {
        "naive": plain(found.naive),
        "cross_fitted": plain(found.cross_fitted),
        "families": {name: plain(value) for name, value in found.families.items()},
        "tokens": found.tokens,
    }


@torch.no_grad()
def measure_activity(
    model: LanguageModel, rows: Sequence[Sequence[int]], sites: Iterable[str]
) -> dict[str, dict[str, list[float]]]:
    """Site -> mean and variance of each channel over all real tokens of `rows`, float64; of states and filters, which
    are no activity of channels at tokens, nothing."""
    known = {site.name: site for site in model.sites()}
    wanted = [site for site in dict.fromkeys(sites) if len(known[site].shape) == 3 and not known[site].constant]
    total = {site: torch.zeros(int(known[site].channels), dtype=torch.float64) for site in wanted}
    square = {site: torch.zeros_like(value) for site, value in total.items()}
    count = 0
    if not rows:
        return {}
    for start in range(0, len(rows), _ROWS) if wanted else ():
        tokens, mask = pad(rows[start : start + _ROWS])
        with model.capture(*wanted) as acts:
            model(tokens.to(model.device), mask.to(model.device))
        count += int(mask.sum())
        for site in wanted:
            values = acts[site][mask.to(model.device)].double().cpu()
            total[site] += values.sum(0)
            square[site] += (values**2).sum(0)
    return {
        site: {"mean": (total[site] / count).tolist(),
               "variance": (square[site] / count - (total[site] / count) ** 2).clamp(min=0).tolist()}
        for site in wanted
    }  # fmt: skip
