"""Batch functions over questions with contrasts: how clean and corrupted prompts end, and runs with edges cut.

The contrasts of a run are among the arguments, because a partner may stand in another batch; questions of a batch that
have none, or are not asked for, have no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..engine.batches import Batch, Item, halves, spread
from ..engine.columns import column
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import BatchFunction, Job
from .circuit_graph import graph_of
from .circuit_runs import cut_logits, source_of
from .contrasts import Contrast, Judged, contrasts, pairs_of
from .typed_tensors import floats, nested

if TYPE_CHECKING:
    from ...models import LanguageModel

HALVES = ("development", "test")
ENDS = pa.schema([("id", pa.string()), ("clean", pa.float64()), ("corrupted", pa.float64()), ("right", pa.bool_())])
CUTS = pa.schema([("id", pa.string()), ("pattern", pa.int32()), ("metric", pa.float64())])

PROMPTS_SCHEMA = pa.schema([
    column("question_id", pa.string(), "the question"),
    column("half", pa.string(), "development: it chose; test: what was chosen is measured on it; null: not used"),
    column("kind", pa.string(), "category and hops of the question; null where nothing is known of it"),
    column("distance", pa.int32(), "tokens from the end of the fact to the last one of the prompt"),
    column("metric_clean", pa.float64(), "metric of the clean prompt"),
    column("metric_corrupted", pa.float64(), "of the prompt that states another answer"),
    column("right", pa.bool_(), "whether the clean prompt's answer is the most probable next token"),
    column("status", pa.string(), "ok; not_applicable: no such pair of prompts, or the model prefers the foil where "
           "only answered ones count; model_nonfinite; or why a question was not used"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
])  # fmt: skip


class Chosen(NamedTuple):
    """development, test: the contrasts of either half. prompts: the rows of `PROMPTS_SCHEMA`. clean, corrupted: metric
    by question id."""

    development: list[Contrast]
    test: list[Contrast]
    prompts: pa.Table
    clean: dict[str, float]
    corrupted: dict[str, float]

    def ends(self, which: Sequence[Contrast]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Metrics (n,) of clean and corrupted prompts."""
        return np.array([self.clean[c.id] for c in which]), np.array([self.corrupted[c.id] for c in which])

    @property
    def usable(self) -> bool:
        """Whether there is something to choose on and something to test on."""
        return bool(self.development and self.test)


def chosen_contrasts(job: Job, *, development: int, test: int, answered_only: bool, judged: Judged) -> Chosen:
    """The questions that count, in halves drawn by their ids, at most so many of each, at equal steps.

    answered_only: only those whose clean prompt makes the answer more probable than the foil.
    """
    found = contrasts(job.items, job.seed)
    having = {id_: c for id_, c in found.items() if isinstance(c, Contrast)}
    ends: dict[str, dict[str, Any]] = {}
    if having:
        arguments = {"contrasts": {id_: c.to_json() for id_, c in having.items()}, "judged": judged}
        ends = {row["id"]: row for row in job.map(batch_ends, ENDS, arguments).to_pylist()}
    rows, good = list[dict[str, Any]](), list[Item]()
    for item in job.items:
        row: dict[str, Any] = {"question_id": item.id, "kind": item.kind, "distance": item.distance}
        contrast, end = found[item.id], ends.get(item.id)
        if not isinstance(contrast, Contrast):
            row |= {"status": NOT_APPLICABLE, "reason": contrast}
        elif end is None or end["clean"] is None:
            row |= {"status": "model_nonfinite", "reason": "the scores of a run are not finite"}
        elif answered_only and not _prefers(end, judged):
            row |= {"status": NOT_APPLICABLE, "reason": "the model prefers the other answer"}
        else:
            row |= {"metric_clean": end["clean"], "metric_corrupted": end["corrupted"], "right": end["right"],
                    "status": "ok"}  # fmt: skip
            good.append(item)
        rows.append(row)
    parts: list[list[Contrast]] = []
    for ids, count in zip(halves(job.items), (development, test), strict=True):
        parts.append([having[item.id] for item in spread([item for item in good if item.id in ids], count)])
    half = {c.id: name for name, part in zip(HALVES, parts, strict=True) for c in part}
    rows = [row | {"half": half.get(row["question_id"])} for row in rows]
    rows += [{"question_id": e.id, "status": e.status, "reason": e.reason} for e in job.excluded]
    numbers = {name: {id_: row[name] for id_, row in ends.items()} for name in ("clean", "corrupted")}
    table = pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA)
    return Chosen(parts[0], parts[1], table, numbers["clean"], numbers["corrupted"])


