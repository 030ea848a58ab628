"""`mplat refine` from settings to files: a corpus cut into chunks, scored by two models, and the best part written.

    plan = prepare(RefineConfig(data=(Path("pile.jsonl.zst"),), reference="small", teacher="large", keep=0.5))
    with open_session("none") as session:
        result = refine(plan, out=Path("runs/refined"), session=session)

Writes into `out`: kept.jsonl.zst (a corpus again), scores.parquet (a row for every chunk), manifest.json (models, data,
share, threshold, counts of every set), run.json, and below work/ the ledgers and parts by which an interrupted run
continues. All files are the same, byte for byte, wherever and on however many workers they are made. The corpus is held
in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..core.errors import InputError, UsageError
from ..datasets.readers.pile import Reading, read
from ..models.decoding.scored_texts import first_token
from ..models.lending import files_of, label, lent, opens
from ..models.provenance import backend, computation_key, identity
from ..runtime import Session, digest_of
from ..runtime.stage import Observer, Planned, Run, Stage
from . import refine_worker
from .chunks import Chunk, cut_documents
from .kept_texts import kept_records, packed_lines
from .refine_config import RefineConfig
from .refine_worker import CHUNK_ORDER, CHUNK_SCHEMA
from .scored_chunks import Per, score_chunks
from .set_counts import SetCounts, count_sets, nats_per_byte

if TYPE_CHECKING:
    from ..models import LanguageModel

STAGE = Stage(
    "refine",
    results=("kept.jsonl.zst", "scores.parquet", "manifest.json"),
    by_content={"data", "reference", "teacher", "reference_tokenizer", "teacher_tokenizer", "fail_over"},
    data_is="documents",
)


@dataclass(frozen=True)
class RefinePlan:
    """What will be scored, and by which models."""

    config: RefineConfig
    reference: LanguageModel
    teacher: LanguageModel
    reading: Reading
    chunks: list[Chunk]

    @property
    def same_model(self) -> bool:
        """Whether both are one: every score is then 0."""
        return self.reference.digest == self.teacher.digest and self.reference.dtype == self.teacher.dtype

    @cached_property
    def per(self) -> Per:
        """What a score is of: a token, as in the paper, where both models have the same ones; else a byte."""
        ours, theirs = self.reference.tokenizer, self.teacher.tokenizer
        assert ours is not None and theirs is not None
        return "token" if ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str() else "byte"


@dataclass(frozen=True)
class RefineResult:
    """What was kept and where it lies. sets: by name, `all` last; nats_per_byte: of either model over what has a score,
    None where nothing has."""

    out: Path
    sets: list[SetCounts]
    threshold: float | None
    records: int
    status: dict[str, int]
    nats_per_byte: dict[str, float | None]

    @property
    def bad_share(self) -> float:
        """Share of chunks without a score."""
        total = sum(self.status.values())
        return (total - self.status.get("ok", 0)) / total if total else 0.0


def prepare(
    config: RefineConfig, reference: LanguageModel | None = None, teacher: LanguageModel | None = None
) -> RefinePlan:
    """Read the data, open the models and cut. `reference`, `teacher`: opened already, else they are loaded."""
    if not config.data:
        raise UsageError("no data is named; give files or folders of texts")
    for role, model in (("reference", reference), ("teacher", teacher)):
        if model is None and getattr(config, role) is None:
            raise UsageError(f"no {role} is named; give --{role} M (`mplat models` lists those that ship)")
    reading = read(config.data, fail_over=config.fail_over)
    reference = reference or _opened("reference", config)
    teacher = teacher or _opened("teacher", config)
    _check_tokenizer("reference", reference)
    _check_tokenizer("teacher", teacher)
    assert teacher.tokenizer is not None
    chunks = cut_documents(reading.documents, teacher.tokenizer, config.chunk)
    return RefinePlan(config, reference, teacher, reading, chunks)


def refine(
    plan: RefinePlan, *, out: Path, session: Session, fresh: bool = False, observer: Observer | None = None
) -> RefineResult:
    """Run `plan`."""
    with planned(plan).begin(out, session=session, observer=observer, fresh=fresh) as run:
        with lent(plan.reference), lent(plan.teacher):
            small = _likelihoods("reference", plan.reference, plan, run)
            large = small if plan.same_model else _likelihoods("teacher", plan.teacher, plan, run)
        documents = plan.reading.documents
        scored = score_chunks(plan.chunks, documents, small, large, plan.per, plan.config.keep)
        records = list(kept_records(plan.chunks, scored.kept.tolist(), documents))
        statuses = dict(sorted(Counter(scored.table["status"].to_pylist()).items()))
        means = nats_per_byte(scored.table)
        result = RefineResult(out, count_sets(scored.table), scored.threshold, len(records), statuses, means)
        run.table("scores.parquet", scored.table)
        run.bytes("kept.jsonl.zst", packed_lines(records))
        run.json("manifest.json", _manifest(plan, result, run.record.files))
        run.update(counts=statuses)
    return result


def planned(plan: RefinePlan) -> Planned:
    """The run of `plan` with its record, to look for an earlier one in a folder or to begin."""
    return STAGE.plan(
        plan.config,
        data={
            "digest": _data_digest(plan),
            "counts": {"documents": len(plan.reading.documents), "chunks": len(plan.chunks)},
            "left_out": dict(plan.reading.report.bad),
        },
        plan={"reference": _about(plan.reference), "teacher": _about(plan.teacher), "score_per": plan.per},
        backend=backend(plan.teacher),
        details={"first_token": {"reference": first_token(plan.reference), "teacher": first_token(plan.teacher)}},
    )


def _opened(role: str, config: RefineConfig) -> LanguageModel:
    from ..models import load

    return load(getattr(config, role), config.device, config.dtype, tokenizer=getattr(config, f"{role}_tokenizer"))


def _check_tokenizer(role: str, model: LanguageModel) -> None:
    if model.tokenizer is None:
        raise InputError(f"{role} {model.name} has no tokenizer for the texts; name one with --{role}-tokenizer")
    first_token(model)


def _likelihoods(role: str, model: LanguageModel, plan: RefinePlan, run: Run) -> pa.Table:
    """One job of the runtime; chunks of like length are read together."""
    return run.job(
        role, [{"chunk": number, "text": chunk.text} for number, chunk in enumerate(plan.chunks)],
        f"{refine_worker.__name__}:make_worker", opens=opens(model), files=files_of(model), arguments={},
        key=computation_key(model, refine_worker.__name__), schema=CHUNK_SCHEMA, sort_by=CHUNK_ORDER,
        batch_size=plan.config.batch_size, id_column="chunk", lost=lambda item: {},
        lengths=[len(chunk.text.encode()) for chunk in plan.chunks],
    )  # fmt: skip


def _about(model: LanguageModel) -> dict[str, Any]:
    return identity(model) | {"name": label(model)}


def _data_digest(plan: RefinePlan) -> str:
    return digest_of([list(document) for document in plan.reading.documents])


def _manifest(plan: RefinePlan, result: RefineResult, files: dict[str, str]) -> dict[str, Any]:
    report = plan.reading.report
    return {
        "format": "mplat-refined-1",
        "reference": _about(plan.reference),
        "teacher": _about(plan.teacher),
        "data": {
            "digest": _data_digest(plan),
            "files": [path.name for path in report.files],
            "records": report.records,
            "bad": dict(report.bad),
        },
        "chunk": plan.config.chunk,
        "keep": plan.config.keep,
        "score_per": plan.per,
        "threshold": result.threshold,
        "records": result.records,
        "nats_per_byte": result.nats_per_byte,
        "sets": {counts.name: counts.values() for counts in result.sets},
        "status": result.status,
        "files": {name: files[name] for name in ("kept.jsonl.zst", "scores.parquet")},
    }
