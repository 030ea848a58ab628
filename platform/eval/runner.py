"""An evaluation from plan to files: find a recipe on the development questions, judge it on the test questions.

    plan = prepare(EvalConfig(model="tiny-mamba2"))
    with open_session("none") as session:
        result = evaluate(plan, out=Path("runs/eval"), session=session, find_channels=find_channels)

Writes into `out`: run.json (settings, versions, digests, seeds, where it ran), recipe.json, discovery.parquet (every
candidate), items.parquet (every answer), prompts.parquet (every prompt once, by its digest), price.parquet,
summary.json; and below work/ the ledgers and parts by which
an interrupted run continues: each job's folder there is named by everything that decides its rows, and the same
command repeats nothing. A folder that holds a run of another command, or an evaluation with other settings, is
refused; `fresh` deletes an evaluation first, and nothing else.

The tables are the same, byte for byte, wherever and on however many workers they are made. Rows without a score
do not stop the run; `EvalResult.bad_share` says at the end how many there are. One driver at a time works in `out`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..core.errors import UsageError
from ..datasets.prompting.asked_before import question_digests, refuse_overlap
from ..datasets.prompting.prompts import TEMPLATE_DIGEST
from ..models.decoding import ends
from ..models.lending import label, lent, opens
from ..models.provenance import backend, computation_key, identity
from ..runtime import Session, digest_of
from ..runtime.stage import Observer, Planned, Run, Stage
from ..scoring.metrics.metric import METRICS
from ..scoring.statistics import Resampling
from ..steering import Comparison, Recipe, Scored, choose, control_recipes, grid
from ..steering.discovery import discovery_table
from ..steering.divergence import texts_together
from ..steering.operators import OPERATORS
from . import answers, side_effects
from .conditions import PLAIN, UNSTEERED, Condition, aliases, candidates, computed, judged
from .dose_response import FAMILY, dose_name
from .planning import Plan
from .price_texts import SEED, why_not_known
from .schema import ITEM_ORDER, ITEM_SCHEMA, PRICE_ORDER, PRICE_SCHEMA, PROMPT_SCHEMA
from .split import DEVELOPMENT, TEST, UNANSWERABLE, counts
from .summary import Summary, mean_of, summarise

if TYPE_CHECKING:
    from ..steering.discovery import FindChannels

STAGE = Stage(
    "eval",
    results=("recipe.json", "discovery.parquet", "items.parquet", "prompts.parquet", "price.parquet", "summary.json"),
    by_content={"model", "tokenizer", "questions", "steering.recipe", "price_texts", "fail_over"},
    data_is="questions",
)


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found and where it lies."""

    out: Path
    recipe: Recipe | None  # None: the model was not steered
    summary: Summary

    @property
    def bad_share(self) -> float:
        """Share of test rows without a score."""
        return self.summary.bad_test_rows / self.summary.test_rows if self.summary.test_rows else 0.0


def evaluate(
    plan: Plan,
    *,
    out: Path,
    session: Session,
    find_channels: FindChannels,
    fresh: bool = False,
    observer: Observer | None = None,
) -> EvalResult:
    """Run `plan`.

    `find_channels(site, layer, k)` names the channels that candidates steer; it may look at the development questions
    alone (`mplat eval` asks `mplat.interp.bottleneck_channels`). It is not called where the plan has a recipe or steers
    nothing; then there is no recipe.json and no discovery.parquet.
    """
    with planned(plan).begin(out, session=session, observer=observer, fresh=fresh) as run:
        work = _Evaluation(plan, run)
        with lent(plan.model):
            recipe, development = work.find(find_channels)
            steered = None if recipe is None else dataclasses.replace(recipe, made_from={})
            conditions = [] if steered is None else judged(steered, work.controls(steered))
            dosed = [] if steered is None else work.doses(steered)
            tested = work.answer("test", plan.test, TEST, [*conditions, *dosed])
            guessed = work.guesses(conditions)
            others = [work.answer(o.split, o.questions, o.split, conditions[:1]) for o in plan.alternatives]
            prices = work.price([*conditions, *dosed])
        items = pa.concat_tables([development, tested, guessed, *others])
        items = items.sort_by([(column, "ascending") for column in ITEM_ORDER]).combine_chunks()
        how = Resampling(plan.config.seed, plan.config.confidence, plan.config.resamples)
        summary = summarise(items, prices, how, plan.config.price_tolerated)
        run.table("items.parquet", items)
        run.table("prompts.parquet", _prompt_table(plan))
        run.table("price.parquet", prices)
        run.json("summary.json", _summary_file(plan, recipe, summary))
        chosen = {} if recipe is None else {"recipe": recipe.to_dict()}
        run.update(counts=dict(Counter(items["status"].to_pylist())), details=chosen)
    return EvalResult(out, recipe, summary)


