"""The work of one evaluation, as jobs of its run: the search, the answers, the price. `runner` puts it in order.

Every job's rows are kept in the run's folder, named by everything that decides them, so that what was computed once is
read when the run goes on: the search too, and its repetitions on shuffled answers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ..core.errors import ClusterError, UsageError
from ..datasets.prompting.asked_before import question_digests, refuse_overlap
from ..models.lending import files_of, label, opens
from ..models.provenance import computation_key
from ..scoring.metrics.metric import METRICS
from ..steering import Comparison, Recipe, control_recipes
from ..steering.answered import Asked, ask
from ..steering.controls import Activity
from ..steering.controls.shuffled_labels import REPEATS
from ..steering.divergence import texts_together
from ..steering.operators import OPERATORS
from . import answers, baselines, finding, side_effects
from .conditions import CONTROL, PLAIN, Condition, aliases, computed, judged
from .dose_response import FAMILY, dose_name
from .eval_config import BASELINES, PROMPT_CONTROL
from .likelihoods import columns_of
from .planning import Plan, asked_as
from .price_texts import why_not_known
from .schema import ITEM_ORDER, ITEM_SCHEMA, PRICE_ORDER, PRICE_SCHEMA
from .split import DEVELOPMENT, UNANSWERABLE

if TYPE_CHECKING:
    from ..runtime.stage import Run


@dataclass(frozen=True)
class Findings:
    """recipe: None where nothing is steered. said: what the search says of it, None where it was given. activity: of
    the sites that it acts on. candidates: every one of the search, None without one."""

    recipe: Recipe | None
    said: dict[str, Any] | None
    activity: Mapping[str, Activity]
    candidates: pa.Table | None


class Experiment:
    """One evaluation under way. searched: the row of its search, where that was done before (`searches`)."""

    def __init__(self, plan: Plan, run: Run, searched: Mapping[str, Any] | None = None) -> None:
        self.plan, self.run, self._searched = plan, run, searched
        self._asked: tuple[Asked, ...] | None = None

    def find(self) -> Findings:
        """The recipe: searched for, or the one that was given; nothing where the model is only asked."""
        plan = self.plan
        if not plan.steers:
            return Findings(None, None, {}, None)
        if plan.recipe is not None:
            self.run.observer.say(f"recipe: {plan.recipe.name or plan.config.steering.recipe}, no search")
            given = {"id": "given", "shuffle": None, "recipe": dataclasses.replace(plan.recipe, made_from={}).to_dict()}
            row = self._search([given])[0]
            return Findings(plan.recipe, None, _activity(row), None)
        if plan.rule is not None:
            row = self._search([{"id": "source", "shuffle": None, "rule": plan.rule}])[0]
            decided = {"questions": list(question_digests(plan.development)), "rule": "arXiv 2602.22719"}
            recipe = Recipe.from_dict(json.loads(row["recipe"]), source="rule")
            self.run.observer.say(f"recipe: the published rule at {', '.join(recipe.sites)}, no search")
            return Findings(dataclasses.replace(recipe, made_from=decided), None, _activity(row), None)
        assert plan.search is not None
        refuse_overlap(plan.test, plan.search.questions, "the search", "search on development questions alone")
        row = self._searched or self._search([{"id": "search", "shuffle": None}])[0]
        recipe = dataclasses.replace(
            Recipe.from_dict(json.loads(row["recipe"]), source="search"), name=plan.variant.name
        )
        recipe = dataclasses.replace(recipe, made_from={"questions": list(question_digests(plan.development))})
        said = json.loads(row["said"])
        candidates = pa.Table.from_pylist(row["candidates"], schema=finding.SEARCH_SCHEMA)
        self.run.observer.say(_what_was_found(recipe, said, len(plan.development)))
        return Findings(recipe, said, _activity(row), candidates)

    def conditions(self, findings: Findings) -> tuple[list[Condition], dict[str, str]]:
        """Under what the test questions are answered, and of each control that cannot exist, why."""
        plan, recipe = self.plan, findings.recipe
        if recipe is None:
            return [], {}
        steered = dataclasses.replace(recipe, made_from={}, name="")
        if steered.is_identity:
            return judged(steered, {}), {}
        names = [name for name in plan.controls if name != PROMPT_CONTROL and name not in BASELINES]
        search = None if plan.search is None else self._shuffled(names)
        comparison = Comparison(
            steered, plan.model, plan.config.draws, plan.config.seed,
            findings.activity.get, search,
        )  # fmt: skip
        drawn = control_recipes(names, comparison)
        header, no_header = plan.shown() if PROMPT_CONTROL in plan.controls else ("", "")
        missing = {name: found.reason for name, found in drawn.items() if not found.recipes}
        if no_header:
            missing[PROMPT_CONTROL] = no_header
        recipes = {name: found.recipes for name, found in drawn.items() if found.recipes}
        learned, why = self._baselines(recipe)
        return [*judged(steered, recipes, header), *learned], missing | why

    def _baselines(self, recipe: Recipe) -> tuple[list[Condition], dict[str, str]]:
        """What else is learned from the examples of a learned state, and of what cannot be, why."""
        plan = self.plan
        names = [name for name in plan.controls if name in BASELINES]
        known = [q for q in (*plan.development, *plan.unused) if q.id not in plan.refused]
        taught = baselines.taught_by(recipe, known, plan.prompts) if names else ""
        if isinstance(taught, str):
            return [], dict.fromkeys(names, taught)
        table = self.run.job(
            "baselines", [{"id": name} for name in names], f"{baselines.__name__}:make_worker",
            opens=opens(plan.model), files=files_of(plan.model), arguments={"taught": taught._asdict()},
            key=computation_key(plan.model, baselines.__name__), schema=baselines.SCHEMA, sort_by=["id"],
            batch_size=1, lost=lambda item: {}, id_column="id",
        )  # fmt: skip
        found, why = list[Condition](), dict[str, str]()
        for row in table.to_pylist():
            family = f"{CONTROL}{row['id']}"
            if row["status"] != "ok":
                why[row["id"]] = row["reason"]
            elif row["weights"] is not None:
                found.append(Condition(f"{family}_0", family, None, 0, weights=json.loads(row["weights"])))
            else:
                made = Recipe.from_dict(json.loads(row["recipe"]), source="baselines")
                found.append(Condition(f"{family}_0", family, made, 0))
        return found, why

    def doses(self, recipe: Recipe) -> list[Condition]:
        """`recipe` at the shares of its dose that are asked for; one that an operator does not allow is left out, and
        that is said."""
        found: list[Condition] = []
        for share in self.plan.config.doses or ():
            if share in (0.0, 1.0):  # the model as it is and the recipe are there already
                continue
            try:
                dosed = dataclasses.replace(recipe, made_from={}, name="").scaled(share)
                found.append(Condition(dose_name(share), FAMILY, dosed))
            except UsageError as error:
                self.run.observer.say(f"dose {share:g} is left out: {error}")
        return found

    def answer(
        self,
        name: str,
        questions: Sequence[Any],
        side: str,
        conditions: Sequence[Condition],
        refused_under: Sequence[Condition] | None = None,
    ) -> pa.Table:
        """The rows of `questions` unsteered and under `conditions`; what is the same under two names is computed
        once."""
        plan, config = self.plan, self.plan.config
        distinct = computed(conditions)
        arguments = {
            "conditions": [c.to_dict() for c in distinct],
            "max_new_tokens": config.max_new_tokens,
            "stop": list(config.stop),
        }
        by_name = {c.name: c for c in distinct}
        table = self._table(
            name, answers.__name__, plan.items(questions, side, distinct), arguments, ITEM_SCHEMA, ITEM_ORDER,
            config.batch_size, "question_id",
            lambda item: by_name[item["condition"]].fields() | columns_of(item, problem="worker_lost"),
        )  # fmt: skip
        everywhere = [PLAIN, *conditions] if refused_under is None else refused_under
        refused = pa.Table.from_pylist(plan.refused_rows(questions, side, everywhere), schema=ITEM_SCHEMA)
        return pa.concat_tables([table, aliases(table, conditions), refused])

    def development(self, recipe: Recipe | None) -> pa.Table:
        """What is said to the development questions, unsteered and steered: the gain that was tuned for."""
        if recipe is None or self.plan.search is None:
            return ITEM_SCHEMA.empty_table()
        steered = dataclasses.replace(recipe, made_from={}, name="")
        return self.answer(DEVELOPMENT, self.plan.development, DEVELOPMENT, judged(steered, {}), [PLAIN])

    def guesses(self, conditions: Sequence[Condition]) -> pa.Table:
        """What is said to questions without an answer, under the conditions of the test."""
        if not self.plan.unanswerable:
            return ITEM_SCHEMA.empty_table()
        return self.answer(UNANSWERABLE, self.plan.unanswerable, UNANSWERABLE, conditions)

    def price(self, conditions: Sequence[Condition]) -> pa.Table:
        """The held-out texts under the conditions of the test. A batch is some texts under every condition, so that the
        unsteered pass is there to be compared with."""
        conditions = [c for c in conditions if not c.header]  # a text of its own has no header
        plan, distinct, texts = self.plan, computed(conditions), self.plan.price_texts
        if not texts.known:
            self.run.observer.say(why_not_known(plan.model))
        ordered = sorted(texts.texts, key=lambda text: -len(text.tokens))
        together = texts_together([len(text.tokens) for text in ordered], plan.model.config.vocab_size)
        about = {"model": label(plan.model), "variant": plan.variant.name, "text_source": texts.source}
        items = [
            {"text_id": text.id, "document": text.document, "tokens": list(text.tokens), "n_bytes": text.n_bytes}
            | {"condition": condition.name}
            | about
            for start in range(0, len(ordered), together)
            for condition in distinct
            for text in ordered[start : start + together]
        ]
        by_name = {c.name: c for c in distinct}
        arguments = {"conditions": [c.to_dict() for c in distinct], "separators": list(texts.separators)}
        table = self._table(
            "price", side_effects.__name__, items, arguments, PRICE_SCHEMA, PRICE_ORDER, together * len(distinct),
            "text_id", lambda item: by_name[item["condition"]].fields(),
        )  # fmt: skip
        both = pa.concat_tables([table, aliases(table, conditions)])
        return both.sort_by([(column, "ascending") for column in PRICE_ORDER]).combine_chunks()

    def _search(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of searches, in the order of their items."""
        plan, model = self.plan, self.plan.model
        if self._asked is None:
            config = plan.config
            template = None if config.template is None else plan.template_of(plan.every_question[0])
            known = plan.asked_in_development if plan.search is None else []
            some = ask(model, known, **asked_as(config, template)) if known else []
            self._asked = tuple(some) if plan.search is None else plan.search.items
        arguments = finding.as_arguments(plan.search, self._asked)
        decide = finding.modules_of([item["recipe"] for item in items if "recipe" in item])
        table = self.run.job(
            "search", items, f"{finding.__name__}:make_worker", opens=opens(model), files=files_of(model),
            arguments=arguments,
            key=computation_key(model, *decide), schema=finding.FOUND_SCHEMA, sort_by=["id"],
            batch_size=1, lost=lambda item: {}, id_column="id",
        )  # fmt: skip
        rows = {row["id"]: row for row in table.to_pylist()}
        for row in rows.values():
            if row["status"] != "ok":
                raise ClusterError(f"the search {row['id']} could not be done ({row['reason']}); run the same again")
        return [rows[item["id"]] for item in items]

    def _shuffled(self, names: Sequence[str]) -> Callable[[int], Recipe]:
        """The search on answers that were dealt anew, by seed; all of them are done together when one is asked for."""
        seeds = [self.plan.config.seed + 1 + draw for draw in range(min(REPEATS, self.plan.config.draws))]
        found: dict[int, Recipe] = {}

        def search(seed: int) -> Recipe:
            if not found:
                items = [{"id": f"shuffled_{s}", "shuffle": s} for s in seeds]
                for s, row in zip(seeds, self._search(items), strict=True):
                    made = Recipe.from_dict(json.loads(row["recipe"]), source="search")
                    found[s] = dataclasses.replace(made, made_from={}, name="", seed=self.plan.config.seed)
            return found[seed]

        return search

    def _table(
        self,
        name: str,
        module: str,
        items: list[dict[str, Any]],
        arguments: Mapping[str, Any],
        schema: pa.Schema,
        order: Sequence[str],
        batch_size: int,
        id_column: str,
        lost: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> pa.Table:
        """One job of the runtime."""
        model = self.plan.model
        return self.run.job(
            name, items, f"{module}:make_worker", opens=opens(model), files=files_of(model), arguments=arguments,
            key=computation_key(model, module, *_found_by_name(items, arguments)), schema=schema, sort_by=order,
            batch_size=batch_size, lost=lost, id_column=id_column,
        )  # fmt: skip


def _activity(row: Mapping[str, Any]) -> dict[str, Activity]:
    return {
        site: Activity(*(torch.tensor(values[key], dtype=torch.float64) for key in ("mean", "variance")))
        for site, values in json.loads(row["activity"]).items()
    }


def _what_was_found(recipe: Recipe, said: Mapping[str, Any], n: int) -> str:
    cross = said["cross_fitted"]
    gain = f"cross-fitted gain {cross['exact']:+.3f} (standard error {cross['exact_se']:.3f})"
    if recipe.is_identity:
        return f"recipe: none, the model is left as it is: {gain} on {n} development questions"
    parts = ", ".join(f"{len(p.channels or ())} channels of {p.full_sites()[0]}" for p in recipe.parts)
    return f"recipe: {parts}; {gain}, naive {said['naive']['exact']:+.3f}, on {n} development questions"


def _found_by_name(items: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> set[str]:
    """The modules of the metrics and operators that a worker looks up by their names."""
    metrics = {item["metric"] for item in items if "metric" in item}
    recipes = [condition["recipe"] for condition in arguments["conditions"] if condition["recipe"] is not None]
    operators = {part["operator"] for recipe in recipes for part in recipe["parts"]}
    return {*map(METRICS.module, metrics), *map(OPERATORS.module, operators)}
