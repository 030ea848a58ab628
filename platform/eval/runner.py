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
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..core.config import differing_keys
from ..core.folder_lock import alone_in
from ..core.folders import RUN_RECORD, earlier_run, refuse_other_settings
from ..core.versions import versions
from ..core.whole_files import write_errors
from ..datasets.prompting.asked_before import question_digests, refuse_overlap
from ..datasets.prompting.prompts import TEMPLATE_DIGEST
from ..models.decoding import ends
from ..models.lending import label, lent, loadable
from ..models.provenance import computation_key, kernels
from ..runtime import Progress, Session, WorkerFactory, digest_of, publish_json, replace_table, run_table
from ..scoring.metrics.metric import METRICS
from ..scoring.statistics import Resampling
from ..steering import Recipe, Scored, choose, control_recipes, grid
from ..steering.discovery import discovery_table
from ..steering.operators import OPERATORS
from ..steering.recipe import site_width
from . import answers, side_effects
from .conditions import PLAIN, UNSTEERED, Condition, aliases, candidates, computed, judged
from .planning import Plan
from .schema import ITEM_ORDER, ITEM_SCHEMA, PRICE_ORDER, PRICE_SCHEMA, PROMPT_SCHEMA
from .split import DEVELOPMENT, TEST, UNANSWERABLE, counts
from .summary import Summary, mean_of, summarise

if TYPE_CHECKING:
    from ..steering.discovery import FindChannels

_RESULTS = ("recipe.json", "discovery.parquet", "items.parquet", "prompts.parquet", "price.parquet", "summary.json")
# Compared by what they hold, or without an influence on any table.
_BY_CONTENT = frozenset({"model", "tokenizer", "questions", "steering.recipe", "fail_over"})
_PRICE_BATCH = 8  # logits of whole texts are large where the vocabulary is


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


@dataclass(frozen=True)
class Observer:
    """How an evaluation tells what it does: say for sentences, progress for counts."""

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[Progress], None] = lambda progress: None


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
    check_folder(plan, out, fresh=fresh)
    with alone_in(out):
        if fresh:
            _clear(out)
        for name in _RESULTS:  # of other versions, perhaps: never beside this run's record
            (out / name).unlink(missing_ok=True)
        publish_json(_record(plan, None, session), out / RUN_RECORD)
        run = _Run(plan, out, session, fresh, observer or Observer())
        with lent(plan.model):
            recipe, development = run.find(find_channels)
            steered = None if recipe is None else dataclasses.replace(recipe, decided_on=None)
            conditions = [] if steered is None else judged(steered, run.controls(steered))
            tested = run.answer("test", plan.test, TEST, conditions)
            guessed = run.guesses(conditions)
            prices = run.price(conditions)
        items = pa.concat_tables([development, tested, guessed])
        items = items.sort_by([(column, "ascending") for column in ITEM_ORDER]).combine_chunks()
        how = Resampling(plan.config.seed, plan.config.confidence, plan.config.resamples)
        summary = summarise(items, prices, how)
        replace_table(items, out / "items.parquet")
        replace_table(_prompt_table(plan), out / "prompts.parquet")
        replace_table(prices, out / "price.parquet")
        publish_json(_summary_file(plan, recipe, summary), out / "summary.json")
        if recipe is not None:
            publish_json(_record(plan, recipe, session), out / RUN_RECORD)
    return EvalResult(out, recipe, summary)


def check_folder(plan: Plan, out: Path, *, fresh: bool = False) -> None:
    """Raises UsageError where `out` holds a run of another command or, without `fresh`, one of another plan."""
    earlier = earlier_run(out, "eval", fresh=fresh)
    if earlier is not None and not fresh:
        refuse_other_settings(out, "eval", differences(plan, earlier))


