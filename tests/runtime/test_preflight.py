"""What a node of a cluster lacks is said before anything is given to it, or it gets a copy: with real nodes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_stages import content, inputs, words
from mplat.commands import main
from mplat.core.errors import ClusterError
from mplat.diagnosis import diagnose_nodes
from mplat.runtime import Session, WorkerFactory, open_session, run_table
from mplat.runtime.copy_keeper import PIECE_BYTES
from mplat.runtime.record import read_run
from ray_nodes import Cluster, can_hide
from shard_workers import SCHEMA, items

pytestmark = [pytest.mark.ray, pytest.mark.multinode, pytest.mark.slow]

SUPPORT = Path(__file__).resolve().parent.parent / "support"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the driver's machine alone."""
    folder = tmp_path_factory.mktemp("private")
    if not can_hide(folder):
        pytest.skip("this user may not mount anything")
    return folder


@pytest.fixture(scope="module")
def cluster(private: Path) -> Iterator[Cluster]:
    """A head without CPUs, and a node that does not see `private`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SUPPORT))
        with Cluster(head_cpus=0) as cluster:
            cluster.add_node(hidden=private)
            for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
                patch.setenv(name, cluster.environment[name])
            yield cluster


@pytest.fixture(scope="module")
def session(cluster: Cluster) -> Iterator[Session]:
    """One for all: `--address auto` is this process's Ray while it is open."""
    with open_session(cluster.address, actors=1, connect_timeout_s=120) as session:
        yield session


def table(session: Session, out: Path, factory: WorkerFactory) -> set[str]:
    """What the workers say, of each row."""
    made = run_table(
        "test", items(8), factory, out_dir=out, session=session, batch_size=2, sort_by=["id"], schema=SCHEMA,
        semantic_key={},
    )  # fmt: skip
    return set(made["status"].to_pylist())


def copy_of(session: Session, factory: WorkerFactory) -> Path:
    """Where the only node has the only file of `factory`."""
    ready = session.make_ready(factory)
    assert ready is not None
    ((copy,),) = (copies.values() for copies in ready.copies().values())
    return Path(copy)


def test_f32_a_file_of_the_driver_alone_is_sent_and_swept(session: Session, private: Path, tmp_path: Path) -> None:
    file = private / "large"
    file.write_bytes(os.urandom(2 * PIECE_BYTES + 5))
    factory = WorkerFactory("shard_workers:make_reading", {"path": str(file)}, {str(file): [str(file)]})
    assert table(session, tmp_path, factory) == {hashlib.sha256(file.read_bytes()).hexdigest()}
    copy = copy_of(session, factory)
    assert copy.read_bytes() == file.read_bytes()
    assert session.connection is not None and session.connection.preflight is not None
    session.connection.preflight.close()
    assert not copy.exists()
    assert not [path for path in copy.parents if path.name.startswith("mplat-") and path.exists()]


def test_f32_a_copy_or_keeper_that_was_lost_is_replaced(
    cluster: Cluster, session: Session, private: Path, tmp_path: Path
) -> None:
    folder = private / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    (folder / "left").write_bytes(b"not read, so not sent")
    name = str(folder / "weights")
    factory = WorkerFactory("shard_workers:make_reading", {"path": name}, {name: [name]})
    right = {hashlib.sha256(b"w").hexdigest()}
    assert table(session, tmp_path / "first", factory) == right
    copy = copy_of(session, factory)
    copy.unlink()
    assert table(session, tmp_path / "second", factory) == right
    assert copy.read_bytes() == b"w" and [path.name for path in copy.parent.iterdir()] == ["weights"]
    (keeper,) = (p for p in cluster.processes(1) if "CopyKeeper" in " ".join(p.cmdline()))
    keeper.kill()
    (folder / "weights").write_bytes(b"v")
    assert table(session, tmp_path / "third", factory) == {hashlib.sha256(b"v").hexdigest()}
    assert not copy.exists(), "the next keeper has swept what the dead one left"


def test_f32_what_is_not_sent_is_said_with_the_node_and_who_sees_the_folder_is_noted(
    session: Session, private: Path, tmp_path: Path
) -> None:
    data = private / "data.txt"
    data.write_text("far too large")
    with pytest.raises(ClusterError, match=rf"^1 of 1 nodes .*: node \S+ \([0-9.]+\): does not see {data}; copy it"):
        table(session, tmp_path, WorkerFactory("shard_workers:make", needs=[str(data)]))
    for folder, seen in ((private, False), (tmp_path, True)):
        here = dataclasses.replace(session, record=folder / "run.json")
        here.make_ready(WorkerFactory("shard_workers:make"))
        assert [*here.describe()["sees_the_folder"].values()] == [seen]
        assert not list(folder.glob(".*"))
    with pytest.raises(ClusterError, match=rf"does not see the folder {private}; name one with --out that every node"):
        here = dataclasses.replace(session, record=private / "run.json")
        here.make_ready(WorkerFactory("shard_workers:make"), shared=True)


def test_f32_the_doctor_asks_every_node(
    session: Session, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(private)
    head, node = sorted(diagnose_nodes("auto"), key=lambda check: check.found)
    assert head.status == "ok" and head.found.startswith("0 CPUs, ") and head.found.endswith(f"; sees {private}")
    assert node.status == "warn" and node.found.startswith("1 CPUs, ")
    assert node.found.endswith(f"; the same sources; does not see {private}") and "--out" not in node.advice


def test_f32_commands_get_what_can_be_sent_and_are_refused_without_the_rest(
    session: Session,
    private: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # that of this process
    place = inputs(private)
    outs = [tmp_path / "here", tmp_path / "there"]
    for out, address in zip(outs, ("none", "auto"), strict=True):
        assert main([*words("perplexity", place, out), "--quiet", "--address", address]) == 0
    here, there = map(content, outs)
    assert here == there and here
    backend = read_run(outs[1]).backend
    assert backend is not None and backend.session is not None
    assert [*backend.session["sees_the_folder"].values()] == [True]
    assert main([*words("tokenize", place, tmp_path / "out"), "--quiet", "--address", "auto"]) == 4
    assert f"does not see {place / 'texts.jsonl'}; copy it there" in capsys.readouterr().err
    assert main([*words("train", place, private / "run"), "--quiet", "--address", "auto", "--workers", "1"]) == 4
    assert f"does not see the folder {private / 'run'}; name one with --out" in capsys.readouterr().err


def test_f31_every_node_without_mplat_is_named_before_a_worker_starts(
    cluster: Cluster, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "mplat").mkdir()
    (tmp_path / "mplat" / "__init__.py").write_text("raise ImportError('not for this machine')\n")
    path = os.pathsep.join([str(tmp_path), cluster.environment["PYTHONPATH"]])
    node = cluster.add_node(PYTHONPATH=path)
    try:
        with pytest.raises(ClusterError, match="not for this machine") as caught:
            table(session, tmp_path / "out", WorkerFactory("shard_workers:make"))
    finally:
        cluster.kill_node(node)
    said = str(caught.value)
    assert re.match(
        r"1 of 2 nodes cannot do this work: node \S+ \([0-9.]+\): cannot import mplat \(ImportError: ", said
    )
    assert said.endswith("; install the same mplat and Python there") and "\n" not in said
