"""`mplat train`: train a model from scratch, or continue."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError
from .frame.command import command
from .frame.options import as_path
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..train.train_config import TrainConfig


@command("train", order=30, config="train.train_config.TrainConfig", without=("--actors",))
def train(
    typed: Typed[TrainConfig],
    settings_file: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", parser=as_path, help="YAML file with settings; configs/train has examples."),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            metavar="auto|never|FOLDER",
            help="Continue the run in --out, refuse to, or continue from FOLDER.",
        ),
    ] = "auto",
) -> Run:
    """Train a model, new or --from another: resumable, with evaluation, a log and a Hugging Face folder at the end."""
    # Before torch is imported: threads that wait for others sleep instead of spinning. Beside another busy program
    # spinning makes two threads several times slower than one; alone it gains nothing measurable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    typed = typed.from_file(settings_file)
    config = typed.config
    folder = Path("runs") / f"train-{config.name}"
    address = _address(typed.shared.address, config.workers.most)

    from ..train import in_words
    from ..train.run_folder import planned

    def work(at: At) -> Outcome:
        how = {"resume": resume, "fresh": at.fresh, "observer": at.console}
        if address == "none":
            from ..train.loop import train as run_training

            result = run_training(config, at.folder, **how)
        else:
            from ..runtime import open_session
            from ..train.on_workers import train_on_workers

            with open_session(address, actors=1) as session:
                result = train_on_workers(config, at.folder, session, **how)
        return Outcome(in_words.result_values(result), in_words.result_words(result), result.fault)

    described = _describe(typed, typed.shared.out or folder) if typed.shared.dry_run else {}
    return Run(
        work,
        folder=folder,
        check=planned(config).check,
        operations=None,
        unit="steps",
        says_lines=False,  # the loop does
        prepare=lambda out: None,  # so does it make the folder
        **described,
    )


def _address(given: str, workers: int) -> str:
    """Where the steps are done: `none`, this process, for one worker where nothing else was asked for."""
    if given == "none" and workers > 1:
        raise UsageError(f"--workers {workers} need Ray; leave --address none out, or --workers")
    alone = given == "auto" and workers == 1 and not os.environ.get("RAY_ADDRESS")
    return "none" if alone else given


def _describe(typed: Typed[TrainConfig], folder: Path) -> dict[str, Any]:
    """What the command would do, found out without writing anything."""
    from ..train import checkpoint, in_words
    from ..train.estimate import estimate
    from ..train.run_folder import RunFolder
    from ..train.setup import prepare

    run = RunFolder(folder)
    setup = prepare(typed.config, run, dry_run=True, workers=typed.config.workers.most)
    there = None if typed.shared.fresh else checkpoint.latest(run.checkpoints, typed.output.warn)
    parameters = setup.count_parameters()
    lines = in_words.plan_words(setup, parameters)
    if there is not None:
        lines.append(f"continuing from {there.name}")
    plan = in_words.plan_values(setup, parameters, there)
    return {"lines": lines, "plan": plan, "cost": partial(estimate, setup)}