def differences(plan: Plan, earlier: Mapping[str, Any]) -> list[str]:
    """In what the evaluation of a run.json differs from `plan`, so far as that can change its results."""
    found = differing_keys(plan.config, earlier["config"], ignored=_BY_CONTENT)
    model, digest = earlier.get("model"), earlier.get("questions_digest")
    if not isinstance(model, dict) or (model.get("name"), model.get("digest")) != (plan.model.name, plan.model.digest):
        found.append("the model")
    if digest not in (None, _questions_digest(plan)):  # None: older than this entry
        found.append("the questions")
    if earlier.get("templates", _templates(plan)) != _templates(plan):
        found.append("the prompt templates")
    if plan.recipe is not None and earlier.get("recipe", plan.recipe.to_dict()) != plan.recipe.to_dict():
        found.append("the recipe")
    return found


def _clear(out: Path) -> None:
    """Delete what an earlier evaluation wrote, but not the lock that is held. Without its record nothing is known to
    be one's own, and everything stays."""
    if not (out / RUN_RECORD).is_file():
        return
    with write_errors(out):
        for name in (*_RESULTS, RUN_RECORD):
            (out / name).unlink(missing_ok=True)
        for job in (out / "work").iterdir():
            if job.is_dir():
                shutil.rmtree(job)