def planned(plan: Plan) -> Planned:
    """The run of `plan` with its record, to look for an earlier one in a folder or to begin."""
    config, given = plan.config, plan.recipe
    sides = {DEVELOPMENT: plan.development, TEST: plan.test, "unused": plan.unused, UNANSWERABLE: plan.unanswerable}
    return STAGE.plan(
        config,
        model=identity(plan.model),
        data={
            "digest": _questions_digest(plan),
            "counts": {name: len(questions) for name, questions in sides.items()},
            "left_out": dict(Counter(status for status, _ in plan.refused.values())),
        },
        seeds={"seed": config.seed, "held_out_texts": SEED},
        plan={
            "name_of_the_model": label(plan.model),
            "variant": plan.variant.name,
            "operators": list(plan.strengths),
            "layers": list(plan.layers),
            "controls": list(plan.controls),
            "price_texts": {"source": plan.price_texts.source, "digest": plan.price_texts.digest},
            "prompt_templates": {
                q.dataset: plan.template_of(q).digest for q in plan.every_question if q.prompt is None
            },
            "recipe": None if given is None else given.to_dict(),
        },
        backend=backend(plan.model),
        details={
            "end_tokens": ends.record(plan.model),
            "template": TEMPLATE_DIGEST,
            "split_rule": {"share": config.development_share, "seed": config.seed, "key": "seed, category, id"},
        },
    )


