"""The searches of several evaluations side by side, before the evaluations themselves.

A search is one item that one worker does, so evaluations one after another keep one worker busy and the others idle.
Here an item is the search of one evaluation, with all that it takes. Its row is what the evaluation would have found.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..models.lending import files_of, lent, opened, opens
from ..models.provenance import computation_key
from . import finding
from .planning import Plan

if TYPE_CHECKING:
    from ..runtime.run import Run


def search_all(plans: Mapping[str, Plan], run: Run) -> dict[str, dict[str, Any]]:
    """The row (`finding.FOUND_SCHEMA`) of every plan that searches, by its name; a search that could not be done is
    left out, for its evaluation to try again and to say why."""
    searching = {name: plan for name, plan in plans.items() if plan.search is not None and plan.recipe is None}
    if not searching:
        return {}
    items, keys, files = list[dict[str, Any]](), dict[str, Any](), dict[str, list[str]]()
    for name, plan in searching.items():
        assert plan.search is not None
        arguments = finding.as_arguments(plan.search, plan.search.items)
        items.append({"id": name, "opens": opens(plan.model), "arguments": arguments})
        files |= files_of(plan.model)
        keys[name] = computation_key(plan.model, __name__, *finding.modules_of([]))
    with ExitStack() as stack:
        for plan in searching.values():
            stack.enter_context(lent(plan.model))
        table = run.job(
            "searches", items, f"{__name__}:make_worker", opens={}, files=files, arguments={}, key={"searches": keys},
            schema=finding.FOUND_SCHEMA, sort_by=["id"], batch_size=1, lost=lambda item: {}, id_column="id",
        )  # fmt: skip
    return {row["id"]: row for row in table.to_pylist() if row["status"] == "ok"}


def make_worker() -> SearchingWorker:
    """A worker in whatever process it is to live; what it works with comes with each item."""
    return SearchingWorker()


class SearchingWorker:
    """Searches with the model of each item, one open at a time."""

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        return pa.concat_tables([self._found(item) for item in payload["items"]])

    def _found(self, item: dict[str, Any]) -> pa.Table:
        where = dict(item["opens"])
        name, digest = where.pop("model"), where.pop("model_digest")
        with opened(name, digest, **where) as model:
            worker = finding.FindingWorker(model, **item["arguments"])
            return worker.run({"items": [{"id": item["id"], "shuffle": None}]})
