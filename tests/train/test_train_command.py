"""`mplat train` from the outside: one JSON object, exit codes, and signals that lose nothing."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time

import pytest
from mplat.commands import main
from mplat.train import checkpoint, loop
from mplat.train.loss import StepLoss

FAST = [
    "--arch", "mamba2", "--size", "nano", "--set", "batch_size=2", "--set", "sequence_length=32",
    "--set", "evaluation.prompts_per_level=1", "--set", "schedule.warmup_steps=1",
]  # fmt: skip


def run(capsys, *words):
    code = main(["train", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_prints_one_json_object_and_progress_elsewhere(tmp_path, capsys):
    out = str(tmp_path / "run")
    code, stdout, stderr = run(capsys, *FAST, "--data", "facts", "--set", "steps=5", "--out", out, "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert (result["steps"], result["tokens"], result["skipped_steps"]) == (5, 5 * 2 * 32, 0)
    assert "step 5: exact match level 1" in stderr and "mamba2, 2 layers, d_model 64" in stderr
    # the same command again continues, which here means: has nothing left to do
    code, stdout, stderr = run(capsys, *FAST, "--data", "facts", "--set", "steps=5", "--out", out, "--json")
    assert code == 0 and json.loads(stdout)["model_digest"] == result["model_digest"], stderr
    assert "continuing after step 5" in stderr


DIVERGING = [*FAST, "--set", "optimizer.learning_rate=1e30", "--set", "steps=4"]


def test_a_diverged_run_ends_with_1_and_counts_the_skipped_steps(tmp_path, capsys):
    out = str(tmp_path / "run")
    code, stdout, stderr = run(capsys, *DIVERGING, "--out", out)
    assert code == 1
    assert "answer loss not finite" in stdout and "model: not exported" in stdout
    error = stderr.strip().splitlines()[-1]
    assert error.startswith("error: training diverged: 3 of 4 steps were skipped") and "no model is exported" in error
    code, stdout, _ = run(capsys, *DIVERGING, "--out", out, "--json")
    result = json.loads(stdout)
    assert code == 1 and result["model"] is None and result["metrics"]["answer_loss"] is None
    assert result["fault"] == error.removeprefix("error: ")


def test_a_few_skipped_steps_are_mentioned_and_no_failure(tmp_path, capsys, monkeypatch):
    real, calls = loop.accumulate_gradients, []

    def broken_once(*arguments):
        loss = real(*arguments)
        calls.append(1)
        return StepLoss(float("nan"), None) if len(calls) == 2 else loss

    monkeypatch.setattr(loop, "accumulate_gradients", broken_once)
    code, stdout, _ = run(capsys, *FAST, "--set", "steps=4", "--out", str(tmp_path / "run"))
    assert code == 0
    assert "1 of 4 steps was skipped because its loss or gradient was not finite\n" in stdout
    assert "(digest " in stdout


def test_dry_run_says_what_would_happen_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    code, stdout, _ = run(capsys, *FAST, "--tokens", "10k", "--seed", "9", "--out", str(out), "--dry-run", "--json")
    plan = json.loads(stdout)
    assert code == 0 and not out.exists()
    assert (plan["steps"], plan["tokens"]) == (157, 157 * 64) and plan["config"]["seed"] == 9
    assert plan["parameters"] > 64 * 1024 and plan["resume_from"] is None


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--arch", "mamba3"], 2, "did you mean 'mamba"),
        (["--size", "tinny"], 2, "did you mean 'tiny'"),
        (["--set", "optimizer.learningrate=1"], 2, "learning_rate"),
        (["--tokens", "10X"], 2, "10M, 250k"),
        (["--data", "nowhere.jsonl.zst"], 3, "nowhere.jsonl.zst: cannot be read"),
        (["--resume", "nowhere"], 3, "no checkpoint there"),
        (["nowhere.yaml"], 2, "nowhere.yaml"),
    ],
)
def test_mistakes_end_with_their_exit_code(tmp_path, capsys, words, code, message):
    got, stdout, stderr = run(capsys, *words, "--out", str(tmp_path / "run"), "--json")
    assert got == code and message in stderr, stderr
    assert json.loads(stdout)["error"]["exit_code"] == code


def test_a_truncated_file_ends_with_3(tmp_path, capsys):
    import zstandard

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "abc"}\n' * 1000)[:-6])
    code, _, stderr = run(capsys, *FAST, "--data", str(path), "--out", str(tmp_path / "run"))
    assert code == 3 and f"{path}: cut off at byte {path.stat().st_size}" in stderr


@pytest.mark.parametrize("name", ["tiny-mamba", "tiny-mamba2"])
def test_shipped_configurations_are_valid(root, tmp_path, capsys, name):
    words = [str(root / "configs" / "train" / f"{name}.yaml"), "--out", str(tmp_path), "--dry-run", "--json"]
    code, stdout, stderr = run(capsys, *words)
    assert code == 0, stderr
    plan = json.loads(stdout)
    assert plan["config"]["model"]["arch"] == name.removeprefix("tiny-") and plan["parameters"] < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_the_state_and_names_the_command_that_continues(tmp_path, root, signal_sent, code):
    out = tmp_path / "run"
    words = [*FAST, "--set", "steps=100000", "--set", "checkpoint.every=0", "--out", str(out), "-q", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mplat", "train", *words], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        log = out / "log.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 3):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal_sent)
        stdout, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert f"stopped by {signal_sent.name} after step" in stderr and "the state is saved" in stderr
    assert stderr.endswith(f"continue with: mplat train {out}/config.yaml --out {out} -q --json\n")
    assert json.loads(stdout)["error"]["resume_command"] in stderr
    found = checkpoint.latest(out / "checkpoints", pytest.fail)
    assert found is not None
    stopped_at = checkpoint.step_of(found)
    assert f"after step {stopped_at} of 100000" in stderr
    assert checkpoint.read_trainer(found)["step"] == stopped_at >= 3


@pytest.mark.slow
def test_a_closed_terminal_saves_the_state(tmp_path, root):
    """The kernel says SIGHUP, and every word to the terminal is an error from then on."""
    out = tmp_path / "run"
    words = [*FAST, "--set", "steps=100000", "--set", "checkpoint.every=0", "--out", str(out)]
    here, terminal = os.openpty()

    def own_the_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which tests started by nohup would pass on as ignored
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [sys.executable, "-m", "mplat", "train", *words], cwd=root, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True, preexec_fn=own_the_terminal, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        os.close(terminal)
        log, deadline = out / "log.jsonl", time.monotonic() + 90
        try:
            while not (log.exists() and log.read_text().count("\n") >= 3):
                assert process.poll() is None and time.monotonic() < deadline, os.read(here, 4096)
                time.sleep(0.05)
            os.close(here)
            assert process.wait(timeout=90) == 75
        finally:
            process.kill()
    assert checkpoint.step_of(checkpoint.latest(out / "checkpoints", pytest.fail)) >= 3
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
