"""`mplat perplexity` from settings to files: documents read, given to a model, summed up per set.

    plan = prepare(PerplexityConfig(model="tiny-mamba", data=Path("pile_test.jsonl.zst"), limit=20))
    with open_session("none") as session:
        result = measure(plan, out=Path("runs/perplexity"), session=session)

Writes into `out`: run.json (settings, versions, digests), documents.parquet (one row for every document), summary.json
(every set with intervals), and below work/ the ledger and parts by which an interrupted run continues. The table is
the same, byte for byte, wherever and on however many workers it is made. A folder that holds a run of another command
or with other settings is refused; `fresh` deletes an earlier one first, and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..core.config import differing_keys
from ..core.errors import UsageError
from ..core.folder_lock import alone_in
from ..core.folders import RUN_RECORD, earlier_run, refuse_other_settings
from ..core.versions import versions
from ..core.whole_files import write_errors
from ..datasets.readers.pile import PileReport, Reading, read
from ..models.lending import label, lent, loadable
from ..models.provenance import computation_key, kernels
from ..runtime import Progress, Session, WorkerFactory, digest_of, publish_json, replace_table, run_table
from ..scoring.statistics import Resampling
from . import perplexity_worker
from .bits_per_byte import WINDOWS
from .perplexity_config import PerplexityConfig
from .perplexity_summary import SetResult, set_values, summarise
from .perplexity_worker import DOCUMENT_ORDER, DOCUMENT_SCHEMA, about, first_token

if TYPE_CHECKING:
    from ..models import LanguageModel

COMMAND = "perplexity"
_RESULTS = ("documents.parquet", "summary.json")
# Compared by what they hold, or without an influence on any table.
_BY_CONTENT = frozenset({"model", "tokenizer", "data", "fail_over"})


@dataclass(frozen=True)
class PerplexityPlan:
    """What will be read, and with what."""

    config: PerplexityConfig
    model: LanguageModel
    reading: Reading
    window: int

    @property
    def items(self) -> list[dict[str, Any]]:
        """Work for the worker."""
        name = label(self.model)
        return [
            {"document_id": d.id, "set_name": d.set_name, "text": d.text, "model": name} for d in self.reading.documents
        ]


@dataclass(frozen=True)
class PerplexityResult:
    """What was measured and where it lies. sets: by name, `all` last."""

    out: Path
    sets: list[SetResult]
    status: dict[str, int]

    @property
    def bad_share(self) -> float:
        """Share of documents without a value."""
        total = sum(self.status.values())
        return (total - self.status.get("ok", 0)) / total if total else 0.0


def prepare(config: PerplexityConfig, model: LanguageModel | None = None) -> PerplexityPlan:
    """Read the data and open the model. `model`: opened already, else it is loaded."""
    if config.data is None:
        raise UsageError("no data is named; give a file or a folder of texts")
    if config.model is None and model is None:
        raise UsageError("no model is named; give --model M (`mplat models` lists those that ship)")
    reading = read(config.data, limit=config.limit, seed=config.seed, fail_over=config.fail_over)
    if model is None:
        from ..models import load

        assert config.model is not None
        model = load(config.model, dtype=config.dtype, tokenizer=config.tokenizer)
    first_token(model)
    return PerplexityPlan(config, model, reading, config.window or WINDOWS[config.method])


def measure(
    plan: PerplexityPlan,
    *,
    out: Path,
    session: Session,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> PerplexityResult:
    """Run `plan`."""
    check_folder(plan, out, fresh=fresh)
    with alone_in(out):
        if fresh:
            _clear(out)
        for name in _RESULTS:
            (out / name).unlink(missing_ok=True)
        publish_json(_record(plan, session), out / RUN_RECORD)
        with lent(plan.model):
            table = _documents(plan, out, session, fresh, progress)
        config = plan.config
        how = Resampling(config.seed, config.confidence, config.resamples)
        result = PerplexityResult(out, summarise(table, config.method, how), _statuses(table))
        replace_table(table, out / "documents.parquet")
        publish_json(_summary_file(plan, result), out / "summary.json")
    return result


def _documents(
    plan: PerplexityPlan, out: Path, session: Session, fresh: bool, progress: Callable[[Progress], None] | None
) -> pa.Table:
    """One job of the runtime; documents of like length are read together."""
    config, model, items = plan.config, plan.model, plan.items
    arguments = {"method": config.method, "window": plan.window}
    key = {"arguments": arguments, **computation_key(model, perplexity_worker.__name__)}
    folder = digest_of({"key": key, "items": digest_of(items), "batch": config.batch_size})[:12]

    def lost(item: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
        return {**about(dict(item), config.method, plan.window), "status": "worker_lost", "reason": reason}

    return run_table(
        COMMAND,
        items,
        WorkerFactory(
            f"{perplexity_worker.__name__}:make_worker",
            {
                **loadable(model),
                "model_digest": model.digest,
                "dtype": str(model.dtype).removeprefix("torch."),
                **arguments,
            },
        ),
        out_dir=out / "work" / f"documents-{folder}",
        session=session,
        batch_size=config.batch_size,
        sort_by=list(DOCUMENT_ORDER),
        schema=DOCUMENT_SCHEMA,
        semantic_key=key,
        fresh=fresh,
        progress=progress,
        lengths=[d.n_bytes for d in plan.reading.documents],
        id_column="document_id",
        lost_row=lost,
    )


def check_folder(plan: PerplexityPlan, out: Path, *, fresh: bool = False) -> None:
    """Raises UsageError where `out` holds a run of another command or, without `fresh`, one of another plan."""
    earlier = earlier_run(out, COMMAND, fresh=fresh)
    if earlier is None or fresh:
        return
    found = differing_keys(plan.config, earlier["config"], ignored=_BY_CONTENT)
    model = earlier.get("model")
    if not isinstance(model, dict) or (model.get("name"), model.get("digest")) != (plan.model.name, plan.model.digest):
        found.append("the model")
    if earlier.get("documents_digest") != _digest(plan):
        found.append("the documents")
    refuse_other_settings(out, COMMAND, found)


def _clear(out: Path) -> None:
    """Delete what an earlier run wrote, but not the lock that is held."""
    if not (out / RUN_RECORD).is_file():
        return
    with write_errors(out):
        for name in (*_RESULTS, RUN_RECORD):
            (out / name).unlink(missing_ok=True)
        for job in (out / "work").iterdir():
            if job.is_dir():
                shutil.rmtree(job)


def _digest(plan: PerplexityPlan) -> str:
    return digest_of([list(document) for document in plan.reading.documents])


def _statuses(table: pa.Table) -> dict[str, int]:
    counts = {str(entry["values"]): int(entry["counts"]) for entry in table["status"].value_counts().to_pylist()}
    return dict(sorted(counts.items()))


def report_values(report: PileReport) -> dict[str, Any]:
    """The account of the records as plain JSON."""
    sets = {name: {"documents": found.documents, "bytes": found.bytes} for name, found in report.sets.items()}
    bad = dict(report.bad)
    return {"files": [str(path) for path in report.files], "records": report.records, "sets": sets, "bad": bad}


def _summary_file(plan: PerplexityPlan, result: PerplexityResult) -> dict[str, Any]:
    return {
        "format": "mplat-perplexity-1",
        "model": {"name": label(plan.model), "digest": plan.model.digest},
        "method": plan.config.method,
        "window": plan.window,
        "sets": [set_values(found) for found in result.sets],
        "status": result.status,
        "intervals": {
            "confidence": plan.config.confidence,
            "resamples": plan.config.resamples,
            "seed": plan.config.seed,
            "kind": "percentile bootstrap over documents, of the ratio of sums",
        },
        "data": report_values(plan.reading.report),
    }


def _record(plan: PerplexityPlan, session: Session) -> dict[str, Any]:
    """run.json: what is needed to make the run again, and where it was made."""
    return {
        "command": COMMAND,
        "config": plan.config.model_dump(mode="json"),
        "model": {
            "name": plan.model.name,
            "digest": plan.model.digest,
            "arch": plan.model.config.arch,
            "n_parameters": plan.model.n_parameters,
            "dtype": str(plan.model.dtype).removeprefix("torch."),
        },
        "documents_digest": _digest(plan),
        "first_token": first_token(plan.model),
        "kernels": kernels(plan.model),
        "versions": versions(),
        "session": session.describe(),
    }
