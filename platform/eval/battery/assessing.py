"""What a model can do, task by task: ask the battery, steered and not, and count what is right.

Answers are greedy, end at a line end, and are judged by the metric of each question. A question that cannot be asked,
or whose answer cannot be judged, has a status and a reason and no score: it is counted, and is never a zero. Intervals
are Wilson's for a share; the questions of a category are independent draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...core.errors import UsageError
from ...core.plain_text import Table, with_interval
from ...models.lending import label
from ...scoring.statistics import wilson
from ..answers import AnswerWorker
from ..asked_spans import spans_at
from ..conditions import PLAIN, STEERED, Condition
from ..planning import tokenize
from ..schema import ITEM_SCHEMA, question_fields
from .asking import PER_TASK, questions
from .task import find_task, task_of

if TYPE_CHECKING:
    from ...datasets.prompting.prompts import Prompt
    from ...datasets.records import Question
    from ...models import LanguageModel
    from ...steering import Recipe

MAX_PROMPT_TOKENS = 2048
BATCH_SIZE = 32

BATTERY_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("condition", pa.string(), nullable=False),  # unsteered or steered
        pa.field("recipe_digest", pa.string()),  # null where nothing is steered
        pa.field("task", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),  # answers that were judged
        pa.field("n_failed", pa.int32(), nullable=False),  # questions without a score
        pa.field("accuracy", pa.float64()),  # share of right answers; null where none was judged
        pa.field("low", pa.float64()),  # Wilson's interval
        pa.field("high", pa.float64()),
    ]
)


def assess(
    model: LanguageModel,
    recipe: Recipe | None = None,
    *,
    tasks: Sequence[str] | None = None,
    per_task: int = PER_TASK,
    seed: int = 0,
    lambada: str | Path | None = None,
    confidence: float = 0.95,
    batch_size: int = BATCH_SIZE,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> pa.Table:
    """A row of BATTERY_SCHEMA for each category, unsteered and, with a recipe, steered as well.

    tasks, per_task, lambada: as in `questions`. advance: is told of every batch how many answers it gave.
    Raises UsageError as `questions` and for a model without tokenizer, InputError for a recipe that is not for `model`.
    """
    asked = questions(tasks, per_task, seed, lambada=lambada)
    conditions = [None] if recipe is None else [None, recipe]
    tables = [
        answers(model, asked, each, batch_size=batch_size, max_prompt_tokens=max_prompt_tokens, advance=advance)
        for each in conditions
    ]
    return summarise(pa.concat_tables(tables), confidence=confidence)


def answers(
    model: LanguageModel,
    asked: Sequence[Question],
    recipe: Recipe | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> pa.Table:
    """The answers of `model` to questions of the battery, as rows of ITEM_SCHEMA in the order of the questions.

    Raises UsageError for a model without tokenizer or a batch of no question, InputError for a recipe of another model.
    """
    if model.tokenizer is None:
        raise UsageError(f"model {model.name} has no tokenizer, so it cannot be asked; name one with --tokenizer")
    if batch_size < 1:
        raise UsageError(f"a batch holds at least one question, not {batch_size}")
    condition = PLAIN if recipe is None else Condition(STEERED, STEERED, recipe)
    if recipe is not None:
        recipe.check(model)
    prompts, refused = tokenize(asked, model, max_prompt_tokens)
    shared = {"split": "battery", "model": label(model), "variant": recipe.name if recipe else ""}
    rows: dict[str, dict[str, Any]] = {}
    for question in asked:
        if question.id in refused:
            status, reason = refused[question.id]
            rows[question.id] = question_fields(question) | shared | condition.fields()
            rows[question.id] |= {"status": status, "reason": reason}
    by_length: dict[int, list[Question]] = {}
    for question in asked:
        if question.id not in refused:
            by_length.setdefault(find_task(task_of(question.dataset)).max_new_tokens, []).append(question)
    for new, group in by_length.items():
        worker = AnswerWorker(model, [condition], new, ["\n"])
        order = sorted(group, key=lambda q: -len(prompts[q.id].tokens))
        for at in range(0, len(order), batch_size):
            batch = order[at : at + batch_size]
            items = [_item(q, prompts[q.id]) | shared | {"condition": condition.name} for q in batch]
            rows |= {row["question_id"]: row for row in worker.run({"items": items}).to_pylist()}
            if advance is not None:
                advance(len(batch))
    return pa.Table.from_pylist([rows[question.id] for question in asked], schema=ITEM_SCHEMA)


def _item(question: Question, prompt: Prompt) -> dict[str, Any]:
    return (
        question_fields(question)
        | {"prompt_digest": prompt.digest, "ids_digest": prompt.ids_digest, "evidence_kept": prompt.evidence_kept}
        | {"tokens": prompt.tokens, "n_cut_tokens": prompt.cut_tokens}
        | spans_at(question, prompt)
    )


def summarise(items: pa.Table, *, confidence: float = 0.95) -> pa.Table:
    """Rows of ITEM_SCHEMA as rows of BATTERY_SCHEMA, in the order in which model, condition and category first come."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in items.to_pylist():
        key = row["model"], row["condition"], row["recipe_digest"], task_of(row["dataset"]), row["category"]
        groups.setdefault(key, []).append(row)
    found: list[dict[str, Any]] = []
    for key, rows in groups.items():
        scores = [row["em"] for row in rows if row["status"] == "ok"]
        share = wilson(scores, confidence=confidence)
        found.append(
            dict(zip(BATTERY_SCHEMA.names[:5], key, strict=True))
            | {"n": share.n, "n_failed": len(rows) - share.n}
            | {"accuracy": share.mean, "low": share.low, "high": share.high}
        )
    return pa.Table.from_pylist(found, schema=BATTERY_SCHEMA)


def in_words(table: pa.Table) -> Table:
    """A line for each task and category, a column for each model and condition."""
    rows = table.to_pylist()
    names = list(dict.fromkeys((row["model"], row["condition"]) for row in rows))
    several = len({model for model, _ in names}) > 1
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["task"], row["category"]), {})[row["model"], row["condition"]] = row
    lines: list[list[object]] = []
    for (task, category), by_name in found.items():
        first = next(iter(by_name.values()))
        cells = [_cell(by_name.get(name)) for name in names]
        lines.append([task, category, first["n"], sum(row["n_failed"] for row in by_name.values()), *cells])
    columns = [f"{model}, {condition}" if several else condition for model, condition in names]
    return Table(["task", "category", "n", "failed", *columns], lines)


def _cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else with_interval(row["accuracy"], row["low"], row["high"], ".2f", ".2f")