def _prefers(end: Mapping[str, Any], judged: Judged) -> bool:
    return end["clean"] > (0.0 if judged == "logit_diff" else end["corrupted"])


def of_batch(batch: Batch, arguments: Mapping[str, Any]) -> list[Contrast]:
    """The contrasts of a batch that the arguments name."""
    named = arguments["contrasts"]
    return [Contrast.from_json(named[item.id]) for item in batch.items if item.id in named]


@torch.no_grad()
def batch_ends(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Metrics of the clean and corrupted prompts of one batch; null where one of them is not finite."""
    chosen = of_batch(batch, arguments)
    if not chosen:
        return ENDS.empty_table()
    pairs = pairs_of(chosen, batch.device)
    logits = [model(tokens, pairs.mask, last_only=True)[:, 0] for tokens in (pairs.clean, pairs.corrupted)]
    clean, corrupted = (floats(pairs.judge(one, arguments["judged"])) for one in logits)
    finite = torch.isfinite(logits[0]).all(-1) & torch.isfinite(logits[1]).all(-1)
    rights = nested(pairs.right(logits[0]))
    rows: list[dict[str, Any]] = [
        {"id": c.id} | ({"clean": a, "corrupted": b, "right": right} if good else {})
        for c, a, b, right, good in zip(chosen, clean, corrupted, rights, nested(finite), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ENDS)


def batch_cuts(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Metrics of one batch's clean prompts, for each pattern of edges that carry the corrupted prompt's values.

    Arguments: layers, state_groups: of the graph; patterns: numbers of the edges cut.
    """
    chosen = of_batch(batch, arguments)
    if not chosen:
        return CUTS.empty_table()
    graph = graph_of(model, arguments["layers"], arguments["state_groups"])
    pairs = pairs_of(chosen, batch.device)
    cut = torch.zeros(len(arguments["patterns"]), len(graph.edges), dtype=torch.bool)
    for row, numbers in enumerate(arguments["patterns"]):
        cut[row, numbers] = True
    source = source_of(model, graph, pairs.corrupted, pairs.mask)
    logits = cut_logits(model, graph, pairs.clean, pairs.mask, cut, source)
    rows: list[dict[str, Any]] = [
        {"id": c.id, "pattern": number, "metric": value}
        for number, of_pattern in enumerate(logits)
        for c, value in zip(chosen, floats(pairs.judge(of_pattern, arguments["judged"])), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=CUTS)


def batch_choices(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The same for circuits among which one is chosen: a function is mapped once in a step."""
    return batch_cuts(model, batch, arguments)


class Patterns:
    """Patterns of cut edges, each measured once however often it is asked for."""

    def __init__(self) -> None:
        self._numbers: dict[frozenset[int], int] = {}
        self._metrics: NDArray[np.float64] | None = None

    def add(self, cut: Sequence[int]) -> frozenset[int]:
        """Ask for the metrics of a pattern; what is returned is its name."""
        name = frozenset(int(i) for i in cut)
        self._numbers.setdefault(name, len(self._numbers))
        return name

    def measure(
        self, job: Job, which: Sequence[Contrast], arguments: Mapping[str, Any], function: BatchFunction = batch_cuts
    ) -> None:
        """Run all that were asked for on these contrasts."""
        patterns = [sorted(name) for name in self._numbers]
        own = {"contrasts": {c.id: c.to_json() for c in which}, "patterns": patterns}
        place = {c.id: i for i, c in enumerate(which)}
        self._metrics = np.full((len(patterns), len(which)), np.nan)
        for row in job.map(function, CUTS, {**arguments, **own}).to_pylist():
            self._metrics[row["pattern"], place[row["id"]]] = row["metric"]

    def __getitem__(self, name: frozenset[int]) -> NDArray[np.float64]:
        """Metrics (n,) in the order of the contrasts."""
        assert self._metrics is not None, "measured before it is read"
        return self._metrics[self._numbers[name]]
