"""What every test can rely on: one thread a process, no network, an empty cache, fixed randomness, real records.

Real records are used where they are present and skipped, saying so, where they are not: `MPLAT_SHARED_DATA`, or
`../shared/data` beside the repository.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import numpy as np
    from mplat.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent

# torch, transformers and Ray read these when they are imported, which no test file has done yet.
os.environ.setdefault("OMP_NUM_THREADS", "1")
THREADS = int(os.environ["OMP_NUM_THREADS"])
SLOW_TIMEOUT_S = 900  # a machine of continuous integration takes twice as long as an idle one
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # a test waits for its workers, and computes nothing meanwhile

# The same examples in every run: a failure here is a failure on the next machine too.
settings.register_profile("mplat", deadline=None, derandomize=True, database=None)
settings.load_profile("mplat")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked slow has time. Under pytest-xdist a file stays in one process, and everything that starts Ray runs
    one after another."""
    for item in items:
        if item.get_closest_marker("slow") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    # stable: those on kept actors one after another, so that they need one Ray, and all of Ray's first, which take long
    items.sort(key=lambda item: (not _uses_kept_actors(item), not _starts_ray(item)))
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("ray" if _starts_ray(item) else str(item.path)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported and collected stays to the end: the collector of garbage need not look at it again and again,
    which takes a third of the time where many objects are made."""
    if getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError(  # each fixture of a file would be made in two processes, and Ray started in both
            f"pytest-xdist does not group tests under pytest {pytest.__version__}; install what constraints.txt says"
        )
    gc.collect()
    gc.freeze()


def _starts_ray(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("ray", "multinode"))


def _uses_kept_actors(item: pytest.Item | None) -> bool:
    """Whether it works on the Ray that stays for the next test."""
    return "ray_workers" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Every other test finds this process without a Ray."""
    if _uses_kept_actors(item) and not _uses_kept_actors(nextitem):
        import kept_actors

        kept_actors.let_go()


@pytest.fixture
def ray_workers() -> Callable[[int], Session]:
    """A session of one or two workers under Ray, the same ones for all tests that ask for them one after another."""
    from kept_actors import kept_actors

    return kept_actors


@pytest.fixture(autouse=True)
def _same_randomness() -> None:
    """Seeds are arguments everywhere; this covers what a test draws without one. It imports nothing for that."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A test that computes with more threads leaves one: with two, small operations of later tests wait for each other,
    and take fifty times as long where tests run side by side."""
    yield
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != THREADS:
        sys.modules["torch"].set_num_threads(THREADS)


@pytest.fixture
def rng() -> np.random.Generator:
    """Draws that no other test has a part in, whichever ran before."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache; processes that they start inherit this."""
    os.environ["MPLAT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real records; the test is skipped, visibly, where it does not exist."""
    folder = Path(os.environ.get("MPLAT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real records not present: set MPLAT_SHARED_DATA to their folder")
    return folder
