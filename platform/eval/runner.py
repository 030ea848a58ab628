"""An evaluation from plan to files: find a recipe on the development questions, judge it on the test questions.

    plan = prepare(EvalConfig(model="tiny-mamba2"))
    with open_session("none") as session:
        result = evaluate(plan, out=Path("runs/eval"), session=session)

Writes into `out`: run.json (settings, versions, digests, seeds, where it ran), recipe.json, search.parquet (every
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.whole_files import sha256_of
from ..datasets.prompting.prompts import TEMPLATE_DIGEST
from ..models.decoding import ends
from ..models.lending import label, lent
from ..models.provenance import backend, identity
from ..runtime import Session, digest_of
from ..runtime.stage import Observer, Planned, Stage
from ..scoring.statistics import Resampling
from ..steering import Recipe
from ..steering.recipe_files import beside
from .asking import headed
from .experiment import Experiment, Findings
from .planning import Plan
from .price_texts import SEED
from .schema import ITEM_ORDER, PROMPT_SCHEMA
from .split import DEVELOPMENT, TEST, UNANSWERABLE, counts
from .summary import Summary, summarise

STAGE = Stage(
    "eval",
    results=(
        "recipe.json",
        "recipe.safetensors",
        "search.parquet",
        "items.parquet",
        "prompts.parquet",
        "price.parquet",
        "summary.json",
    ),
    by_content={
        "model",
        "tokenizer",
        "questions",
        "steering.recipe",
        "steering.edits",
        "header",
        "price_texts",
        "fail_over",
    },
    data_is="questions",
)


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found and where it lies."""

    out: Path
    recipe: Recipe | None  # None: the model was not steered
    summary: Summary
    said: dict[str, Any] | None = None  # by the search of its recipe; None where there was none

    @property
    def bad_share(self) -> float:
        """Share of test rows without a score."""
        return self.summary.bad_test_rows / self.summary.test_rows if self.summary.test_rows else 0.0


def evaluate(
    plan: Plan,
    *,
    out: Path,
    session: Session,
    fresh: bool = False,
    observer: Observer | None = None,
    searched: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Run `plan`: find a recipe on the development questions or take the one that was given, then judge it on the test
    questions. searched: the row of its search, where that was done before (`searches`). Where nothing is steered there
    is no recipe.json, where nothing was searched for no search.parquet."""
    with planned(plan).begin(out, session=session, observer=observer, fresh=fresh) as run:
        work = Experiment(plan, run, searched)
        with lent(plan.model):
            found = work.find()
            if found.candidates is not None:
                run.table("search.parquet", found.candidates)
            conditions, missing = work.conditions(found)
            developed = work.development(found.recipe)
            dosed = [] if found.recipe is None else work.doses(found.recipe)
            tested = work.answer("test", plan.test, TEST, [*conditions, *dosed])
            guessed = work.guesses(conditions)
            others = [work.answer(o.split, o.questions, o.split, conditions[:1]) for o in plan.alternatives]
            prices = work.price([*conditions, *dosed])
        items = pa.concat_tables([developed, tested, guessed, *others])
        items = items.sort_by([(column, "ascending") for column in ITEM_ORDER]).combine_chunks()
        how = Resampling(plan.config.seed, plan.config.confidence, plan.config.resamples)
        left_alone = found.said is not None and found.recipe is not None and found.recipe.is_identity
        summary = summarise(items, prices, how, plan.config.price_tolerated, missing=missing, left_alone=left_alone)
        run.table("items.parquet", items)
        run.table("prompts.parquet", _prompt_table(plan, {c.header for c in conditions if c.header}))
        run.table("price.parquet", prices)
        run.json("summary.json", _summary_file(plan, found, summary))
        chosen, files = {}, {}
        if found.recipe is not None:
            saved = found.recipe.save(out / "recipe.json")
            chosen = {"recipe": found.recipe.to_dict()}
            files = {p.name: sha256_of(p.read_bytes()) for p in (saved, beside(saved)) if p.is_file()}
        run.update(counts=dict(Counter(items["status"].to_pylist())), details=chosen, files=files)
    return EvalResult(out, found.recipe, summary, found.said)


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
            "search": None
            if plan.search is None
            else {
                "where": [place.name for place in plan.search.where],
                "parts": plan.search.parts,
                "alpha": plan.search.alpha,
                "tokens": plan.search.tokens,
            },
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
            "split_rule": {"share": config.development_share, "seed": config.seed, "key": "seed, group"},
        },
    )


def _questions_digest(plan: Plan) -> str:
    questions = sorted(plan.every_question, key=lambda q: q.id)
    rows = [dataclasses.asdict(question) for question in questions]
    return digest_of([row if row["group"] else {k: v for k, v in row.items() if k != "group"} for row in rows])


def _prompt_table(plan: Plan, headers: set[str]) -> pa.Table:
    """Every prompt that was asked, also with the headers that conditions put before it."""
    others = [question for other in plan.alternatives for question in other.questions]
    questions = (*plan.development, *plan.test, *plan.unanswerable, *others)
    plain = [plan.prompts[q.id] for q in questions if q.id not in plan.refused]
    judging = [plan.prompts[q.id] for q in (*plan.test, *plan.unanswerable) if q.id not in plan.refused]
    asked = [*plain, *(headed(prompt, header, plan.model) for header in sorted(headers) for prompt in judging)]
    rows = {
        p.digest: {"prompt_digest": p.digest, "template": p.template, "text": p.text, "n_tokens": len(p.tokens)}
        | {"ids_digest": p.ids_digest}
        for p in asked
    }
    return pa.Table.from_pylist([rows[digest] for digest in sorted(rows)], schema=PROMPT_SCHEMA)


def _summary_file(plan: Plan, found: Findings, summary: Summary) -> dict[str, Any]:
    return {
        "format": "mplat-eval-2",
        "model": {"name": label(plan.model), "digest": plan.model.digest},
        "variant": plan.variant.name,
        "mode": plan.mode,
        "recipe": None if found.recipe is None else found.recipe.to_dict(),
        "search": found.said,
        "split": {
            DEVELOPMENT: counts(plan.development),
            TEST: counts(plan.test),
            "unused": counts(plan.unused),
            UNANSWERABLE: counts(plan.unanswerable),
        },
        **summary.to_dict(),
    }
