"""The training loop: a plain function of a configuration and a folder. Knows no Ray, prints nothing.

Promises: N steps in one go, and N/2 steps, a stop, and N/2 more, give the same weights bit for bit (same machine,
threads and versions); a run that is killed at any moment continues from its last whole checkpoint; a step whose loss
or gradient is not finite changes nothing and is counted; a model whose weights or evaluation are not finite is not
exported, and the result says why. Several processes (`processes`) go through these steps together and share the rows
of each batch, with the same numbers up to rounding; the first of them evaluates for all, writes and speaks.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.config import dump_config
from ..core.errors import InputError, UsageError
from ..core.observer import Observer
from ..core.whole_files import publish_bytes, sha256_of
from ..models.low_rank import merge
from ..runtime.stop import StopRequest
from . import checkpoint
from .average import averaged, update_average
from .checkpoint_writer import CheckpointWriter
from .curve import draw_loss_curve
from .data import Batch, DataSource, Evaluation, batches
from .divergence import advice, fault, what_is_not_finite
from .export import export
from .log import MetricsLog
from .loss import accumulate_gradients
from .milestones import milestones
from .observe import StepReport, tell_evaluation, tell_progress, tell_step
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .parallel import Parallel, whole
from .precision import Precision
from .processes import ALONE, Processes
from .run_folder import RunFolder, planned
from .samples import samples
from .setup import Setup, prepare, sections
from .speed import Meter
from .start import starting_checkpoint
from .tracked_log import TrackedLog
from .train_config import TrainConfig, differing_fields

if TYPE_CHECKING:
    from ..models import LanguageModel

MAX_SKIPPED_IN_A_ROW = 20


@dataclass
class Progress:
    """What changes from step to step besides weights and moments; stored in every checkpoint."""

    step: int = 0  # finished steps; also the whole state of the sampler
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_step: int | None = None
    best_score: float | None = None
    last_loss: float | None = None
    last_answer_loss: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `fault` says in a sentence why it is no success; a number that is not finite is None."""

    out: Path
    model_folder: Path | None  # None where no model was fit to be exported
    model_digest: str | None
    steps: int
    tokens: int
    skipped_steps: int
    final_loss: float | None
    metrics: dict[str, float | None]
    best_step: int | None
    best_score: float | None
    fault: str | None = None


