"""`mplat train`: train a model from scratch, or continue; parses, builds the configuration, calls the loop, says what
happened."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError, UsageError, suggest
from ..core.plain_text import duration
from .frame.command import command
from .frame.options import ConfigFile, DryRun, Fresh, Json, Out, Overrides, Quiet, Verbose, as_path, given
from .frame.output import Output

if TYPE_CHECKING:
    from ..core.config import FromOption
    from ..train.loop import TrainResult
    from ..train.observe import StepReport
    from .frame.output import Progress


@command("train", order=30)
def train(
    settings_file: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", parser=as_path, help="YAML file with settings; configs/train has examples."),
    ] = None,
    arch: Annotated[str | None, typer.Option("--arch", help="Architecture, such as mamba or mamba2.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Size, such as nano, tiny or 130m.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="facts|FILE", help="The facts world, or texts as .jsonl, .txt, .csv, .parquet."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="10M", help="Tokens to train on: 250k, 10M, 1B.")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            metavar="auto|never|FOLDER",
            help="Continue the run in --out, refuse to, or continue from FOLDER.",
        ),
    ] = "auto",
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    out: Out = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Everything random follows from it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Train a model: resumable, with evaluation, a metrics log and a Hugging Face folder at the end."""
    # Before torch is imported: threads that wait for others sleep instead of spinning. Beside another busy program
    # spinning makes two threads several times slower than one; alone it gains nothing measurable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from ..core.config import load_config
    from ..train.train_config import TrainConfig

    if config is not None and settings_file is not None:
        raise UsageError(f"two configuration files, {settings_file} and --config {config}; give one")
    chosen = _as_overrides(arch, size, data, tokens, seed)
    settings = load_config(TrainConfig, config or settings_file, [*chosen, *overrides])
    folder = out or Path("runs") / f"train-{settings.model.arch}-{settings.model.size}"
    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    if dry_run:
        _plan(settings, folder, fresh, output)
        return

    from ..train.loop import train as run_training

    with ExitStack() as stack:
        result = run_training(settings, folder, resume=resume, fresh=fresh, observer=_Console(output, stack))
    values = {
        "out": str(result.out),
        "model": None if result.model_folder is None else str(result.model_folder),
        "model_digest": result.model_digest,
        "steps": result.steps,
        "tokens": result.tokens,
        "skipped_steps": result.skipped_steps,
        "loss": result.final_loss,
        "metrics": result.metrics,
        "best_step": result.best_step,
        "best_score": result.best_score,
        "fault": result.fault,
    }
    output.result(values, _text(result))
    if result.fault is not None:
        raise ToleranceError(result.fault)


def _as_overrides(
    arch: str | None, size: str | None, data: str | None, tokens: str | None, seed: int | None
) -> list[FromOption]:
    """The command's own options as settings."""
    from ..core.config import FromOption

    chosen = [
        *given({"model.arch": arch, "model.size": size}, {"model.arch": "--arch", "model.size": "--size"}),
        *([FromOption("--tokens", "steps", None)] if tokens is not None else []),
        *given({"tokens": tokens, "seed": seed}),
    ]
    if data is None:
        return chosen
    from ..train.data import source_names

    names = source_names()
    if data in names:
        return [*chosen, FromOption("--data", "data.source", data)]
    if not data.strip() or (not Path(data).exists() and not Path(data).suffix and len(Path(data).parts) == 1):
        raise UsageError(f"--data {data!r}: neither a file nor a source of data; {suggest(data, names)}")
    source, paths = FromOption("--data", "data.source", "text"), FromOption("--data", "data.text.paths", [data])
    return [*chosen, source, paths]


def _plan(settings: Any, folder: Path, fresh: bool, output: Output) -> None:
    """What the command would do, found out without writing anything."""
    from ..train import checkpoint
    from ..train.run_folder import RunFolder
    from ..train.setup import prepare

    run = RunFolder(folder)
    run.check_same_run(settings.resolved(), fresh=fresh)
    setup = prepare(settings, run, dry_run=True)
    found = None if fresh else checkpoint.latest(run.checkpoints, output.warn)
    parameters = setup.count_parameters()
    from ..train.estimate import estimate

    cost = estimate(setup)
    lines = [
        *setup.lines(),
        f"parameters: {parameters:,}",
        f"time: about {duration(cost.seconds)} in one process; memory: about {cost.memory_bytes / 2**30:.2g} GiB",
        f"estimated: {cost.how}",
        f"out: {folder}" + (f", continuing from {found.name}" if found else ""),
    ]
    values = {
        "out": str(folder),
        "parameters": parameters,
        "cost": cost._asdict(),
        "steps": settings.total_steps,
        "tokens": settings.total_steps * settings.tokens_per_step,
        "resume_from": str(found) if found else None,
        "config": settings.resolved().model_dump(mode="json"),
    }
    output.result(values, "\n".join(lines))


def _text(result: TrainResult) -> str:
    from ..train.divergence import skipped_words

    skipped = f"{skipped_words(result.skipped_steps, result.steps)}\n" if result.skipped_steps else ""
    digest = "" if result.model_digest is None else f" (digest {result.model_digest[:12]})"
    return (
        f"trained {result.steps:,} steps, {result.tokens:,} tokens: {_metrics(result.metrics)}\n{skipped}"
        f"model: {result.model_folder or 'not exported'}{digest}\n"
        f"log and loss curve: {result.out}"
    )


def _metrics(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in metrics.items())


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


class _Console:
    """Shows a run on the terminal through the command's output."""

    def __init__(self, output: Output, stack: ExitStack) -> None:
        self._output, self._stack = output, stack
        self._progress: Progress | None = None

    def begin(self, first_step: int, total_steps: int, lines: list[str]) -> None:
        for line in lines:
            self._output.say(line)
        # Counted from where this process begins: the time left is then that of the steps it really does.
        title = f"train from step {first_step}" if first_step else "train"
        self._progress = self._stack.enter_context(self._output.progress(title, total_steps - first_step, "steps"))

    def step(self, report: StepReport) -> None:
        loss = "not finite, step skipped" if report.loss is None else f"{report.loss:.4f}"
        answer = "" if report.answer_loss is None else f" (answers {report.answer_loss:.4f})"
        assert self._progress is not None
        self._progress.advance(1, f"loss {loss}{answer}, lr {report.lr:.2e}, {report.tokens_per_second:,.0f} tokens/s")

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self._output.say(f"step {step}: {_metrics(metrics)}")

    def note(self, text: str) -> None:
        self._output.say(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)
