"""A trace as a folder of its own: the step `causal_trace` run by its plan, its tables, and what is drawn of them.

    plan = prepare(TraceConfig(model="tiny-mamba", facts="generated", limit=20))
    with open_session("none") as session:
        result = run_trace(plan, out=Path("runs/trace"), session=session)

Writes into `out`: run.json (settings, versions, digests, counts), traces.parquet (every prompt, site, layer and
position), averages.parquet (AIE per site, layer and bin, with intervals), and what `draw` makes. A folder that holds a
run of another command, or a trace with other settings, is refused; `fresh` deletes a trace first, and nothing else.

The tables are the same, byte for byte, wherever and on however many workers they are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ...core.observer import Observer
from ...models.decoding import ends
from ...models.provenance import backend, identity
from ...runtime.session import Session
from ...runtime.stage import Planned, Stage
from ..engine.cache import Cache
from ..engine.run import run_plan
from ..engine.statuses import MODEL_WRONG
from .trace_plan import STEP, TracePlan
from .trace_words import UNITS, corruption_in_words, judged_in_words, which_in_words, window_in_words

TRACES, AVERAGES = "traces.parquet", "averages.parquet"
STAGE = Stage(
    "trace",
    results=(TRACES, AVERAGES, "trace.html", "heat_maps/*.png", "heat_maps/*.svg"),
    work=(),
    # compared by what they hold, or without an influence on any table
    by_content={"model", "tokenizer", "facts", "data_dir", "fail_over", "pictures", "batch_size"},
    data_is="prompts",
)
#: draws a trace's tables: name of a file -> what it holds. averages have a row at least
Draw = Callable[[TracePlan, pa.Table, pa.Table], Mapping[str, bytes]]


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


def run_trace(
    plan: TracePlan,
    *,
    out: Path,
    session: Session,
    fresh: bool = False,
    cache: Cache | None = None,
    observer: Observer | None = None,
    draw: Draw | None = None,
) -> TraceResult:
    """Run `plan`; see the module. cache: where the step's result is kept, default the user's.

    Raises UsageError where `out` holds another run, InputError where its record is damaged.
    """
    observer = Observer() if observer is None else observer
    with planned(plan).begin(out, session=session, observer=observer, fresh=fresh) as run:
        result = run_plan(plan.plan, cache=cache, session=session, fresh=fresh, observer=observer)[STEP]
        if result.seconds is None:
            observer.say(f"all {len(plan.items)} prompts are there from an earlier run")
        traces, averages = (_as_computed(result.tables[part]) for part in ("traces", "averages"))
        by_prompt = dict(zip(traces["id"].to_pylist(), traces["status"].to_pylist(), strict=True))
        statuses = dict(sorted(Counter(by_prompt.values()).items()))
        run.update(counts=statuses)
        run.table(TRACES, traces)
        if averages.num_rows:
            run.table(AVERAGES, averages)
            pictures: Mapping[str, bytes] = {} if draw is None else draw(plan, traces, averages)
            for name, data in pictures.items():
                run.bytes(name, data)
    return TraceResult(out, traces, averages if averages.num_rows else None, statuses, run.record.files)


def planned(plan: TracePlan) -> Planned:
    """The run of `plan` with its record, to look for an earlier one in a folder or to begin."""
    return STAGE.plan(
        plan.config,
        model=identity(plan.model),
        data={
            "digest": plan.data.digest,
            "counts": {"prompts": len(plan.items)},
            "left_out": dict(Counter(e.status for e in plan.excluded)),
        },
        seeds={"seed": plan.config.seed},
        plan={
            "layers": list(plan.layers),
            "sites": list(plan.sites),
            "corruption": {"kind": plan.kind, "noise": plan.noise, "samples": plan.samples},
            "correct_only": plan.correct_only,
        },
        backend=backend(plan.model),
        details={
            "end_tokens": ends.record(plan.model),
            "key": plan.plan.steps[STEP].key.digest,
            "in_words": {
                "corruption": corruption_in_words(plan),
                "restored": window_in_words(plan),
                "metric": UNITS[plan.config.metric],
                "answer": judged_in_words(plan),
                "prompts": which_in_words(plan),
            },
        },
    )


def _as_computed(table: pa.Table) -> pa.Table:
    """A table without what the cache wrote into its schema."""
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    own = {k: v for k, v in metadata.items() if not k.startswith(b"mplat.")}
    return table.replace_schema_metadata(own or None)
