"""A trace from plan to files: every prompt traced by workers, averaged over prompts, drawn.

    plan = prepare(TraceConfig(model="tiny-mamba", facts="generated", limit=20))
    with open_session("none") as session:
        result = run_trace(plan, out=Path("runs/trace"), session=session)

Writes into `out`: run.json (settings, versions, digests, counts), traces.parquet (every prompt, site, layer and
position), averages.parquet (AIE per site, layer and bin, with intervals), trace.html, heat_maps/; and below work/ the
ledger and parts by which an interrupted run continues. A folder that holds a run of another command, or a trace with
other settings, is refused; `fresh` deletes a trace first, and nothing else.

The tables are the same, byte for byte, wherever and on however many workers they are made.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...core.config import differing_keys
from ...core.folder_lock import FolderLock
from ...core.folders import RUN_RECORD, earlier_run, refuse_other_settings
from ...core.versions import versions
from ...core.whole_files import write_errors
from ...models.decoding import ends
from ...models.lending import label, lent, loadable
from ...models.provenance import computation_key, kernels
from ...runtime import Progress, Session, WorkerFactory, digest_of, publish_json, replace_table, run_table
from . import trace_worker
from .over_prompts import average_prompts
from .trace_pictures import FOLDER, PAGE, draw
from .trace_plan import TracePlan
from .trace_schema import MODEL_WRONG, TRACE_ORDER, TRACE_SCHEMA
from .trace_words import UNITS, corruption_in_words, judged_in_words, which_in_words, window_in_words

TRACES, AVERAGES = "traces.parquet", "averages.parquet"
# Compared by what they hold, or without an influence on any table.
_BY_CONTENT = frozenset({"model", "tokenizer", "facts", "data_dir", "fail_over", "pictures", "batch_size"})


@dataclass(frozen=True)
class TraceResult:
    """What was found and where it lies. averages is None where no prompt was traced; statuses: status -> prompts."""

    out: Path
    traces: pa.Table
    averages: pa.Table | None
    statuses: dict[str, int]
    files: dict[str, str]  # name in the folder -> sha256

    @property
    def traced(self) -> int:
        """Prompts with effects."""
        return self.statuses.get("ok", 0)

    @property
    def failed_share(self) -> float:
        """Share of prompts without effects for another reason than a wrong answer of the model."""
        total = sum(self.statuses.values())
        return (total - self.traced - self.statuses.get(MODEL_WRONG, 0)) / total


@dataclass(frozen=True)
class Observer:
    """How a trace tells what it does: say for sentences, progress for counts."""

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[Progress], None] = lambda progress: None


def run_trace(
    plan: TracePlan, *, out: Path, session: Session, fresh: bool = False, observer: Observer | None = None
) -> TraceResult:
    """Run `plan`; see the module."""
    observer = observer or Observer()
    check_folder(plan, out, fresh=fresh)
    with _alone_in(out):
        _clear(out, work=fresh)
        publish_json(_record(plan, session), out / RUN_RECORD)  # the folder is this run's from here on
        with lent(plan.model):
            traces = _traces(plan, out, session, fresh, observer)
        statuses = dict(sorted(Counter(_status_of_prompts(traces).values()).items()))
        averages = average_prompts(plan, traces) if "ok" in statuses else None
        files = {TRACES: replace_table(traces, out / TRACES).sha256}
        if averages is not None:
            files[AVERAGES] = replace_table(averages, out / AVERAGES).sha256
            observer.say("drawing")
            files |= draw(plan, traces, averages, out)
        publish_json(_record(plan, session, statuses, files), out / RUN_RECORD)
    return TraceResult(out, traces, averages, statuses, files)


def check_folder(plan: TracePlan, out: Path, *, fresh: bool = False) -> None:
    """Raises UsageError where `out` holds a run of another command or, without `fresh`, a trace of another plan."""
    earlier = earlier_run(out, "trace", fresh=fresh)
    if earlier is None or fresh:
        return
    found = differing_keys(plan.config, earlier["config"], ignored=_BY_CONTENT)
    for name, digest in (("model", plan.model.digest), ("prompts", plan.digest)):
        there = earlier.get(name)
        if not isinstance(there, dict) or there.get("digest") != digest:
            found.append(f"the {name}")
    refuse_other_settings(out, "trace", found)


def trace_key(plan: TracePlan) -> dict[str, Any]:
    """What decides a worker's rows besides its items."""
    return {"arguments": digest_of(plan.arguments()), **computation_key(plan.model, trace_worker.__name__)}


