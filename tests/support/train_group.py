"""Processes that train together without Ray, as tests start them; not a test file.

`python train_group.py STORE RANK WORLD JOBS`: JOBS is a JSON list of [folder, config, keyword arguments of `Stop`].
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parent


def run_group(
    store: Path, world_size: int, jobs: list[tuple[Path, dict[str, Any], int]], timeout_s: float = 300
) -> None:
    """Train `jobs`, each (folder, configuration, step to stop after or 0), one after the other in `world_size`
    processes; raises where one of these fails."""
    text = json.dumps([(str(folder), config, stop) for folder, config, stop in jobs])
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", ""), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, str(SUPPORT / "train_group.py"), str(store), str(rank), str(world_size), text],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        failed = [p.communicate(timeout=timeout_s)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(p.returncode for p in processes), "\n".join(failed)


def _main(store: str, rank: str, world_size: str, jobs: str) -> None:
    import torch
    import torch.distributed as dist
    from mplat.core.errors import StoppedEarly
    from mplat.core.observer import Observer
    from mplat.runtime.stop import StopRequest
    from mplat.train.loop import train_in
    from mplat.train.processes import TorchProcesses
    from mplat.train.run_folder import RunFolder
    from mplat.train.train_config import TrainConfig

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world_size))
    processes = TorchProcesses(torch.device("cpu"))

    class StopAfter(Observer):
        """A SIGTERM in the first process alone."""

        def report(self, part: str, values: Any) -> None:
            if part == "step" and values["step"] == step:
                stop.signal = signal.SIGTERM

    for folder, values, step in json.loads(jobs):
        stop = StopRequest()
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            train_in(
                RunFolder(Path(folder)),
                TrainConfig.model_validate(values | {"threads": 1}),
                StopAfter(),
                lambda **sections: None,
                stop,
                processes=processes,
            )
            assert not step, "the run was not stopped"
        except StoppedEarly as error:
            assert f"after step {step} of" in str(error)
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
