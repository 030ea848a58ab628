"""The folder of one training run: what lies where, and whose run it is.

config.yaml      resolved configuration; `mplat train config.yaml --out FOLDER` continues the run
run.json         configuration, versions, digests, seeds, machine choices, outcome
log.jsonl        metrics         loss_curve.png   drawn at the end
checkpoints/     step-*/         model/           the trained model as a Hugging Face folder
tensorboard/     events          trackers.json    names of this run on servers of experiments
data/            tokenised text, where the source needs it; `--fresh` leaves it
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ..runtime.stage import Planned, Stage
from .train_config import NOT_SEMANTIC, TrainConfig

_CHECKPOINTS = "checkpoints/step-*/manifest.json"


class RunFolder:
    """Paths of a run."""

    def __init__(self, path: Path, address: str | None = None) -> None:
        self.path = path
        self._address = address  # of the cluster that the run was sent to
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.curve = path / "loss_curve.png"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.data = path / "data"

    @property
    def continue_command(self) -> str:
        """The exact command that continues this run."""
        where = "" if self._address is None else f" --address {shlex.quote(self._address)}"
        return f"mplat train {shlex.quote(str(self.config))} --out {shlex.quote(str(self.path))}{where}"


def planned(config: TrainConfig) -> Planned:
    """The run that `config` asks for, to look for an earlier one in a folder or to begin."""
    plan = {"steps": config.total_steps, "tokens_per_step": config.tokens_per_step}
    return STAGE.plan(config.resolved(), seeds={"seed": config.seed}, plan=plan)


def _go_on_from_weights(out: Path) -> str:
    return f" (with --resume {shlex.quote(str(out))} to go on from its weights)" if any(out.glob(_CHECKPOINTS)) else ""


STAGE = Stage(
    "train",
    work=("checkpoints", "model", "config.yaml", "log.jsonl", "loss_curve.png", "tensorboard", "trackers.json"),
    keeps=("data",),
    by_content=NOT_SEMANTIC,
    mark=_CHECKPOINTS,
    hint=_go_on_from_weights,
)
