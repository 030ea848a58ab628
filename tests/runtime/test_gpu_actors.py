"""Workers with GPUs: where they are placed, what they see, and who is refused. Ray is told of GPUs that are not there.

That the numbers of a real GPU are right is what `models` is tested for where there is one.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from command_stages import content, inputs, words
from mplat.commands import main
from mplat.core.errors import MplatError, UsageError
from mplat.core.whole_files import table_bytes
from mplat.runtime import Session, WorkerFactory, idle_actors, open_session, run_table
from mplat.runtime.installation import GPU, difference, installation, processor
from mplat.runtime.ray_actor import ShardActor
from mplat.runtime.record import read_run
from ray_nodes import Cluster
from shard_workers import SCHEMA, items

SUPPORT = Path(__file__).resolve().parent.parent / "support"


def table(session: Session, folder: Path, **arguments: Any) -> pa.Table:
    return run_table(
        "test", items(12), WorkerFactory("shard_workers:make_seer", arguments), out_dir=folder, session=session,
        batch_size=3, sort_by=["id"], schema=SCHEMA, semantic_key={},
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_f30_workers_see_their_share_of_the_gpus_and_what_never_fits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "seen"
    with open_session("none") as here:
        right = table(here, tmp_path / "right")
    place = inputs(tmp_path)
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    assert main([*words("perplexity", place, tmp_path / "here"), "--quiet", "--address", "none"]) == 0
    with Cluster(head_cpus=2, gpus=2, PYTHONPATH=f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}") as cluster:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, cluster.environment[name])
        with open_session(cluster.address, actors=2, gpus_per_actor=1) as session:
            assert table_bytes(table(session, tmp_path / "whole", seen=str(log))) == table_bytes(right)
            assert set(log.read_text().split()) == {"0", "1"}, "one card each"
            for gpus, seen in ((0.5, {"0", "1"}), (0, {"nothing"})):  # other workers, those that are up see other cards
                log.unlink()
                other = replace(session, gpus_per_actor=gpus)
                assert table_bytes(table(other, tmp_path / f"{gpus}", seen=str(log))) == table_bytes(right)
                assert set(log.read_text().split()) <= seen
            with pytest.raises(UsageError, match=r"2 actors with 1 threads and 1.5 GPUs each: .* whole number"):
                open_session(cluster.address, actors=2, gpus_per_actor=1.5)
            session.connection.idle.end()  # those that are up were compared when they were made
            with monkeypatch.context() as patched:  # the driver's card is not the worker's, which has none
                patched.setattr(torch.cuda, "is_available", lambda: True)
                patched.setattr(torch.cuda, "get_device_name", lambda index: "Card A")
                with pytest.raises(MplatError, match=r"on node .* GPU is not known there and Card A here; use"):
                    table(session, tmp_path / "other")
        with pytest.raises(
            UsageError, match=r"3 actors with 1 CPU and 1 GPU each do not fit: 2 can be placed .* 2 GPU"
        ):
            open_session(cluster.address, actors=3, gpus_per_actor=1)
        where = ["--quiet", "--address", cluster.address, "--gpus-per-actor", "0.5", "--actors", "2"]
        assert main([*words("perplexity", place, tmp_path / "there"), *where]) == 0
    assert content(tmp_path / "there") == content(tmp_path / "here")
    backend = read_run(tmp_path / "there" / "run.json").backend
    assert backend is not None and backend.session is not None and backend.session["gpus_per_actor"] == 0.5


def test_f31_another_kind_of_gpu_is_another_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GPU not in installation() and GPU not in installation(gpu=True), "there is none here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card A")
    here = installation(gpu=True)
    assert difference(here, here) is None
    assert difference({**here, GPU: "Card B"}, here) == "GPU is Card B there and Card A here; use nodes of one kind"


CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu sse avx avx2 avx512f

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu
"""


def test_f31_the_kind_of_processor_is_what_libraries_choose_their_code_by(tmp_path: Path) -> None:
    (tmp_path / "intel").write_text(CPUINFO)
    (tmp_path / "arm").write_text("CPU implementer\t: 0x41\nFeatures\t: fp asimd sve\n")
    assert processor(tmp_path / "intel").endswith(" GenuineIntel avx512f")
    assert processor(tmp_path / "arm").endswith(" 0x41 sve")
    assert processor(tmp_path / "nothing").startswith(platform.machine())
    here = installation()
    there = here | {"the processor": processor(tmp_path / "arm")}
    sentence = difference(there, here)
    assert sentence is not None and re.fullmatch(
        "the processor is .* sve there and .* here; use nodes of one kind", sentence
    )


def test_gpus_of_workers_need_ray() -> None:
    with pytest.raises(UsageError, match=r"^0.5 GPUs for each worker need Ray; .* --device alone says where"):
        open_session("none", gpus_per_actor=0.5)


def test_idle_workers_are_used_again_with_their_own_threads_and_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    ray = SimpleNamespace(is_initialized=lambda: True, kill=lambda handle, no_restart: ended.append(handle))
    monkeypatch.setattr(idle_actors, "ray", ray)
    idle = idle_actors.IdleActors()
    for shape in ((1, 0.5), (1, 1), (2, 0.5)):
        idle.give(f"of {shape}", *shape)
    assert idle.take(1, 0.5) == "of (1, 0.5)" and ended == ["of (1, 1)", "of (2, 0.5)"]
    assert idle.take(1, 0.5) is None


@pytest.mark.parametrize(("gpus", "visible", "fractions"), [(0, "", []), (0.25, "3", [0.25]), (1, "3", [])])
def test_f30_a_worker_sees_its_own_gpu_and_takes_its_share_of_the_memory(
    gpus: float, visible: str, fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card A")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # which Ray has given it, or shows to all
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    actor = ShardActor(1, installation(gpu=gpus > 0), gpus)
    actor.threads.restore()
    assert actor.failure is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible and taken == fractions