class Run:
    """A run in progress: the pieces that every part of the loop needs."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        observer: Observer,
        stop: StopRequest,
        writer: CheckpointWriter,
        processes: Processes = ALONE,
    ) -> None:
        self.setup, self.folder, self.observer, self.stop, self.writer = setup, folder, observer, stop, writer
        self.processes = processes
        self.config: TrainConfig = setup.config
        self.source: DataSource = setup.source
        self.model: LanguageModel = setup.build_model()
        self.parallel = Parallel(self.model, processes, sharded=self.config.workers.fsdp)
        self.optimizer = build_optimizer(self.model, self.config)
        self.precision: Precision = setup.precision
        self.meter = Meter(self.model, self.precision.autocast)
        self.rows = processes.broadcast(
            setup.micro_batch_size
        )  # what fits may be found out, and not the same each time
        self.progress = Progress()
        self.last_evaluation: Evaluation | None = None
        self.evaluated_step: int | None = None
        self.saved_step: int | None = None

    def save(self) -> None:
        """Write a checkpoint of this moment unless there is one, then drop the oldest; both while training goes on."""
        snapshot = None
        if self.saved_step != self.progress.step and (self.processes.first or self.parallel.sharded):
            trainer: dict[str, Any] = asdict(self.progress) | {
                "evaluation": self._metrics_now(),
                "config": self.config.model_dump(mode="json"),
                "data_digest": self.source.digest,
                "tokenizer_digest": self.source.tokenizer.digest,
            }
            snapshot = checkpoint.Snapshot.take(self.model, self.optimizer, trainer)
        self.saved_step = self.progress.step
        keep = set(milestones(self.config.checkpoint.per_decade, self.progress.step))
        keep |= set() if self.progress.best_step is None else {self.progress.best_step}
        if self.processes.first:
            self.writer.write(snapshot, self.config.checkpoint.keep_latest_k, keep)

    def _metrics_now(self) -> dict[str, float | None] | None:
        """Of the evaluation at this very step; None where there was none."""
        if self.last_evaluation is None or self.evaluated_step != self.progress.step:
            return None
        return _finite_or_none(self.last_evaluation.metrics)

    def restore(self, path: Path, *, same_run: bool) -> None:
        """Continue from a checkpoint; one of this very run must agree in data and configuration."""
        trainer = checkpoint.restore(path, self.model, self.optimizer)
        for name, ours in (("data", self.source.digest), ("tokenizer", self.source.tokenizer.digest)):
            if trainer[f"{name}_digest"] != ours:
                text = f"checkpoint {path} was trained with other {name}"
                if same_run:
                    raise UsageError(f"{text}; restore the former {name}, or start anew with --fresh")
                self.observer.warn(text)
        differing = differing_fields(self.config, trainer["config"])
        if differing:
            self.observer.warn(f"checkpoint {path} was made with another configuration: {', '.join(differing)} differ")
        self.progress = Progress(**{name: trainer[name] for name in asdict(Progress()) if name in trainer})
        if not same_run:  # its best checkpoint lies in another folder
            self.progress.best_step = self.progress.best_score = None
        self.saved_step = self.progress.step if same_run else None
        self.observer.say(f"continuing after step {self.progress.step} from {path}")

    def train_step(self, batch: Batch) -> StepReport:
        """One optimizer step on `batch`."""
        started = time.perf_counter()
        progress, config = self.progress, self.config
        rate = learning_rate(config, progress.step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss = accumulate_gradients(self.model, batch, self.rows, self.precision, config.cross_entropy, self.parallel)
        norms = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm or math.inf)
        norm = whole(norms).item()
        # Loss and gradients are sums over all processes, so that all of them skip a step or none.
        skipped = not (loss.finite and math.isfinite(norm))
        if skipped:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        else:
            self.optimizer.step()
            if config.ema is not None:
                update_average(self.optimizer, config.ema)
            progress.skipped_in_a_row = 0
        progress.step += 1
        progress.tokens += batch.weights.numel()
        progress.last_loss = loss.loss if loss.finite else None
        answers = loss.answer_loss
        progress.last_answer_loss = answers if answers is not None and math.isfinite(answers) else None
        return StepReport(
            progress.step,
            progress.last_loss,
            progress.last_answer_loss,
            norm if math.isfinite(norm) else None,
            rate,
            progress.tokens,
            skipped,
            *self.meter.measured(
                batch.weights.numel(), time.perf_counter() - started, config.total_steps - progress.step
            ),
        )

    def evaluate(self, log: MetricsLog | None) -> None:
        """Evaluate, log, and save a checkpoint where it is the best so far.

        Every process does it, which takes no longer than waiting for the first; that one's numbers count for all."""
        progress, asked = self.progress, self.config.evaluation
        with torch.no_grad(), averaged(self.optimizer, asked.averaged):
            model = self.parallel.to_look_at(self.setup.build_model).eval()
            evaluation = Evaluation(**self.processes.broadcast(asdict(self.source.evaluate(model))))
            if log is not None:
                log.write("eval", progress.step, _finite_or_none(evaluation.metrics))
                for sample in samples(
                    model, self.source.tokenizer, asked.samples, asked.sample_tokens, self.config.seed
                ):
                    log.write("sample", progress.step, sample)
        self.model.train()
        tell_evaluation(self.observer, progress.step, evaluation.metrics)
        self.last_evaluation, self.evaluated_step = evaluation, progress.step
        # Exact match is a finite 0 for a model that says nothing but NaN, so every number has to be finite.
        finite = all(map(math.isfinite, (evaluation.score, *evaluation.metrics.values())))
        if finite and evaluation.better_than(progress.best_score):
            progress.best_step, progress.best_score = progress.step, evaluation.score
            self.save()

    def steps(self, log: MetricsLog | None) -> None:
        """All remaining steps."""
        config, progress, total = self.config, self.progress, self.config.total_steps
        kept = set(milestones(config.checkpoint.per_decade, total))
        self.model.train()
        with closing(batches(self.source, progress.step, total, reset=config.data.reset)) as stream:
            for batch in stream:
                report = self.train_step(batch)
                due = report.step % config.log_every == 0 or report.step == total or report.skipped
                if log is not None and due:
                    values = asdict(report)
                    log.write("train", values.pop("step"), values)
                tell_step(self.observer, report, total)
                self._check_skipped()
                self.writer.check()
                if report.step in kept or _due(config.evaluation.every, report.step, total):
                    self.evaluate(log)
                if report.step in kept or _due(config.checkpoint.every, report.step, total):
                    self.save()
                asked = self.processes.largest(self.stop.signal or 0)
                if asked and report.step < total:
                    self.stop.signal = signal.Signals(asked)
                    self.save()
                    self.writer.wait()
                    self.processes.barrier()  # before any of them ends, which may end all
                    raise self.stop.error(
                        f"stopped by {self.stop.signal.name} after step {report.step} of {total}; the state is saved",
                        self.folder.continue_command,
                    )

    def _check_skipped(self) -> None:
        if self.progress.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"loss or gradient was not finite in {self.progress.skipped_in_a_row} steps in a row, up to step "
                f"{self.progress.step}; {advice(self.config)}. The checkpoints before it are whole"
            )


def train(
    config: TrainConfig, out: Path, *, resume: str = "auto", fresh: bool = False, observer: Observer | None = None
) -> TrainResult:
    """Train a model as `config` says, in folder `out`, and export it to `out/model` unless it is not finite.

    resume: "auto" continues the run in `out` where there is one; "never" refuses a folder that holds one; a path is a
    checkpoint or run folder to continue from, whose configuration may differ. fresh: delete the run in `out` first.
    Raises StoppedEarly (75; 130 after Ctrl-C) when stopped by a signal, with the state saved.
    """
    folder = RunFolder(out)
    prepare(config, folder, dry_run=True)  # mistakes show before anything is written
    with planned(config).begin(out, observer=observer, fresh=fresh) as record, StopRequest() as stop:
        if config.workers.fewest > 1:
            record.observer.warn(f"workers.count is {config.workers.count}, but all is done in this process")
        result = train_in(folder, config, record.observer, record.update, stop, resume=resume)
    assert result is not None
    return result


