"""MLflow: a run of an experiment at MLFLOW_TRACKING_URI, or where mlflow keeps them without one."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from ..tracker import TrackedRun, tracker


@tracker("mlflow")
class Mlflow:
    """mlflow keeps every number that it is given, so that steps that it has are not told again."""

    package: ClassVar[str] = "mlflow"

    def __init__(self, run: TrackedRun) -> None:
        self._client: Any = import_module("mlflow.tracking").MlflowClient()
        known = run.known_as("mlflow")
        if known is None:
            experiment = self._client.get_experiment_by_name(run.project)
            place = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
            self._id: str = self._client.create_run(place, run_name=run.name).info.run_id
            run.is_known_as("mlflow", self._id)
        else:
            self._id = known
            self._client.update_run(known, status="RUNNING")
        self._has = 0 if known is None else run.told_step

    def write(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        if step > self._has:
            entities, now = import_module("mlflow.entities"), round(time.time() * 1000)
            metrics = [entities.Metric(_name(name), value, now, step) for name, value in numbers.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _name(name: str) -> str:
    """Without what mlflow refuses in names."""
    return re.sub(r"[^\w/ .-]", "_", name)
