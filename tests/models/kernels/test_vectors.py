"""The vector operations under the numba kernels, and what keeps their compiled form up to date."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from mplat.models.kernels.compiled import threads

numba = pytest.importorskip("numba")
import numpy as np  # noqa: E402
from mplat.core import compiled_loops  # noqa: E402
from mplat.models.kernels.compiled import greedy_loops, simd, simd_lanes, simd_rows  # noqa: E402
from mplat.models.kernels.conv import conv_loops  # noqa: E402
from mplat.models.kernels.scan import scan_loops  # noqa: E402
from mplat.models.kernels.ssd import ssd_loops  # noqa: E402
from mplat.models.kernels.step import step_loops  # noqa: E402


@numba.njit
def exp_of(values, found, lanes):
    for i in range(0, values.size, lanes):
        simd.store(found, i, simd.exp(simd.load(values, i)))


@numba.njit
def total_of(values):
    return simd.total(simd.load(values, 0))


@pytest.mark.parametrize(("dtype", "lanes", "smallest"), [(np.float32, 16, -87.3), (np.float64, 8, -708.3)])
def test_exp_is_within_two_units_in_the_last_place(dtype, lanes, smallest):
    values = np.concatenate([np.linspace(smallest, 0, 1 << 16), np.linspace(0, 80, 1 << 12)]).astype(dtype)
    found = np.empty_like(values)
    exp_of(values, found, lanes)
    exact = np.exp(values.astype(np.longdouble))
    assert np.max(np.abs(found - exact) / np.spacing(exact.astype(dtype))) <= 2


@pytest.mark.parametrize(("dtype", "lanes"), [(np.float32, 16), (np.float64, 8)])
def test_exp_at_its_ends(dtype, lanes):
    values = np.array([0.0, -0.0, -1e-30, -np.inf, -1e30, np.nan, 1e30, np.inf], dtype)
    found = np.empty(16, dtype)
    exp_of(np.concatenate([values, values]), found, lanes)
    assert np.array_equal(found[:8], np.array([1, 1, 1, 0, 0, np.nan, np.inf, np.inf], dtype), equal_nan=True)


@numba.njit
def silu_and_softplus_of(values, silu, softplus, lanes):
    for i in range(0, values.size, lanes):
        simd.store(silu, i, simd_lanes.silu(simd.load(values, i), values))
        simd.store(softplus, i, simd_lanes.softplus(simd.load(values, i), values))


@pytest.mark.parametrize(("dtype", "lanes"), [(np.float32, 16), (np.float64, 8)])
def test_silu_and_softplus_lane_by_lane(dtype, lanes):
    values = np.concatenate([np.linspace(-80, 80, 1 << 16), np.linspace(-1e-3, 1e-3, 1 << 10)]).astype(dtype)
    silu, softplus = np.empty_like(values), np.empty_like(values)
    silu_and_softplus_of(values, silu, softplus, lanes)
    x = values.astype(np.longdouble)
    for found, exact in ((silu, x / (1 + np.exp(-x))), (softplus, np.logaddexp(x, 0))):
        error = np.abs(found - exact) / np.spacing(np.abs(exact).astype(dtype))
        assert np.max(error) <= 4
    ends = np.array([-np.inf, np.inf, np.nan, 0, -1e30, 1e30, 0, 0] * 2, dtype)
    silu, softplus = np.empty_like(ends), np.empty_like(ends)
    silu_and_softplus_of(ends, silu, softplus, lanes)
    np.testing.assert_array_max_ulp(softplus[[0, 1, 3, 4, 5]], np.array([0, np.inf, np.log(2), 0, 1e30], dtype), 1)
    assert np.isnan(softplus[2])


def test_total_adds_every_lane_once():
    assert total_of(np.arange(16, dtype=np.float32)) == 120
    assert total_of(2.0 ** np.arange(8)) == 255


def test_the_compiled_loops_name_the_vector_operations_they_were_built_from():
    """If this fails after an edit of `simd` or `simd_rows`: put the new digest into the loop files."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (simd, simd_rows))
    digest = hashlib.sha256(sources).hexdigest()[:16]
    assert {m.VECTOR_SOURCES for m in (conv_loops, scan_loops, ssd_loops, step_loops, simd_lanes)} == {digest}
    sources += Path(str(simd_lanes.__file__)).read_bytes()
    assert hashlib.sha256(sources).hexdigest()[:16] == greedy_loops.VECTOR_SOURCES


def test_a_place_without_a_writable_cache_still_compiles(monkeypatch):
    real = numba.njit

    def njit(function, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled_loops.compiled(lambda n: n + 1)(41) == 42


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_task_runs_once_and_errors_come_back(count, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    seen = []

    def note(first: int, last: int, offset: int) -> None:
        seen.extend(range(first + offset, last + offset))

    threads.run_tasks(note, 10, 5)
    assert sorted(seen) == list(range(5, 15))

    def fail(first: int, last: int) -> None:
        if last == 10:
            raise ValueError("the last range")

    with pytest.raises(ValueError, match="the last range"):
        threads.run_tasks(fail, 10)