def train_in(
    folder: RunFolder,
    config: TrainConfig,
    observer: Observer,
    record: Callable[..., None],
    stop: StopRequest,
    *,
    resume: str = "auto",
    processes: Processes = ALONE,
    device: str | None = None,
) -> TrainResult | None:
    """The work of `train` in a folder that is locked for it already, in each of the processes that share it.

    record: takes sections of the run's record. device: instead of the configuration's. The first process returns the
    result, the others None.
    """
    config, start = config.resolved(), None
    if not processes.first:
        observer = Observer()
    with torch.random.fork_rng(), CheckpointWriter(folder.checkpoints) as writer:
        if processes.first:
            checkpoint.sweep(folder.checkpoints)
            start = starting_checkpoint(folder, resume, observer)
            publish_bytes(dump_config(config).encode(), folder.config)
        start = processes.broadcast(None if start is None else str(start))
        with processes.after_the_first():
            setup = prepare(config, folder, dry_run=False, workers=processes.world_size, device=device)
        torch.manual_seed(config.seed)
        run = Run(setup, folder, observer, stop, writer, processes)
        if start is not None:
            run.restore(Path(start), same_run=Path(start).parent.resolve() == folder.checkpoints.resolve())
        if processes.first:
            record(**sections(setup, run.model))
        for line in setup.lines():
            observer.say(line)
        for line in setup.cautions(run.model):
            observer.warn(line)
        tell_progress(observer, run.progress.step, config.total_steps, resumed=run.progress.step)
        tracked = TrackedLog(config, folder.path, run.progress.step, observer) if processes.first else None
        with closing(tracked) if tracked is not None else nullcontext() as log:
            run.steps(log)
            if run.last_evaluation is None:  # continued after the last step, whose evaluation is in the log
                run.evaluate(None)
            run.save()
        writer.wait()
        if not processes.first:
            return None
        result = _finish(run)
    # the sentence names folders, and run.json does not depend on where it lies
    outcome = {k: v for k, v in asdict(result).items() if k not in ("out", "model_folder", "fault")}
    weights = [] if result.model_folder is None else sorted(result.model_folder.glob("*.safetensors"))
    record(
        model={"digest": result.model_digest},
        counts={"steps": result.steps, "tokens": result.tokens, "skipped_steps": result.skipped_steps},
        files={path.relative_to(folder.path).as_posix(): sha256_of(path.read_bytes()) for path in weights},
        details={"outcome": "finished" if result.fault is None else "diverged", "result": outcome},
    )
    return result


def _due(every: int, step: int, total: int) -> bool:
    return step == total or (every > 0 and step % every == 0)


def _finite_or_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _finish(run: Run) -> TrainResult:
    """Export the model if it is fit for that, draw the curve."""
    config, folder, progress = run.config, run.folder, run.progress
    if run.parallel.sharded:  # this process has a share; the checkpoint just written has all
        run.model = run.setup.build_model()
        run.optimizer = build_optimizer(run.model, config)
        checkpoint.restore(folder.checkpoints / f"step-{progress.step:08d}", run.model, run.optimizer)
    dtype = getattr(torch, config.export.dtype)
    metrics = run.last_evaluation.metrics if run.last_evaluation else {}
    with averaged(run.optimizer, config.export.averaged):
        clauses = what_is_not_finite(run.model, dtype, metrics)
    wrong, fit = fault(clauses, progress.skipped, progress.step), not clauses
    if config.export.weights == "best" and progress.best_step not in (None, progress.step):
        checkpoint.restore(folder.checkpoints / f"step-{progress.best_step:08d}", run.model, run.optimizer)
        with averaged(run.optimizer, config.export.averaged):
            fit = not what_is_not_finite(run.model, dtype, {})  # its evaluation was, or it would not be the best
    digest = None
    if fit:
        merge(run.model)
        chosen_by = run.source.questions() if config.export.weights == "best" else []
        place = run.source.tokenizer.folder
        with averaged(run.optimizer, config.export.averaged):
            digest = export(run.model, config.export.dtype, place, folder.model, chosen_by=chosen_by)
    elif folder.model.exists():  # of an earlier call, with other export settings: not what this run ended with
        shutil.rmtree(folder.model)
    if wrong is not None:
        kept = "the exported model may be of no use" if fit else "no model is exported"
        wrong = f"{wrong}; {kept}, the checkpoints in {folder.checkpoints} are kept; {advice(config)}"
    draw_loss_curve(folder.log, folder.curve, f"{config.name}, {config.data.source}")
    return TrainResult(
        folder.path,
        folder.model if fit else None,
        digest,
        progress.step,
        progress.tokens,
        progress.skipped,
        progress.last_loss,
        _finite_or_none(metrics),
        progress.best_step,
        progress.best_score,
        wrong,
    )