class _Run:
    """One evaluation under way."""

    def __init__(self, plan: Plan, out: Path, session: Session, fresh: bool, observer: Observer) -> None:
        self.plan, self.out, self.session, self.fresh, self.observer = plan, out, session, fresh, observer

    def find(self, find_channels: FindChannels) -> tuple[Recipe | None, pa.Table]:
        """The recipe and the development rows; a stored recipe needs no search, and no steering no recipe."""
        plan = self.plan
        decided_on = getattr(find_channels, "decided_on", ()) if plan.recipe is None and plan.steers else ()
        refuse_overlap(plan.test, decided_on, "the choice of channels", "let it look at development questions alone")
        if not plan.steers:
            return None, ITEM_SCHEMA.empty_table()
        if plan.recipe is not None:
            self.observer.say(f"recipe: {plan.config.steering.recipe}, no search")
            plan.recipe.save(self.out / "recipe.json")
            return plan.recipe, self._rows([], plan.refused_rows(plan.development, DEVELOPMENT, [PLAIN]))
        recipes = grid(
            plan.model, variant=plan.variant.name, strengths=plan.strengths, layers=plan.layers,
            channel_share=plan.channel_share, find_channels=find_channels, seed=plan.config.seed,
        )  # fmt: skip
        conditions = candidates(recipes)
        table = self.answer("development", plan.development, DEVELOPMENT, conditions, refused_under=[PLAIN])
        scored, unsteered = score_candidates(table, conditions)
        chosen = dataclasses.replace(choose(scored).recipe, decided_on=question_digests(plan.development))
        replace_table(discovery_table(scored, [c.name for c in conditions], unsteered), self.out / "discovery.parquet")
        chosen.save(self.out / "recipe.json")
        self.observer.say(
            f"recipe: {chosen.operator} of layer {chosen.layer} by {chosen.strength:g} on {len(chosen.channels)} "
            f"channels, chosen among {len(recipes)} on {len(plan.development)} development questions"
        )
        return chosen, table

    def controls(self, recipe: Recipe) -> dict[str, list[Recipe]]:
        """The controls of the plan for `recipe`."""
        width = site_width(self.plan.model, recipe.full_site)
        assert width is not None, recipe.full_site
        config = self.plan.config
        return control_recipes(self.plan.controls, recipe, width, draws=config.draws, seed=config.seed)

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
        """The held-out texts under the conditions of the test."""
        from ..models.decoding.generation import encode

        plan, distinct = self.plan, computed(conditions)
        texts = side_effects.held_out_texts(plan.config.price_texts_per_level)
        rows = sorted(zip(texts, encode(plan.model, [t.text for t in texts]), strict=True), key=lambda r: -len(r[1]))
        items = [
            {"text_id": text.id, "tokens": tokens, "condition": c.name}
            | {"model": label(plan.model), "variant": plan.variant.name}
            for c in distinct
            for text, tokens in rows
        ]
        by_name = {c.name: c for c in distinct}
        table = self._table(
            "price", side_effects.__name__, items, {"conditions": [c.to_dict() for c in distinct]}, PRICE_SCHEMA,
            PRICE_ORDER, _PRICE_BATCH, "text_id", lambda item: by_name[item["condition"]].fields(),
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
        lost_fields: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> pa.Table:
        """One job of the runtime in a folder of its own."""
        model = self.plan.model
        key = {
            "arguments": digest_of(dict(arguments)),
            **computation_key(model, module, *_found_by_name(items, arguments)),
        }
        folder = digest_of({"key": key, "items": digest_of(items), "batch": batch_size})[:12]

        def lost(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
            known = {k: v for k, v in item.items() if k in schema.names}
            return {**known, **lost_fields(item), "status": "worker_lost", "reason": reason}

        return run_table(
            name,
            items,
            WorkerFactory(
                f"{module}:make_worker",
                {
                    **loadable(model),
                    "model_digest": model.digest,
                    "dtype": str(model.dtype).removeprefix("torch."),
                    **arguments,
                },
            ),
            out_dir=self.out / "work" / f"{name}-{folder}",
            session=self.session,
            batch_size=batch_size,
            sort_by=list(order),
            schema=schema,
            semantic_key=key,
            fresh=self.fresh,
            progress=self.observer.progress,
            id_column=id_column,
            lost_row=lost,
        )

    @staticmethod
    def _rows(tables: list[pa.Table], more: list[dict[str, Any]]) -> pa.Table:
        return pa.concat_tables([*tables, pa.Table.from_pylist(more, schema=ITEM_SCHEMA)])


def _found_by_name(items: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> set[str]:
    """The modules of the metrics and operators that a worker looks up by their names."""
    metrics = {item["metric"] for item in items if "metric" in item}
    recipes = [condition["recipe"] for condition in arguments["conditions"] if condition["recipe"] is not None]
    return {*map(METRICS.module, metrics), *(OPERATORS.module(recipe["operator"]) for recipe in recipes)}


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


def _templates(plan: Plan) -> dict[str, str]:
    """Data set -> digest of the template that its questions are put with; those with ready-made prompts have none."""
    return {q.dataset: plan.template_of(q).digest for q in plan.every_question if q.prompt is None}


def _prompt_table(plan: Plan) -> pa.Table:
    """Every prompt that was asked."""
    questions = (*plan.development, *plan.test, *plan.unanswerable)
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


def _record(plan: Plan, recipe: Recipe | None, session: Session) -> dict[str, Any]:
    """run.json: what is needed to make the run again, and where it was made; of a run that steers, without a recipe it
    is not
    finished."""
    record = {
        "command": "eval",
        "config": plan.config.model_dump(mode="json"),
        "model": {
            "name": plan.model.name,
            "digest": plan.model.digest,
            "arch": plan.model.config.arch,
            "n_parameters": plan.model.n_parameters,
            "dtype": str(plan.model.dtype).removeprefix("torch."),
        },
        "end_tokens": ends.record(plan.model),
        "variant": plan.variant.name,
        "operators": list(plan.strengths),
        "layers": list(plan.layers),
        "controls": list(plan.controls),
        "seeds": {"seed": plan.config.seed, "held_out_texts": side_effects.TEXT_SEED},
        "template": TEMPLATE_DIGEST,
        "templates": _templates(plan),
        "questions_digest": _questions_digest(plan),
        "split_rule": {"share": plan.config.development_share, "seed": plan.config.seed, "key": "seed, category, id"},
        "kernels": kernels(plan.model),
        "versions": versions(),
        "session": session.describe(),
    }
    return record if recipe is None else record | {"recipe": recipe.to_dict()}