def _traces(plan: TracePlan, out: Path, session: Session, fresh: bool, observer: Observer) -> pa.Table:
    """The rows of all prompts, those that cannot be traced included."""
    model, config = plan.model, plan.config
    items = [item.to_json() for item in plan.items]
    key = trace_key(plan)
    folder = digest_of({"key": key, "items": digest_of(items), "batch": config.batch_size})[:12]
    arguments = {
        **loadable(model),
        "digest": model.digest,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "arguments": plan.arguments(),
    }
    table = run_table(
        "trace",
        items,
        WorkerFactory(f"{trace_worker.__name__}:build_worker", arguments),
        out_dir=out / "work" / f"trace-{folder}",
        session=session,
        batch_size=config.batch_size,
        sort_by=[],
        schema=TRACE_SCHEMA,
        semantic_key=key,
        fresh=fresh,
        progress=observer.progress,
        lengths=[len(item.tokens) for item in plan.items],
        rows_per_item=None,
        lost_row=_lost,
    )
    more = [{"id": e.id, "status": e.status, "reason": e.reason} for e in plan.excluded]
    both = pa.concat_tables([table, pa.Table.from_pylist(more, schema=TRACE_SCHEMA)])
    return both.sort_by([(column, "ascending") for column in TRACE_ORDER]).combine_chunks()


def _lost(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
    return {"id": item["id"], "status": "worker_lost", "reason": reason}


def _status_of_prompts(traces: pa.Table) -> dict[str, str]:
    return dict(zip(traces["id"].to_pylist(), traces["status"].to_pylist(), strict=True))


def _clear(out: Path, *, work: bool) -> None:
    """Delete the results of an earlier trace, of other versions perhaps, that would stand beside this run's record;
    with `work` also its parts. Without its record nothing is known to be one's own, and everything stays."""
    if not (out / RUN_RECORD).is_file():
        return
    with write_errors(out):
        for name in (TRACES, AVERAGES, PAGE):
            (out / name).unlink(missing_ok=True)
        for path in (out / FOLDER).glob("*"):
            if path.suffix in (".png", ".svg"):
                path.unlink()
        if work:
            for job in (out / "work").glob("trace-*"):
                shutil.rmtree(job)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the folder's lock; UsageError says who else does."""
    with write_errors(out):
        (out / "work").mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out / "work" / ".lock")
    try:
        yield
    finally:
        lock.release()


def _record(
    plan: TracePlan,
    session: Session,
    statuses: Mapping[str, int] | None = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """run.json: what is needed to make the run again, and where it was made; without files it is not finished."""
    record = {
        "command": "trace",
        "config": plan.config.model_dump(mode="json"),
        "model": {
            "name": label(plan.model),
            "digest": plan.model.digest,
            "arch": plan.model.config.arch,
            "n_parameters": plan.model.n_parameters,
            "n_layers": plan.model.n_layers,
            "dtype": str(plan.model.dtype).removeprefix("torch."),
        },
        "end_tokens": ends.record(plan.model),
        "prompts": {"given": len(plan.texts), "digest": plan.digest, "correct_only": plan.correct_only},
        "sites": list(plan.sites),
        "layers": list(plan.layers),
        "corruption": {
            "kind": plan.kind,
            "noise": plan.noise,
            "samples": plan.samples,
        },
        "in_words": {
            "corruption": corruption_in_words(plan),
            "restored": window_in_words(plan),
            "metric": UNITS[plan.config.metric],
            "answer": judged_in_words(plan),
            "prompts": which_in_words(plan),
        },
        "seeds": {"seed": plan.config.seed},
        "kernels": kernels(plan.model),
        "versions": versions(),
        "session": session.describe(),
    }
    done = {} if files is None else {"statuses": dict(statuses or {}), "files": dict(files)}
    return record | done
