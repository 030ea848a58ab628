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

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..core.errors import UsageError
from ..datasets.readers.pile import PileReport, Reading, read
from ..models.decoding.likelihoods import WINDOWS
from ..models.decoding.scored_texts import first_token
from ..models.lending import files_of, label, lent, opens
from ..models.provenance import backend, computation_key, identity
from ..runtime import Session, digest_of
from ..runtime.stage import Observer, Planned, Run, Stage
from ..scoring.statistics import Resampling
from . import perplexity_worker
from .perplexity_config import PerplexityConfig
from .perplexity_summary import SetResult, set_values, summarise
from .perplexity_worker import DOCUMENT_ORDER, DOCUMENT_SCHEMA, about

if TYPE_CHECKING:
    from ..models import LanguageModel

STAGE = Stage(
    "perplexity",
    results=("documents.parquet", "summary.json"),
    by_content={"model", "tokenizer", "data", "fail_over"},
    data_is="documents",
)


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
        model = load(config.model, config.device, config.dtype, tokenizer=config.tokenizer)
    first_token(model)
    return PerplexityPlan(config, model, reading, config.window or WINDOWS[config.method])


def measure(
    plan: PerplexityPlan, *, out: Path, session: Session, fresh: bool = False, observer: Observer | None = None
) -> PerplexityResult:
    """Run `plan`."""
    with planned(plan).begin(out, session=session, observer=observer, fresh=fresh) as run:
        with lent(plan.model):
            table = _documents(plan, run)
        config = plan.config
        how = Resampling(config.seed, config.confidence, config.resamples)
        statuses = dict(sorted(Counter(table["status"].to_pylist()).items()))
        result = PerplexityResult(out, summarise(table, config.method, how), statuses)
        run.table("documents.parquet", table)
        run.json("summary.json", _summary_file(plan, result))
        run.update(counts=statuses)
    return result


def planned(plan: PerplexityPlan) -> Planned:
    """The run of `plan` with its record, to look for an earlier one in a folder or to begin."""
    documents, bad = plan.reading.documents, plan.reading.report.bad
    return STAGE.plan(
        plan.config,
        model=identity(plan.model),
        data={
            "digest": digest_of([list(document) for document in documents]),
            "counts": {"documents": len(documents)},
            "left_out": dict(bad),
        },
        seeds={"seed": plan.config.seed},
        plan={"name_of_the_model": label(plan.model), "window": plan.window},
        backend=backend(plan.model),
        details={"first_token": first_token(plan.model)},
    )


def _documents(plan: PerplexityPlan, run: Run) -> pa.Table:
    """One job of the runtime; documents of like length are read together."""
    method, window = plan.config.method, plan.window
    return run.job(
        "perplexity", plan.items, f"{perplexity_worker.__name__}:make_worker", opens=opens(plan.model),
        files=files_of(plan.model),
        arguments={"method": method, "window": window}, key=computation_key(plan.model, perplexity_worker.__name__),
        schema=DOCUMENT_SCHEMA, sort_by=DOCUMENT_ORDER, batch_size=plan.config.batch_size, id_column="document_id",
        lost=lambda item: about(dict(item), method, window), lengths=[d.n_bytes for d in plan.reading.documents],
    )  # fmt: skip


def report_values(report: PileReport) -> dict[str, Any]:
    """The account of the records as plain JSON."""
    sets = {name: {"documents": count.documents, "bytes": count.bytes} for name, count in report.sets.items()}
    bad = dict(report.bad)
    return {"files": [str(path) for path in report.files], "records": report.records, "sets": sets, "bad": bad}


def _summary_file(plan: PerplexityPlan, result: PerplexityResult) -> dict[str, Any]:
    return {
        "format": "mplat-perplexity-1",
        "model": {"name": label(plan.model), "digest": plan.model.digest},
        "method": plan.config.method,
        "window": plan.window,
        "sets": [set_values(of_set) for of_set in result.sets],
        "status": result.status,
        "intervals": {
            "confidence": plan.config.confidence,
            "resamples": plan.config.resamples,
            "seed": plan.config.seed,
            "kind": "percentile bootstrap over documents, of the ratio of sums",
        },
        "data": report_values(plan.reading.report),
    }
