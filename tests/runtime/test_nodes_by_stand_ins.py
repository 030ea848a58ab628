"""What nodes may answer, or not, and what becomes of it: without Ray, the nodes are stand-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.copies import placed, use_copies
from mplat.core.errors import ClusterError
from mplat.diagnosis import node_check
from mplat.runtime import WorkerFactory, preflight
from mplat.runtime.installation import installation
from mplat.runtime.node_answers import answer, fingerprint
from mplat.runtime.node_questions import Answer, Node
from mplat.runtime.preflight import Preflight

A, B, C = (Node(f"id{name}", f"{name} (10.0.0.{n})", {"CPU": 4.0, "GPU": 1.0, "memory": 2.0**35})
           for n, name in enumerate("abc", 1))  # fmt: skip


class Sent:
    """Keepers that note what was sent to whom."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def send(self, name: str, files: Sequence[str], key: str, nodes: Mapping[str, str]) -> dict[str, str]:
        self.calls.append((name, sorted(nodes)))
        return {node: f"/copies/{key}/{Path(name).name}" for node in nodes}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How each node answers, by its id: a folder that it sees nothing outside of, fields of its answer, or not at
    all; under "log" who was asked."""
    nodes: dict[str, Any] = {"log": []}

    def ask(those: Sequence[Node], paths: Mapping[str, bool], record: Path | None) -> list[Answer]:
        answers = []
        for node in those:
            nodes["log"].append(node.id)
            how = nodes.get(node.id)
            if isinstance(how, Path):
                inside = {path: content for path, content in paths.items() if Path(path).is_relative_to(how)}
                saw = dict.fromkeys(paths) | answer({"paths": inside, "token": None})["saw"]
                shares = None if record is None else record.is_relative_to(how)
                answers.append(Answer(node, "", installation(), saw, shares))
            elif how is not None:
                answers.append(Answer(node, **({"installation": installation()} | how)))
        return answers

    monkeypatch.setattr(preflight, "ask", ask)
    monkeypatch.setattr(preflight, "living_nodes", lambda: [A, B, C])
    return nodes


def with_stand_ins() -> tuple[Preflight, Sent]:
    found, sent = Preflight(), Sent()
    found._keepers = sent  # type: ignore[assignment]
    return found, sent


def test_f31_f32_the_troubles_of_all_nodes_are_one_error(asked: dict[str, Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("x")
    factory = WorkerFactory("shard_workers:make", needs=[str(data), str(tmp_path)])
    asked |= {"ida": {"error": "cannot import mplat (ModuleNotFoundError: No module named 'mplat')"}}
    asked |= {"idb": {"installation": installation() | {"torch": "1.0"}}, "idc": tmp_path / "nothing"}
    with pytest.raises(ClusterError) as caught:
        Preflight().of(factory, [A, B, C])
    assert caught.value.exit_code == 4
    here = installation()["torch"]
    assert str(caught.value) == (
        "3 of 3 nodes cannot do this work: node a (10.0.0.1): cannot import mplat (ModuleNotFoundError: No module "
        "named 'mplat'); install the same mplat and Python there; node b (10.0.0.2): torch is 1.0 there and "
        f"{here} here; install the same on every node; node c (10.0.0.3): does not see {data} and 1 more; "
        "copy it there, to the same path, or use a folder that every node shares"
    )
    asked |= {"ida": tmp_path / "nothing"}
    with pytest.raises(ClusterError, match=rf"node a \(10.0.0.1\), node c \(10.0.0.3\): does not see {data}"):
        Preflight().of(factory, [A, C])
    asked["idc"] = tmp_path
    (tmp_path / "more").write_text("another size than the driver has seen")
    Preflight().of(factory, [C])


def test_f32_only_who_lacks_a_file_is_sent_it_and_is_asked_no_more(asked: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    files = [model / "config.json", model / "weights"]
    for file in files:
        file.write_text(file.name)
    factory = WorkerFactory("shard_workers:make", files={str(model): [str(file) for file in files]})
    asked |= {"ida": tmp_path, "idb": tmp_path / "elsewhere"}  # c says nothing
    found, sent = with_stand_ins()
    ready = found.of(factory, [A, B, C])
    assert sent.calls == [(str(model), ["idb"])]
    copies = ready.copies()
    assert copies["ida"] == {} and copies["idb"][str(model)].endswith("/model") and "idc" not in copies
    asked["log"].clear()
    assert found.of(factory, [A, B, C]).copies() == copies and asked["log"] == [], "nobody twice, c neither"
    asked["idc"] = tmp_path / "elsewhere"
    ready.repair("idc")  # a worker came up there
    assert sent.calls[1:] == [(str(model), ["idc"])] and set(ready.copies()) == {"ida", "idb", "idc"}
    files[1].write_text("WEIGHTS")  # another content: a has it at its place, b not
    again = found.of(factory, [A, B])
    assert sent.calls[2:] == [(str(model), ["idb"])] and again.copies()["idb"] != copies["idb"]
    with pytest.raises(ClusterError, match=r"node b \(10.0.0.2\) loses the copies"):
        for _ in range(4):
            again.repair("idb")


def test_f32_a_folder_that_has_to_be_shared_is_asked_for_until_it_is(asked: dict[str, Any], tmp_path: Path) -> None:
    factory, found = WorkerFactory("shard_workers:make"), Preflight()
    asked |= {"ida": tmp_path, "idb": tmp_path / "elsewhere"}
    record = tmp_path / "run.json"
    found.of(factory, [A, B], record)
    assert found.sees(record) == {A.name: True, B.name: False}
    for _ in range(2):
        with pytest.raises(
            ClusterError, match=rf"^1 of 2 nodes .* node b \S+: does not see the folder {tmp_path}; name"
        ):
            found.of(factory, [A, B], record, shared=True)
    asked["idb"] = tmp_path
    found.of(factory, [A, B], record, shared=True)


def test_f3_a_silent_node_keeps_nobody_from_the_work_unless_all_are(asked: dict[str, Any], tmp_path: Path) -> None:
    factory = WorkerFactory("shard_workers:make")
    with pytest.raises(ClusterError, match=r"no node answered within 30 s \(a \(10\.0\.0\.1\), b \(10\.0\.0\.2\)\)"):
        Preflight().of(factory, [A, B])
    asked["ida"] = tmp_path
    assert set(Preflight().of(factory, [A, B]).copies()) == {"ida"}


def test_f32_a_fingerprint_tells_contents_apart_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"a" * 100)
    first, size = fingerprint(str(file), content=True), fingerprint(str(file), content=False)
    file.write_bytes(b"b" * 100)
    assert fingerprint(str(file), content=True) != first and fingerprint(str(file), content=False) == size
    large = tmp_path / "large"
    with large.open("wb") as opened:
        opened.truncate((64 << 20) + 1)
    before = fingerprint(str(large), content=True)
    with large.open("r+b") as opened:
        opened.seek(64 << 20)
        opened.write(b"x")
    assert fingerprint(str(large), content=True) != before
    assert fingerprint(str(tmp_path / "none"), content=True) is None
    assert fingerprint(str(tmp_path), content=False) == f"2 files, {100 + (64 << 20) + 1} bytes"


names = st.text("ab/.", min_size=1, max_size=4)


@given(st.lists(names, min_size=1, max_size=4), st.dictionaries(names, st.just("COPY"), max_size=3))
@settings(max_examples=200)
def test_f32_whole_parts_between_colons_are_placed_and_nothing_else(parts: list[str], copies: dict[str, str]) -> None:
    use_copies(copies)
    try:
        assert placed(":".join(parts)) == ":".join(copies.get(part, part) for part in parts)
    finally:
        use_copies({})


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (None, "fail", "no answer within 30 s"),
        ({"error": "cannot import mplat (X)"}, "fail", "cannot import mplat (X)"),
        ({"installation": {"torch": "1.0"}, "shares": True}, "fail", "torch 1.0; other sources; sees"),
        ({"shares": False}, "warn", "the same sources; does not see"),
        ({"shares": None}, "ok", "the same sources; not known whether it sees"),
        ({"shares": True}, "ok", "the same sources; sees"),
    ],
)
def test_f32_the_doctor_says_what_each_node_has(
    said: dict[str, Any] | None, status: str, words: str, tmp_path: Path
) -> None:
    answered = None if said is None else Answer(A, **({"installation": installation()} | said))
    check = node_check(A, answered, tmp_path)
    assert (check.name, check.status) == ("node a (10.0.0.1)", status) and words in check.found
    assert check.found.startswith("4 CPUs, 1 GPUs, 32.0 GiB; ") and bool(check.advice) == (status != "ok")
