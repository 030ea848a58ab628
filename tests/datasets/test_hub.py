"""Copies on the hub: the pinned commit from whatever cache has it, else through `datasets`, and never another one."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.datasets.data_set import HubCopy, get, names
from mplat.datasets.reading import read
from mplat.datasets.sources.hub import read_hub

ALL = names()
OTHER = "0" * 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no network, and no `datasets` library."""
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    return tmp_path / "home"


def expected(name: str, tmp_path: Path) -> tuple:
    path = tmp_path / "rows-dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in get(name).sample.rows))
    return read(name, path).questions


def table(name: str) -> pa.Table:
    return pa.Table.from_pylist(get(name).sample.rows)


def arrow_cache(home: Path, name: str, copy: HubCopy, *, rows: int | None = None, stem: str = "validation") -> Path:
    """What `datasets` leaves behind when it has prepared a split."""
    folder = home / "datasets" / copy.repository.replace("/", "___") / copy.configuration / "0.0.0" / copy.revision
    folder.mkdir(parents=True)
    found = table(name)
    path = folder / f"{copy.repository.split('/')[1].lower()}-{stem}.arrow"
    with open(path, "wb") as file, pa.ipc.new_stream(file, found.schema) as writer:
        writer.write_table(found)
    splits = {"validation": {"num_examples": found.num_rows if rows is None else rows}}
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    return path


def hub_cache(home: Path, name: str, copy: HubCopy, *, parts: int = 1, kept: int | None = None) -> None:
    """Files of the repository as huggingface_hub keeps them: links into a folder of blobs."""
    repository = home / "hub" / f"datasets--{copy.repository.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / copy.revision / copy.configuration
    snapshot.mkdir(parents=True)
    found = table(name)
    size = -(-found.num_rows // parts)
    for part in range(parts if kept is None else kept):
        pq.write_table(found.slice(part * size, size), repository / "blobs" / str(part))
        link = snapshot / f"validation-{part:05d}-of-{parts:05d}.parquet"
        link.symlink_to(Path("../../../blobs") / str(part))


def test_every_data_set_names_a_copy_with_a_commit() -> None:
    for name in ALL:
        assert get(name).hub_copies, name
        for copy in get(name).hub_copies:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", copy.repository) and re.fullmatch("[0-9a-f]{40}", copy.revision)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cache", [arrow_cache, hub_cache])
def test_a_cached_copy_is_read_offline_and_without_the_library(name: str, cache, home: Path, tmp_path: Path) -> None:
    copy = get(name).hub_copies[0]
    cache(home, name, copy)
    reading = read_hub(name)
    assert reading.questions == expected(name, tmp_path)
    (file,) = reading.report.files
    assert file.path == f"{copy.repository}@{copy.revision[:12]}/{copy.configuration}/validation"


def test_shards_are_read_in_order_and_all_of_them_are_needed(home: Path, tmp_path: Path) -> None:
    copy = get("drop").hub_copies[0]
    hub_cache(home, "drop", copy, parts=2)
    assert read_hub("drop").questions == expected("drop", tmp_path)
    hub_cache(home, "squad", get("squad").hub_copies[0], parts=2, kept=1)
    with pytest.raises(UsageError, match=r"rajpurkar/squad@7b6d24c440a3/plain_text is in no local cache.*mplat\[hub\]"):
        read_hub("squad")


def test_a_cache_with_fewer_rows_than_it_says_is_an_error(home: Path) -> None:
    arrow_cache(home, "squad", get("squad").hub_copies[0], rows=3)
    with pytest.raises(InputError, match=r"has 2 rows of the split validation, its dataset_info\.json says 3"):
        read_hub("squad")


def test_a_cached_file_that_is_cut_off_is_an_error(home: Path) -> None:
    path = arrow_cache(home, "squad", get("squad").hub_copies[0])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"not a readable Arrow file.*no end mark"):
        read_hub("squad")


