"""What a model's folder says of its training: after how many steps and tokens its weights are what they are.

A checkpoint of `mplat train` says it in `trainer.json`, a trained model in the `run.json` of the run that it lies in, a
shipped one in `training.yaml`, the settings that it was trained with to the end. Other folders say nothing.

    runs/x@1000     the checkpoint of step 1000 of the run in runs/x
    runs/x@*        every checkpoint of it, oldest first
    runs/x@100..2000:3     of those between two steps every third
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import InputError, UsageError
from ...core.json_files import read_object
from ...core.yaml_source import read

_CHECKPOINT, _RUN, _SETTINGS = "trainer.json", "run.json", "training.yaml"


@dataclass(frozen=True)
class TrainingRecord:
    """step, tokens: optimizer steps and tokens that the weights have seen; None where the folder does not say.

    train_loss, held_out_loss: nats a token at this step, of its last batch and of the run's own held-out set (of
    answers alone where the data have such); None where the checkpoint was not evaluated.
    """

    step: int | None
    tokens: int | None
    train_loss: float | None = None
    held_out_loss: float | None = None


def training_record(folder: Path) -> TrainingRecord | None:
    """What `folder` says; None where it says nothing that can be read: a model is loaded without it too."""
    try:
        return _of_checkpoint(folder) or _of_settings(folder) or _of_run(folder)
    except (InputError, UsageError):
        return None


def _of_checkpoint(folder: Path) -> TrainingRecord | None:
    if not (folder / _CHECKPOINT).is_file():
        return None
    trainer = read_object(folder / _CHECKPOINT)
    metrics = trainer.get("evaluation")
    held_out = metrics.get("answer_loss", metrics.get("loss")) if isinstance(metrics, dict) else None
    answers = trainer.get("last_answer_loss")
    train = trainer.get("last_loss") if answers is None else answers
    return TrainingRecord(_count(trainer.get("step")), _count(trainer.get("tokens")), _number(train), _number(held_out))


def _of_settings(folder: Path) -> TrainingRecord | None:
    if not (folder / _SETTINGS).is_file():
        return None
    settings: Any = read(folder / _SETTINGS).data
    if not isinstance(settings, dict):
        return None
    steps, rows, length = (_count(settings.get(name)) for name in ("steps", "batch_size", "sequence_length"))
    return TrainingRecord(steps, None if steps is None or rows is None or length is None else steps * rows * length)


def _of_run(folder: Path) -> TrainingRecord | None:
    beside = folder.parent / _RUN
    if folder.name != "model" or not beside.is_file():
        return None
    record = read_object(beside)
    counts = record.get("counts")
    if record.get("command") != "train" or not isinstance(counts, dict):
        return None
    return TrainingRecord(_count(counts.get("steps")), _count(counts.get("tokens")))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def checkpoint_folder(name: str) -> Path | None:
    """The folder that `RUN@STEP` names; None for a name of another form.

    Raises InputError, naming the steps that there are, where the run has no such checkpoint.
    """
    found = re.fullmatch(r"(.+)@(\d+)", name)
    run = Path(found[1]).expanduser() if found else Path()
    if found is None or not (run / "checkpoints").is_dir():
        return None
    there = _steps(run)
    folder = there.get(int(found[2]))
    if folder is None:
        known = ", ".join(map(str, there)) or "none"
        raise InputError(f"{name}: the run has no checkpoint of step {found[2]}; it has {known}")
    return folder


def each_model(name: str) -> list[str]:
    """`RUN@*` as the names of all checkpoints of the run, oldest first; another name as it is.

    Raises InputError where the run has none.
    """
    if not name.endswith("@*"):
        return [name]
    run = name.removesuffix("@*")
    steps = _steps(Path(run).expanduser())
    if not steps:
        raise InputError(f"{name}: {run} holds no checkpoints; name the folder of a training run")
    return [f"{run}@{step}" for step in steps]


def checkpoints_of(selection: str) -> list[tuple[int, str]]:
    """Steps and names (`RUN@STEP`) of checkpoints of a run, oldest first: all of `RUN` or `RUN@*`, those of a range of
    steps `RUN@100..2000` (an end may be left out), and of these every third, `RUN@100..2000:3` or `RUN@*:3`.

    Raises UsageError for a selection of another form, InputError where the run has no checkpoints, or none of these.
    """
    run, at, chosen = selection.rpartition("@")
    if not at or Path(selection).expanduser().is_dir():
        run, chosen = selection, "*"
    found = re.fullmatch(r"(?:\*|(\d+)|(\d*)\.\.(\d*))(?::([1-9]\d*))?", chosen)
    if found is None or not run:
        raise UsageError(
            f"checkpoints {selection!r}: name a run, RUN@100..2000 for a range of its steps, or RUN@*:3 for every third"
        )
    folders = (Path(run).expanduser() / "checkpoints").glob("step-*")  # damaged ones too: whoever loads them says so
    numbers = (folder.name.removeprefix("step-") for folder in folders if folder.is_dir())
    there = sorted(int(number) for number in numbers if number.isdecimal())
    if not there:
        raise InputError(f"{selection}: {run} holds no checkpoints; name the folder of a training run")
    single, low, high, every = found.groups()
    first, last = int(single or low or 0), int(single or high or there[-1])
    inside = [step for step in there if first <= step <= last][:: int(every or 1)]
    if not inside:
        raise InputError(f"{selection}: no checkpoint of these steps; the run has {', '.join(map(str, there))}")
    return [(step, f"{run}@{step}") for step in inside]


def _steps(run: Path) -> dict[int, Path]:
    found = (run / "checkpoints").glob("step-*/config.json")
    named = {int(path.parent.name.removeprefix("step-")): path.parent for path in found
             if path.parent.name.removeprefix("step-").isdecimal()}  # fmt: skip
    return dict(sorted(named.items()))
