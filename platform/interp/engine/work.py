"""Forward passes of a step, batch by batch, wherever the session says: in this process or on Ray actors.

The rows are the same either way: batches come from the plan, a worker computes with one thread, and rows are put in the
order of the plan. Finished batches are kept, so that an interrupted step continues where it was.

Workers load the model by name and check its digest; in this process the caller's model is used as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...core.errors import ToleranceError, UsageError
from ...models.lending import files_of, loadable, open_model
from ...runtime.plan import digest_of
from ...runtime.pool import WorkerFactory
from ...runtime.session import Session
from ...runtime.table_job import Progress, made_parts, run_table
from ..methods.prompts import FactItem
from .batches import Batch, Item
from .encoded import Encoded
from .step import BatchFunction, Kind

if TYPE_CHECKING:
    from ...models import LanguageModel

_ITEMS: Mapping[Kind, type[Item] | type[FactItem]] = {"questions": Item, "facts": FactItem, "texts": Item}
_ORDER = pa.schema([("batch", pa.string()), ("row", pa.int32())])


@dataclass(frozen=True)
class BatchRunner:
    """A `step.MapBatches` for one run of a step: each call is a phase with a folder of its own below `folder`."""

    step: str
    key: str
    kind: Kind
    readers: Sequence[tuple[LanguageModel, Encoded]]  # of the job, the analysed model first, with what each reads
    batch_size: int
    session: Session
    folder: Path
    progress: Callable[[Progress], None]
    _phases: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(
        self,
        function: BatchFunction,
        schema: pa.Schema,
        arguments: Mapping[str, Any],
        *,
        model: int = 0,
        name: str | None = None,
    ) -> pa.Table:
        """See `step.MapBatches`."""
        phase = self._phase(function.__name__ if name is None else name, model)
        table = run_table(**self._job(function, schema, arguments, model, phase), sort_by=_ORDER.names)
        return table.drop_columns(_ORDER.names)

    def stream(
        self,
        function: BatchFunction,
        schema: pa.Schema,
        arguments: Mapping[str, Any],
        *,
        model: int = 0,
        name: str | None = None,
    ) -> Iterator[pa.Table]:
        """See `step.Job.batches`."""
        phase = self._phase(function.__name__ if name is None else name, model)
        with made_parts(**self._job(function, schema, arguments, model, phase)) as tables:
            for table in tables:
                yield table.sort_by("row").drop_columns(_ORDER.names)

    def _phase(self, name: str, model: int) -> Path:
        """The folder of a call."""
        folder = f"{name}-model-{model}" if model else name
        if not name.isidentifier():
            raise UsageError(f"{self.step}: a call of job.map has a name of letters, digits and _, not {name!r}")
        if folder in self._phases:
            raise UsageError(
                f"{self.step}: job.map is called twice for {name!r} of model {model}, which would be one folder; give "
                "the second call a name of its own (name=...)"
            )
        self._phases.add(folder)
        return self.folder / folder

    def _job(
        self, function: BatchFunction, schema: pa.Schema, arguments: Mapping[str, Any], model: int, phase: Path
    ) -> dict[str, Any]:
        """Arguments of `run_table`."""
        chosen, data = self.readers[model]
        kwargs = {
            "function": f"{function.__module__}:{function.__qualname__}",
            "arguments": dict(arguments),
            "kind": self.kind,
            **loadable(chosen),
            "digest": chosen.digest,
            "device": chosen.device.type,
            "dtype": str(chosen.dtype).removeprefix("torch."),
        }
        return {
            "name": self.step,
            "items": [item.to_json() for item in data.items],
            "factory": WorkerFactory(f"{__name__}:build_worker", kwargs, files_of(chosen)),
            "out_dir": phase,
            "session": self.session,
            "batch_size": self.batch_size,
            "lengths": data.lengths,
            "schema": pa.schema([*_ORDER, *schema]),
            "semantic_key": {
                "key": self.key, "function": kwargs["function"], "arguments": digest_of(dict(arguments))
            },
            "progress": self.progress,
            "id_column": None,
            "rows_per_item": None,
            "lost_row": _lost_row if {"id", "status", "reason"} <= set(schema.names) else _refuse_lost_item,
        }  # fmt: skip


class BatchWorker:
    """Runs one batch function on the model."""

    def __init__(self, model: LanguageModel, function: BatchFunction, arguments: Mapping[str, Any], kind: Kind) -> None:
        self._model, self._function, self._arguments = model, function, arguments
        self._kind: Kind = kind

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of one batch, marked with their batch and place."""
        items = [_ITEMS[self._kind].from_json(item) for item in payload["items"]]
        table = self._function(self._model, Batch(items, self._model.device), self._arguments)
        n = table.num_rows
        columns = [pa.array([payload["shard"]] * n, pa.string()), pa.array(range(n), pa.int32()), *table.columns]
        return pa.table(columns, schema=pa.schema([*_ORDER, *table.schema]))


def build_worker(
    function: str,
    arguments: dict[str, Any],
    model: str,
    digest: str,
    device: str,
    dtype: str,
    tokenizer: str | None = None,
    kind: Kind = "questions",
) -> BatchWorker:
    """What a `WorkerFactory` calls, in this process or an actor's."""
    module, _, name = function.partition(":")
    opened = open_model(model, digest, device, dtype, tokenizer)
    return BatchWorker(opened, getattr(importlib.import_module(module), name), arguments, kind)


def _lost_row(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
    return {"batch": "", "row": 0, "id": item["id"], "status": "worker_lost", "reason": reason}


def _refuse_lost_item(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
    raise ToleranceError(
        f"item {item['id']!r} ends every worker that computes it ({reason}); take it out, or use a smaller batch size"
    )