class _Evaluation:
    """One evaluation under way."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan, self.run = plan, run

    def find(self, find_channels: FindChannels) -> tuple[Recipe | None, pa.Table]:
        """The recipe and the development rows; a stored recipe needs no search, and no steering no recipe."""
        plan = self.plan
        decided_on = getattr(find_channels, "decided_on", ()) if plan.recipe is None and plan.steers else ()
        refuse_overlap(plan.test, decided_on, "the choice of channels", "let it look at development questions alone")
        if not plan.steers:
            return None, ITEM_SCHEMA.empty_table()
        if plan.recipe is not None:
            self.run.observer.say(f"recipe: {plan.config.steering.recipe}, no search")
            self.run.json("recipe.json", plan.recipe.to_dict())
            return plan.recipe, self._rows([], plan.refused_rows(plan.development, DEVELOPMENT, [PLAIN]))
        recipes = grid(
            plan.model, variant=plan.variant.name, strengths=plan.strengths, layers=plan.layers,
            channel_share=plan.channel_share, find_channels=find_channels, seed=plan.config.seed,
        )  # fmt: skip
        conditions = candidates(recipes)
        table = self.answer("development", plan.development, DEVELOPMENT, conditions, refused_under=[PLAIN])
        scored, unsteered = score_candidates(table, conditions)
        decided = {"questions": list(question_digests(plan.development))}
        chosen = dataclasses.replace(choose(scored).recipe, made_from=decided)
        part = chosen.parts[0]
        self.run.table("discovery.parquet", discovery_table(scored, [c.name for c in conditions], unsteered))
        self.run.json("recipe.json", chosen.to_dict())
        self.run.observer.say(
            f"recipe: {part.operator} of layer {part.layers[0]} by {part.strength:g} on {len(part.channels or ())} "
            f"channels, chosen among {len(recipes)} on {len(plan.development)} development questions"
        )
        return chosen, table

    def controls(self, recipe: Recipe) -> dict[str, list[Recipe]]:
        """The controls of the plan for `recipe`."""
        config = self.plan.config
        comparison = Comparison(recipe, self.plan.model, config.draws, config.seed)
        drawn = control_recipes(self.plan.controls, comparison)
        return {name: list(found.recipes) for name, found in drawn.items()}

    def doses(self, recipe: Recipe) -> list[Condition]:
        """`recipe` at the shares of its dose that are asked for; one that an operator does not allow is left out, and
        that is said."""
        found: list[Condition] = []
        for share in self.plan.config.doses or ():
            try:
                found.append(Condition(dose_name(share), FAMILY, recipe.scaled(share)))
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
            config.batch_size, "question_id", lambda item: by_name[item["condition"]].fields(),
        )  # fmt: skip
        everywhere = [PLAIN, *conditions] if refused_under is None else refused_under
        return self._rows([table, aliases(table, conditions)], plan.refused_rows(questions, side, everywhere))

    def guesses(self, conditions: Sequence[Condition]) -> pa.Table:
        """What is said to questions without an answer, under the conditions of the test."""
        if not self.plan.unanswerable:
            return ITEM_SCHEMA.empty_table()
        return self.answer(UNANSWERABLE, self.plan.unanswerable, UNANSWERABLE, conditions)

    def price(self, conditions: Sequence[Condition]) -> pa.Table:
        """The held-out texts under the conditions of the test. A batch is some texts under every condition, so that the
        unsteered pass is there to be compared with."""
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
            name, items, f"{module}:make_worker", opens=opens(model), arguments=arguments,
            key=computation_key(model, module, *_found_by_name(items, arguments)), schema=schema, sort_by=order,
            batch_size=batch_size, lost=lost, id_column=id_column,
        )  # fmt: skip

    @staticmethod
    def _rows(tables: list[pa.Table], more: list[dict[str, Any]]) -> pa.Table:
        return pa.concat_tables([*tables, pa.Table.from_pylist(more, schema=ITEM_SCHEMA)])


def _found_by_name(items: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> set[str]:
    """The modules of the metrics and operators that a worker looks up by their names."""
    metrics = {item["metric"] for item in items if "metric" in item}
    recipes = [condition["recipe"] for condition in arguments["conditions"] if condition["recipe"] is not None]
    operators = {part["operator"] for recipe in recipes for part in recipe["parts"]}
    return {*map(METRICS.module, metrics), *map(OPERATORS.module, operators)}


def score_candidates(
    table: pa.Table, conditions: Sequence[Condition]
) -> tuple[list[Scored], tuple[float | None, float | None]]:
    """What the development rows say about each candidate, and mean (EM, F1) of the unsteered model on them."""
    by_condition: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_condition.setdefault(row["condition"], []).append(row)

    def means(name: str) -> tuple[int, int, float | None, float | None]:
        rows = by_condition.get(name, [])
        ok = [row for row in rows if row["status"] == "ok"]
        failed = sum(row["status"] == "model_nonfinite" for row in rows)
        return len(ok), failed, mean_of(r["em"] for r in ok), mean_of(r["f1"] for r in ok)

    return [Scored(c.recipe, *means(c.name)) for c in conditions if c.recipe is not None], means(UNSTEERED)[2:]


def _questions_digest(plan: Plan) -> str:
    questions = sorted(plan.every_question, key=lambda q: q.id)
    rows = [dataclasses.asdict(question) for question in questions]
    return digest_of([row if row["group"] else {k: v for k, v in row.items() if k != "group"} for row in rows])


def _prompt_table(plan: Plan) -> pa.Table:
    """Every prompt that was asked."""
    others = [question for other in plan.alternatives for question in other.questions]
    questions = (*plan.development, *plan.test, *plan.unanswerable, *others)
    asked = [plan.prompts[q.id] for q in questions if q.id not in plan.refused]
    rows = {
        p.digest: {"prompt_digest": p.digest, "template": p.template, "text": p.text, "n_tokens": len(p.tokens)}
        | {"ids_digest": p.ids_digest}
        for p in asked
    }
    return pa.Table.from_pylist([rows[digest] for digest in sorted(rows)], schema=PROMPT_SCHEMA)


def _summary_file(plan: Plan, recipe: Recipe | None, summary: Summary) -> dict[str, Any]:
    return {
        "format": "mplat-eval-1",
        "model": {"name": label(plan.model), "digest": plan.model.digest},
        "variant": plan.variant.name,
        "mode": plan.mode,
        "recipe": None if recipe is None else recipe.to_dict(),
        "split": {
            DEVELOPMENT: counts(plan.development),
            TEST: counts(plan.test),
            "unused": counts(plan.unused),
            UNANSWERABLE: counts(plan.unanswerable),
        },
        **summary.to_dict(),
    }
