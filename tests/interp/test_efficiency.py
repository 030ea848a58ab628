"""What is counted equals what passes count, loops that count themselves, and states that models return."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_zoo import adapted
from interp_jobs import run_step, token_items
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.interp.methods.operations import (
    context_operations,
    like_transformer,
    parts_of,
    scan_operations,
    state_bytes,
)
from mplat.models import LanguageModel
from torch.utils.flop_counter import FlopCounterMode

ITEMS = token_items(4)
ADAPTED = {"gpt2": {}, "jamba": {}, "falcon_h1": {}, "nemotron_h": {}}


@pytest.fixture(params=[*ARCHITECTURES, *ADAPTED])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return adapted(request.param, tmp_path).double() if request.param in ADAPTED else nano(request.param)


def counted(model: LanguageModel, rows: int, width: int) -> int:
    """Operations of a pass in products of matrices, as torch counts them; kernels of scans and attention use others."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens(rows, width))
    found: Counter[str] = Counter()
    for operation, count in counter.get_flop_counts()["Global"].items():
        found[str(operation).rpartition(".")[2]] += count
    return found["mm"] + found["addmm"]


def convolutions(model: LanguageModel) -> int:
    return sum(2 * m.weight.numel() for b in model.blocks for m in b.modules() if isinstance(m, torch.nn.Conv1d))


def implicit_filters(model: LanguageModel) -> int:
    """Of a pass: the network behind each filter, once for every lag."""
    found = 0
    for name, parameter in model.named_parameters():
        if "implicit_filter" in name and name.endswith("weight"):
            found += 2 * parameter.numel() * model.config.own.max_length
    return found


def test_products_are_those_that_a_pass_makes(model: LanguageModel) -> None:
    rows, width = 4, 64  # so many tokens that every expert has some; a few rows of one expert are filled up
    expected = sum(part.products or 0 for part in parts_of(model)) - convolutions(model)
    assert counted(model, rows, width) == rows * width * expected + implicit_filters(model)


def test_parts_add_up_to_the_model(model: LanguageModel) -> None:
    parts = parts_of(model)
    assert sum(part.parameters for part in parts) == model.n_parameters
    assert sum(part.active_parameters for part in parts) == model.n_active_parameters


def test_states_are_as_large_as_those_that_models_return(model: LanguageModel) -> None:
    longest = 70 if model.config.arch == "hyena" else 9  # its record ends at 63 tokens
    for width in (1, 5, longest):
        _, state = model(tokens(1, width), return_state=True)
        assert state_bytes(model, width) == state.n_bytes


class Number:
    """A number that counts what is done with it."""

    done = 0

    def __mul__(self, other: Any) -> Number:
        Number.done += 1
        return Number()

    __add__ = __sub__ = __rsub__ = __mul__

    def exp(self) -> Number:
        Number.done += 1
        return Number()


