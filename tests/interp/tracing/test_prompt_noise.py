"""The noise of a trace is the prompt's own: another one's differs, and neither neighbours nor batches change it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.interp.methods.corruption import corrupt
from mplat.interp.tracing import prompt_seed

ITEMS = [dataclasses.replace(item, fact=(1, 3)) for item in token_items(5)]
FEW: dict[str, Any] = {"sites": ("mixer_out",), "distances": (0, 1), "samples": 2}


def noise(id_: str, seed: int = 1, samples: int = 500) -> np.ndarray:
    model = nano("mamba")
    options: dict[str, Any] = {"subject": (1, 3), "noise": 1.0, "samples": samples, "seed": prompt_seed(seed, id_)}
    found = corrupt(model, torch.tensor([1, 2, 3, 4]), **options).noise
    assert found is not None
    return found.flatten().numpy()


def test_a_prompts_seed_is_a_digest_of_the_runs_seed_and_its_id() -> None:
    written = json.dumps([3, "é 1"], ensure_ascii=False, separators=(",", ":")).encode()
    escaped = json.dumps([3, "é 1"], separators=(",", ":")).encode()
    expected = {int(hashlib.sha256(text).hexdigest()[:15], 16) for text in (written, escaped)}
    assert prompt_seed(3, "é 1") in expected
    seeds = {prompt_seed(seed, f"q{i}") for seed in range(3) for i in range(50)}
    assert len(seeds) == 150 and all(0 <= seed < 2**63 for seed in seeds)
    with pytest.raises(UsageError, match="seed must be an integer"):
        prompt_seed(1.5, "q")  # type: ignore[arg-type]


def test_two_prompts_of_equal_shape_have_independent_noise_and_one_prompt_always_the_same() -> None:
    a, b, again, other_run = noise("a"), noise("b"), noise("a"), noise("a", seed=2)
    np.testing.assert_array_equal(a, again)
    bound = 4 / np.sqrt(len(a))  # of a correlation of independent normal draws
    assert abs(np.corrcoef(a, b)[0, 1]) < bound and abs(np.corrcoef(a, other_run)[0, 1]) < bound
    assert a.std() == pytest.approx(1.0, abs=0.05)


def test_noise_averages_out_over_prompts() -> None:
    """The mean over prompts of one draw each has the standard deviation 1 / sqrt(prompts); of a shared draw, 1."""
    mean = np.mean([noise(f"q{i}", samples=4) for i in range(100)], axis=0)
    assert mean.std() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("arch", ["mamba", "hyena"])
def test_a_traced_prompt_does_not_depend_on_its_batch_or_its_neighbours(arch: str) -> None:
    model = nano(arch)

    def effects(items: list[Any], batch_size: int) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for row in run_step("fact_tracing", model, items, batch_size=batch_size, **FEW)[""].to_pylist():
            found.setdefault(row["question_id"], []).append(row["effect"])
        return found

    whole = effects(ITEMS, 3)
    assert effects(ITEMS, 1) == whole and effects(ITEMS[::-1], 5) == whole
    assert effects(ITEMS[2:4], 2) == {id_: whole[id_] for id_ in ("q2", "q3")}
    renamed = dataclasses.replace(ITEMS[0], id="another")
    assert effects([renamed], 1)["another"] != whole["q0"]
