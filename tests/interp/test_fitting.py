"""The fitter: AdamW's formula in float64, the same bits after being killed, whole checkpoints or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from mplat.core.errors import InputError, ToleranceError, UsageError
from mplat.interp.engine.fitting import Fitted, Minibatch, Schedule, fit, minibatch
from torch import Tensor

X = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3)))
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.25
START = {"weight": torch.zeros(3, dtype=torch.float64), "bias": torch.zeros((), dtype=torch.float64)}
SCHEDULE = Schedule(25, batch_size=4, learning_rate=0.1, weight_decay=0.01, checkpoint_every=5)


def squares(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
    chosen = batch.examples
    return ((X[chosen] @ parameters["weight"] + parameters["bias"] - Y[chosen]) ** 2).mean()


def fitted(folder: Path | None = None, schedule: Schedule = SCHEDULE, seed: int = 0, loss=squares) -> Fitted:
    return fit("line", START, loss, examples=10, schedule=schedule, seed=seed, folder=folder)


def same(a: Fitted, b: Fitted) -> bool:
    return a.losses == b.losses and all(torch.equal(a.parameters[key], b.parameters[key]) for key in START)


def test_updates_are_those_of_adamw() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out."""
    theta, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    x, y = np.concatenate([X.numpy(), np.ones((10, 1))], 1), Y.numpy()
    for step in range(SCHEDULE.steps):
        chosen = minibatch(step, 10, 4, seed=0).examples.numpy()
        gradient = 2 * x[chosen].T @ (x[chosen] @ theta - y[chosen]) / len(chosen)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        theta = theta * (1 - 0.1 * 0.01) - 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    found = fitted()
    assert np.allclose(np.append(found.parameters["weight"].numpy(), found.parameters["bias"]), theta, rtol=1e-12)
    assert found.parameters["weight"].dtype == torch.float64 and not START["weight"].any()


@pytest.mark.parametrize(("examples", "size"), [(10, 4), (7, 7), (3, 5)])
def test_every_example_is_seen_once_in_a_round(examples: int, size: int) -> None:
    per_round = -(-examples // size)
    orders = [
        torch.cat([minibatch(step, examples, size, 1).examples for step in range(r * per_round, (r + 1) * per_round)])
        for r in range(3)
    ]
    assert all(Counter(order.tolist()) == Counter(range(examples)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) > 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_fitting

def loss(parameters, batch):
    if batch.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return test_fitting.squares(parameters, batch)

test_fitting.fitted(Path(sys.argv[1]), loss=loss)
"""


@pytest.mark.slow
def test_what_was_killed_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    steps: list[int] = []

    def counted(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        steps.append(batch.step)
        return squares(parameters, batch)

    assert same(fitted(tmp_path, loss=counted), fitted())
    assert steps == list(range(10, 25))  # from the last checkpoint on
    assert sorted(path.name for path in (tmp_path / "line").iterdir()) == [
        "checkpoint-00000025.safetensors",
        "fit.json",
    ]
    steps.clear()
    assert same(fitted(tmp_path, loss=counted), fitted()) and steps == []


def test_neither_threads_nor_checkpoints_change_a_bit(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        several = fitted(tmp_path, Schedule(25, 4, 0.1, 0.01, checkpoint_every=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert same(several, fitted()) and not same(several, fitted(seed=1))


@pytest.mark.parametrize("name", ["fit.json", "checkpoint-00000025.safetensors"])
def test_a_damaged_checkpoint_is_told_of_and_begins_again(name: str, tmp_path: Path) -> None:
    fitted(tmp_path)
    path = tmp_path / "line" / name
    path.write_bytes(path.read_bytes()[:-5])
    notes: list[str] = []
    again = fit("line", START, squares, examples=10, schedule=SCHEDULE, seed=0, folder=tmp_path,
                progress=lambda progress: notes.append(progress.note))  # fmt: skip
    assert same(again, fitted()) and "is damaged; the fit begins again" in notes[0]


def test_a_parameter_that_the_loss_does_not_use_stays_and_is_resumed(tmp_path: Path) -> None:
    start = START | {"unused": torch.ones(2)}
    short, long = (Schedule(steps, 4, checkpoint_every=3) for steps in (3, 6))

    def stops(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        if batch.step == 4:
            raise KeyboardInterrupt
        return squares(parameters, batch)

    with pytest.raises(KeyboardInterrupt):
        fit("line", start, stops, examples=10, schedule=long, seed=0, folder=tmp_path)
    found = fit("line", start, squares, examples=10, schedule=long, seed=0, folder=tmp_path)
    whole = fit("line", start, squares, examples=10, schedule=long, seed=0)
    assert same(found, whole) and torch.equal(found.parameters["unused"], torch.ones(2))
    with pytest.raises(InputError, match="fit with other arguments"):
        fit("line", start, squares, examples=10, schedule=short, seed=0, folder=tmp_path)


def test_the_learning_rate_rises_and_falls_in_straight_lines_and_moves_a_parameter_by_as_much() -> None:
    schedule = Schedule(10, 4, learning_rate=0.1, warm_up=4, decay=5)
    wanted = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02]
    assert [schedule.rate(step) for step in range(10)] == pytest.approx(wanted, abs=1e-15)
    seen: list[float] = []

    def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        seen.append(float(parameters["bias"].detach()))
        return -parameters["bias"] + 0 * parameters["weight"].sum()  # a constant slope: Adam moves by the rate itself

    end = float(fitted(schedule=schedule, loss=loss).parameters["bias"])
    assert np.diff([*seen, end]) == pytest.approx(wanted, rel=1e-6)


def test_a_hook_behind_each_update_is_part_of_what_is_resumed(tmp_path: Path) -> None:
    """It keeps a norm, and counts in a parameter that no gradient reaches."""
    start = {"weight": torch.ones(3, dtype=torch.float64), "bias": START["bias"], "steps": torch.zeros(())}

    def after(parameters: Mapping[str, Tensor], batch: Minibatch) -> None:
        parameters["weight"].div_(parameters["weight"].norm())
        parameters["steps"].add_(1.0)

    def stops(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        assert batch.step == 0 or float(parameters["weight"].detach().norm()) == pytest.approx(1.0, abs=1e-15)
        if batch.step == 13 and stop:
            raise KeyboardInterrupt
        return squares(parameters, batch)

    def run(folder: Path | None) -> Fitted:
        return fit("line", start, stops, examples=10, schedule=SCHEDULE, seed=0, folder=folder, after=after)

    stop = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    stop = False
    whole, resumed = run(None), run(tmp_path)
    assert same(whole, resumed) and float(resumed.parameters["steps"]) == 25
    assert not same(whole, fit("line", start, squares, examples=10, schedule=SCHEDULE, seed=0))


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(ToleranceError, match="'line': the loss of step 2 is not finite"):
        fitted(loss=lambda p, b: squares(p, b) / (0.0 if b.step == 2 else 1.0))
    with pytest.raises(UsageError, match="must be positive"):
        fitted(schedule=Schedule(0))
    with pytest.raises(UsageError, match="must be positive"):
        fitted(schedule=Schedule(5, warm_up=-1))