def step(E: int, N: int, units: int, *, per_number: bool, averaging: bool) -> int:
    """Operations of one step of a recurrence, by doing it."""
    Number.done = 0
    one = Number()
    for u in range(units):
        shared = (one * one).exp() if not per_number else None
        share = 1 - shared if averaging and shared is not None else one  # type: ignore[operator]
        for _ in range(u * E // units, (u + 1) * E // units):
            entering = share * one
            read: Number | None = None
            for _ in range(N):
                decay = shared or (one * one).exp()
                h = decay * one + entering * one
                part = one * h
                read = part if read is None else read + part
            assert read is not None
            _ = read + one * one
    return Number.done


def modal(E: int, modes: int) -> int:
    """The same of complex states: (a + bi)(c + di) is four products, a difference and a sum."""
    Number.done = 0
    one = Number()
    for _ in range(E):
        read: Number | None = None
        for _ in range(modes):
            real, imaginary = one * one - one * one, one * one + one * one
            real = real + one  # the input
            part = one * real - one * imaginary
            read = part if read is None else read + part
        assert read is not None
        _ = read + one * one
    return Number.done


def test_a_recurrence_counts_what_its_steps_do() -> None:
    plain = {"per_number": False, "averaging": False}
    assert scan_operations(nano("mamba").blocks[0]) == step(48, 5, 48, per_number=True, averaging=False)
    assert scan_operations(nano("mamba2").blocks[0]) == step(48, 5, 6, **plain)
    stable = nano("stable_mamba")
    E, units = (stable.blocks[0].zero_state(1, stable.dtype, stable.device)["h"].shape[i] for i in (1, 1))
    P = stable.config.head_dim
    assert scan_operations(stable.blocks[0]) == step(E * P, 5, units, per_number=False, averaging=True)
    assert scan_operations(nano("striped_hyena").blocks[0]) == modal(24, 2)
    both = nano("stable_mamba_attached").blocks[0]
    assert scan_operations(both) > scan_operations(nano("mamba").blocks[0])
    assert [scan_operations(block) for block in nano("hyena").blocks] == [0, 0]


def test_what_is_read_of_the_context_grows_as_defined() -> None:
    assert context_operations(nano("mamba"), 1000) == 0
    assert context_operations(nano("striped_hyena"), 10) == 4 * 24 * 10  # one block of attention
    hyena = nano("hyena")
    assert [context_operations(hyena, n) for n in (10, 64, 999)] == [2 * 2 * 24 * n for n in (10, 64, 64)]
    assert context_operations(nano("dense_mamba"), 10) == 2 * 48 * 5  # one block reads the states of one below
    sparse = nano("stable_mamba")
    share = 1 - sparse.config.own.sparsity
    assert context_operations(sparse, 100) == 2 * 24 * (100 + round(share * 100))


def test_what_blocks_borrow_is_not_counted(tmp_path: Path) -> None:
    zamba = adapted("zamba2", tmp_path)
    tables = run_step("efficiency", zamba, ITEMS, resamples=100)
    parts = tables["parts"].to_pylist()
    assert parts[-1]["parameters"] == zamba.n_parameters and parts[-1]["products"] is None
    assert {row["status"] for row in parts} == {"not_applicable"} == set(tables["contexts"]["status"].to_pylist())


def test_the_transformer_of_like_size_has_its_width_and_number_of_parameters() -> None:
    model = nano("mamba", n_layers=9)
    other = like_transformer(model)
    size = 12 * 24**2 * other.layers + model.embedding.weight.numel()
    assert abs(size - model.n_parameters) <= 6 * 24**2
    assert other.cache_bytes(100, 2) == 2 * other.layers * 100 * 24 * 2


def test_the_step_adds_up_and_counts_active_values() -> None:
    model = nano("mamba2")
    tables = run_step("efficiency", model, ITEMS, resamples=100, contexts=(10, 1000), sites=("mixer_out",))
    parts = tables["parts"].to_pylist()
    assert sum(row["share"] for row in parts[:-1]) == pytest.approx(1) == parts[-1]["share"]
    short, long = tables["contexts"].to_pylist()
    assert short["operations"] == parts[-1]["products"] + parts[-1]["scan"] and short["of_context"] == 0
    assert short["state_bytes"] == long["state_bytes"] and long["ratio"] == pytest.approx(100 * short["ratio"])
    shares, ever = [], np.zeros(24, bool)
    for item in ITEMS:
        with torch.no_grad(), model.capture("blocks.1.mixer_out") as acts:
            model(torch.tensor([item.prompt]))
        size = acts["blocks.1.mixer_out"][0].abs().numpy()
        active = size > 0.1 * np.sqrt((size**2).mean())
        shares.append(active.mean())
        ever |= active.any(0)
    row = tables["active"].to_pylist()[1]
    assert row["active"] == pytest.approx(np.mean(shares)) and row["silent_channels"] == (~ever).sum()
    assert row["active_low"] <= row["active"] <= row["active_high"]
