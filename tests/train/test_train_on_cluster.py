"""`mplat train --address` on a cluster of two hosts: stopped, continued, and one killed in the middle of it."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
import yaml
from mplat.train import train
from mplat.train.log import read_log
from ray_nodes import Cluster
from train_runs import config

pytestmark = [pytest.mark.ray, pytest.mark.multinode, pytest.mark.slow]

STEPS = 16
# an evaluation at every step, so that steps are not over before something happens to them
RUN = {"steps": STEPS, "device": "cpu", "threads": 1, "checkpoint": {"every": 2}, "evaluation": {"every": 1}}


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_log(folder / "log.jsonl") if line["kind"] == "train"]


def wait_for_step(step, folder, process):
    """Until the log has the step."""
    log, deadline = folder / "log.jsonl", time.monotonic() + 400
    while not (log.is_file() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no step {step} in {log}"
        time.sleep(0.05)


def test_a_run_on_a_cluster_is_stopped_continued_and_outlives_a_node(tmp_path):
    train(config(**RUN), tmp_path / "alone")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config(**RUN).model_dump(mode="json")))
    run = tmp_path / "run"
    # Ray counts a dead node in for a while: two workers find no place once, and after these seconds one is tried
    with Cluster(hosts=True, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="5") as cluster, ExitStack() as commands:
        second = cluster.add_node()
        words = [sys.executable, "-m", "mplat", "train", str(tmp_path / "run.yaml"), "--out", str(run), "--json"]
        words += ["--address", cluster.address, "--workers", "1-2", "--max-failures", "2"]

        def command():
            pipe = subprocess.PIPE
            process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=cluster.environment)
            commands.callback(process.kill)
            return process

        began = command()
        wait_for_step(2, run, began)
        began.send_signal(signal.SIGINT)
        _, said = began.communicate(timeout=400)
        assert began.returncode == 130 and "the state is saved" in said, said
        assert "workers: 2, each with a copy" in said and re.search(rf"train: \d+/{STEPS} steps", said), said
        assert f"--address {cluster.address}" in said, said

        done = losses(run)[-1][0]
        again = command()
        wait_for_step(done + 3, run, again)
        cluster.kill_node(second)
        result, said = again.communicate(timeout=400)
        assert again.returncode == 0, said
        assert f"continuing after step {done} from" in said and "1 of them go on from the last checkpoint" in said, said
        assert json.loads(result)["steps"] == STEPS
        assert not [name for name in run.iterdir() if name.name.startswith(".")]
    ours, alone = losses(run), losses(tmp_path / "alone")
    assert [step for step, _ in ours] == [step for step, _ in alone] == list(range(1, STEPS + 1))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in alone], rel=1e-6)