def test_another_commit_and_another_split_are_not_what_was_asked_for(home: Path) -> None:
    copy = get("squad").hub_copies[0]
    arrow_cache(home, "squad", copy._replace(revision=OTHER))
    for wanted in (("dev",), ("train",)):
        with pytest.raises(UsageError, match="is in no local cache"):
            read_hub("squad", splits=wanted)
    with pytest.raises(UsageError, match="no split 'validation'; "):
        read_hub("squad", splits=["validation"])
    with pytest.raises(UsageError, match="no split is named"):
        read_hub("squad", splits=[])


def library(monkeypatch: pytest.MonkeyPatch, load) -> None:
    """A stand-in for `datasets` with the part of its interface that is used."""
    module = ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None, origin="stand-in")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


class Prepared:
    """A split as the library returns it."""

    def __init__(self, rows: pa.Table, revision: str) -> None:
        self.rows = rows
        self.cache_files = [{"filename": f"/cache/datasets/x/{revision}/x-validation.arrow"}]

    def with_format(self, kind: str) -> Prepared:
        assert kind == "arrow"
        return self

    def iter(self, size: int):
        return (self.rows.slice(start, size) for start in range(0, self.rows.num_rows, size))


def test_what_no_cache_has_is_fetched_by_name_configuration_split_and_commit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(*arguments: str, **options: str) -> Prepared:
        calls.append((arguments, options))
        return Prepared(table("squad"), options["revision"])

    library(monkeypatch, load)
    assert read_hub("squad", splits=["dev", "dev"]).questions == expected("squad", tmp_path)
    copy = get("squad").hub_copies[0]
    options = {"split": "validation", "revision": copy.revision}
    assert calls == [((copy.repository, copy.configuration), options)]


def test_the_library_is_not_believed_when_it_gives_another_version(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, lambda *_, **__: Prepared(table("squad"), OTHER))
    with pytest.raises(InputError, match="is another version than commit 7b6d24c"):
        read_hub("squad")


@pytest.mark.parametrize(
    "error", [ConnectionError("offline mode\nmore"), ValueError("no config"), FileNotFoundError("x")]
)
def test_i17_a_hub_that_cannot_be_reached_is_an_input_error(
    error: Exception, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: str, **__: str) -> SimpleNamespace:
        raise error

    library(monkeypatch, load)
    first = str(error).splitlines()[0]
    with pytest.raises(InputError, match=rf"cannot be loaded from the hub.*\({first}\); connect once"):
        read_hub("squad")


def test_the_command_reads_the_hub_s_copies(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("squad", "triviaqa"):
        arrow_cache(home, name, get(name).hub_copies[0])
    words = ["classify", "--datasets", "squad,triviaqa", "--hub", "dev", "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["datasets"]["squad"]["files"][0]["file"] == "rajpurkar/squad@7b6d24c440a3/plain_text/validation"
    assert main([*words, "--data-dir", str(tmp_path)]) == 2
    assert "--data-dir and --hub name two places" in capsys.readouterr().out
    assert main(["classify", "--datasets", "squad", "--hub", "tset"]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err


needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the `datasets` library is not installed"
)


@needs_library
def test_the_real_library_s_cache_is_read_with_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    parquet = tmp_path / "validation.parquet"
    pq.write_table(table("squad"), parquet)
    made = datasets.load_dataset("parquet", data_files={"validation": str(parquet)}, cache_dir=str(tmp_path / "cache"))
    file = Path(made["validation"].cache_files[0]["filename"])
    assert read("squad", file).questions == expected("squad", tmp_path)
    copy = get("squad").hub_copies[0]
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "datasets" / "rajpurkar___squad" / copy.configuration / "0.0.0" / copy.revision
    folder.parent.mkdir(parents=True)
    file.parent.rename(folder)
    assert read_hub("squad").questions == expected("squad", tmp_path)
