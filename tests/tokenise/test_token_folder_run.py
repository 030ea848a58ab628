"""A token folder: the library's tokens of every document, the same bytes however it was made, whole or not there."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.datasets.tokens.folder import DOCUMENTS, TokenFolder
from mplat.datasets.tokens.tokenizer import SHIPPED, open_tokenizer
from mplat.runtime import Session, open_session
from mplat.runtime.pool import Finished, WorkerFactory
from mplat.tokenise import worker
from mplat.tokenise.tokenise_config import TokeniseConfig
from mplat.tokenise.tokenise_run import prepare, tokenise
from tokenizers import Tokenizer, processors

RESULTS = ("tokens.bin", "documents.parquet", "manifest.json", "tokenizer/tokenizer.json")


def written(folder: Path) -> list[Path]:
    """A corpus in every kind of file, and what should be found in it beside."""
    made = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)

    def records(n: int, name: str) -> list[dict[str, Any]]:
        words = ["The", " river", " été", "\u2028", " 12", "🐍", "\r\n", " valley"]
        return [
            {"text": "".join(made.choices(words, k=made.randrange(60))), "meta": {"pile_set_name": f"{name}{i % 2}"}}
            for i in range(n)
        ]

    def lines(n: int, name: str) -> bytes:
        return b"".join(json.dumps(one, ensure_ascii=bool(n % 2)).encode() + b"\n" for one in records(n, name))

    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(120, "A"))
    packed = lines(90, "B")
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(packed[:3000]) + zstandard.compress(packed[3000:]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines(51, "C")))
    (folder / "d.txt").write_text("One document,\nof two lines.\n")
    (folder / "e.csv").write_text('text,n\n"a, b",1\nplain,2\n')
    pq.write_table(pa.Table.from_pylist(records(40, "P")), folder / "f.parquet", row_group_size=7)
    return sorted(folder.iterdir())


def plain_records(path: Path) -> list[tuple[str, str]]:
    """(set, text) of every record, read without the code under test."""
    name = path.name
    if name.endswith(".txt"):
        return [("", path.read_text())]
    if name.endswith(".csv"):
        return [("", "a, b"), ("", "plain")]
    if name.endswith(".parquet"):
        found = pq.read_table(path).to_pylist()
    else:
        content = path.read_bytes()
        if name.endswith(".zst"):
            content = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        found = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line]
    return [(one["meta"]["pile_set_name"], one["text"]) for one in found]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `written`."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    written(folder)
    return folder


def made(corpus: Path, out: Path, session: Session | None = None, **settings: Any) -> TokenFolder:
    config = TokeniseConfig(files=(str(corpus),), **settings)
    return tokenise(prepare(config), out, session=session or open_session("none")).folder


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in RESULTS}


@pytest.fixture(scope="module")
def right(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenFolder:
    """The folder of the corpus, made in this process in one part."""
    return made(corpus, tmp_path_factory.mktemp("right") / "tokens")


def test_every_document_is_there_with_the_librarys_tokens(corpus: Path, right: TokenFolder) -> None:
    library = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    expected = [one for path in sorted(corpus.iterdir()) for one in plain_records(path) if one[1].strip()]
    table, end = right.documents, 0
    assert table.schema.equals(DOCUMENTS) and right.tokens.dtype == np.uint16
    assert len(table) == len(expected) > 250
    for row, (set_name, text) in zip(table.to_pylist(), expected, strict=True):
        ids = right.tokens[row["offset"] : row["offset"] + row["tokens"]].tolist()
        assert ids == [0, *library.encode(text, add_special_tokens=False).ids]
        blake = hashlib.blake2b(text.encode(), digest_size=8).digest()
        assert row == {
            "set": set_name, "offset": end, "tokens": len(ids), "bytes": len(text.encode()),
            "hash": int.from_bytes(blake, "little"),
        }  # fmt: skip
        end += len(ids)
    assert end == len(right.tokens)


def test_the_manifest_has_the_counts_and_digests_of_what_is_there(corpus: Path, right: TokenFolder) -> None:
    manifest = json.loads((right.path / "manifest.json").read_text())
    rows = right.documents.to_pylist()
    for name, counts in manifest["sets"].items():
        mine = [row for row in rows if row["set"] == name]
        assert counts == {"documents": len(mine)} | {k: sum(r[k] for r in mine) for k in ("bytes", "tokens")}
    assert manifest["total"] == {k: sum(c[k] for c in manifest["sets"].values()) for k in manifest["total"]}
    records = sum(len(plain_records(path)) for path in corpus.iterdir())
    assert manifest["left_out"] == {"empty": records - len(rows)} and records > len(rows)
    assert manifest["sources"] == [
        {"name": p.name, "bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in sorted(corpus.iterdir())
    ]
    found = digests(right.path)
    assert {name: found[name] for name in RESULTS if name != "manifest.json"} == {
        name: digest for name, digest in manifest["files"].items() if name in RESULTS
    }
    record = json.loads((right.path / "run.json").read_text())
    assert record["status"] == "done" and record["files"] == manifest["files"] | {
        "manifest.json": found["manifest.json"]
    }
    assert not (right.path / "work").exists()
    assert right.tokenizer._replace(folder=SHIPPED) == open_tokenizer(None)[1]
    right.verify()


@pytest.mark.parametrize("shard_mib", [0.0005, 0.003])
def test_how_the_work_is_cut_changes_no_byte(
    corpus: Path, right: TokenFolder, tmp_path: Path, shard_mib: float
) -> None:
    folder = made(corpus, tmp_path / "t", shard_mib=shard_mib, keep_parts=True)
    assert len(list((tmp_path / "t" / "work").glob("tokens-*/part-*"))) > 5
    assert digests(folder.path) == digests(right.path) and folder.digest == right.digest


class ManyWorkers:
    """A pool of workers in this process, which answer in random order, two shards given to each."""

    depth = 2

    def __init__(self, factory: WorkerFactory, count: int) -> None:
        self.workers = [factory.build() for _ in range(count)]
        self.waiting: list[tuple[int, int, Any]] = []
        self.tickets, self.made = itertools.count(), random.Random(count)

    def actors(self) -> list[int]:
        return list(range(len(self.workers)))

    def submit(self, actor: int, payload: Any) -> int:
        self.waiting.append((next(self.tickets), actor, payload))
        return self.waiting[-1][0]

    def wait(self, timeout_s: float) -> list[Finished]:
        actor = self.made.choice(self.waiting)[1]
        ticket, _, payload = chosen = next(one for one in self.waiting if one[1] == actor)
        self.waiting.remove(chosen)
        return [Finished(ticket, self.workers[actor].run(payload))]

    def close(self) -> None: ...


@pytest.mark.parametrize("count", [2, 3])
def test_shards_that_come_back_in_any_order_from_several_readers_change_no_byte(
    corpus: Path, right: TokenFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(Session, "pool", lambda self, factory, at_most=None: closing(ManyWorkers(factory, count)))
    made(corpus, tmp_path / "t", shard_mib=0.001)
    assert digests(tmp_path / "t") == digests(right.path)


@pytest.mark.slow
@pytest.mark.ray
def test_one_and_two_workers_change_no_byte(
    corpus: Path, right: TokenFolder, tmp_path: Path, ray_workers: Callable[[int], Session]
) -> None:
    for actors in (1, 2):
        out = tmp_path / str(actors)
        made(corpus, out, ray_workers(actors), shard_mib=0.002)
        assert digests(out) == digests(right.path)


class Died(BaseException):
    """Ends a run like a signal, past every `except Exception`."""


def test_an_interrupted_run_goes_on_with_its_parts(
    corpus: Path, right: TokenFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = worker.Tokeniser.run

    def dying(self: Any, payload: Any) -> Any:
        if len(read) == 4:
            raise Died
        read.append(payload["items"][0]["item"])
        return real(self, payload)

    monkeypatch.setattr(worker.Tokeniser, "run", dying)
    with pytest.raises(Died):
        made(corpus, tmp_path / "t", shard_mib=0.002)
    assert not [name for name in RESULTS if (tmp_path / "t" / name).exists()]
    (tmp_path / "t" / ".tokens.bin.0123.part").write_bytes(b"of a killed writer")
    with pytest.raises(InputError, match="is no token folder"):
        TokenFolder.open(tmp_path / "t")
    monkeypatch.setattr(worker.Tokeniser, "run", lambda self, p: read.append(p["items"][0]["item"]) or real(self, p))
    folder = made(corpus, tmp_path / "t", shard_mib=0.002)
    assert read == list(range(len(read))) and len(read) > 6
    assert not list((tmp_path / "t").glob(".*"))
    assert digests(folder.path) == digests(right.path)


@pytest.mark.slow
def test_a_killed_and_a_stopped_process_are_continued(tmp_path: Path) -> None:
    line = json.dumps({"text": "The river in the valley. " * 40}).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line * 6_000)
    command = [sys.executable, "-m", "mplat", "tokenize", str(tmp_path / "a.jsonl"), "--address", "none",
               "--set", "shard_mib=0.25", "--out", str(tmp_path / "t")]  # fmt: skip
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        driver = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
        before = len(list((tmp_path / "t" / "work").glob("tokens-*/part-*")))
        while len(list((tmp_path / "t" / "work").glob("tokens-*/part-*"))) < before + 2:
            assert driver.poll() is None, driver.stderr
            time.sleep(0.05)
        driver.send_signal(number)
        _, said = driver.communicate()
        assert driver.returncode == code, said.decode()
        assert not (tmp_path / "t" / "manifest.json").exists()
    made(tmp_path / "a.jsonl", tmp_path / "straight")
    assert main([*command[3:]], prog="mplat") == 0
    assert digests(tmp_path / "t") == digests(tmp_path / "straight")


def test_a_whole_folder_is_not_made_again_unless_its_files_are_others(corpus: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    shutil.copytree(corpus, texts)
    folder = made(texts, tmp_path / "t")
    stamp = (folder.path / "tokens.bin").stat().st_mtime_ns
    made(texts, tmp_path / "t")
    assert (folder.path / "tokens.bin").stat().st_mtime_ns == stamp
    (texts / "d.txt").write_text("One document;\nof two lines.\n")  # as long as before
    with pytest.raises(UsageError, match=r"was made from another .*d\.txt"):
        made(texts, tmp_path / "t")
    (texts / "d.txt").write_text("Longer than before it was.\nOf two lines.\n")
    with pytest.raises(UsageError, match=r"with another configuration \(differs in the texts\)"):
        made(texts, tmp_path / "t")
    with pytest.raises(UsageError, match="differs in set_field"):
        made(corpus, tmp_path / "t", set_field="meta")
    with pytest.raises(UsageError, match="differs in the tokenizer"):
        made(corpus, tmp_path / "t", tokenizer=bos_tokenizer(tmp_path / "bos"))


def bos_tokenizer(folder: Path) -> Path:
    """The shipped one, which puts a token before every text."""
    shutil.copytree(SHIPPED, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="B $A", special_tokens=[("B", 7)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_documents_are_laid_out_as_the_tokenizer_says(corpus: Path, right: TokenFolder, tmp_path: Path) -> None:
    folder = made(corpus, tmp_path / "t", tokenizer=bos_tokenizer(tmp_path / "bos"), shard_mib=0.01)
    assert folder.manifest.begin == [7]
    before, after = right.documents, folder.documents
    for number in (0, 1, 100, len(after) - 1):
        a, b = before.slice(number, 1).to_pylist()[0], after.slice(number, 1).to_pylist()[0]
        ids = right.tokens[a["offset"] : a["offset"] + a["tokens"]].tolist()
        assert folder.tokens[b["offset"] : b["offset"] + b["tokens"]].tolist() == [7, *ids[1:], 0]


def test_wide_vocabularies_have_four_bytes(tmp_path: Path, shared_data: Path) -> None:
    neox = shared_data / "tokenizers" / "falcon"
    if not neox.is_dir():
        pytest.skip("Falcon's tokenizer is not present")
    (tmp_path / "a.txt").write_text("An été in the valley 🐍")
    folder = made(tmp_path / "a.txt", tmp_path / "t", tokenizer=neox)
    assert folder.manifest.dtype == ("uint16" if folder.manifest.vocabulary <= 1 << 16 else "uint32")
    library = Tokenizer.from_file(str(neox / "tokenizer.json"))
    assert library.decode(folder.tokens[1:].tolist()) == "An été in the valley 🐍"


def test_broken_records_are_counted_over_all_parts_up_to_the_limit(tmp_path: Path) -> None:
    good = json.dumps({"text": "good " * 30})
    lines = [good if i % 5 else ["{", '{"text": 3}', '{"no": ""}', "\xff"][i // 5 % 4] for i in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    made(path, tmp_path / "t", bad_limit=8, shard_mib=0.0005)
    manifest = TokenFolder.open(tmp_path / "t").manifest
    assert manifest.left_out == {"broken_json": 2, "invalid_utf8": 2, "missing_field": 2, "wrong_type": 2}
    assert manifest.total.documents == 32
    with pytest.raises(InputError, match=rf"{path}: line 1 is broken: .*so far .*--bad-limit is 7"):
        made(path, tmp_path / "u", bad_limit=7, shard_mib=0.0005)
    assert not (tmp_path / "u" / "tokens.bin").exists()
    made(path, tmp_path / "u", bad_limit=8, shard_mib=0.0005)  # goes on
    assert digests(tmp_path / "u") == digests(tmp_path / "t")
    path.write_bytes("\n".join(lines[1:]).encode("latin-1"))
    with pytest.raises(InputError, match=rf"{path}: line 5 is broken: .*'text' is not text but int"):
        made(path, tmp_path / "v", shard_mib=0.0005)


@pytest.mark.parametrize(("words", "code", "message"), [
    ([], 2, "no files are named"),
    (["nowhere.jsonl"], 3, "nowhere.jsonl: there is no such file"),
    (["blank.jsonl"], 3, "the files hold no document"),
    (["nothing.jsonl"], 3, "the file is empty"),
    (["kind.doc"], 3, "kind.doc: not a kind of text file"),
    (["cut.jsonl.zst"], 3, "cut off at byte"),
    (["good.jsonl", "--tokenizer", "nowhere"], 3, "nowhere/tokenizer.json: cannot be read"),
    (["good.jsonl", "--field", "body"], 3, "line 1 is broken: there is no field 'body', only 'text'"),
    (["good.jsonl", "--out", "other"], 2, "--out other holds a run of `mplat train`"),
    (["good.jsonl", "--out", "good.jsonl"], 2, "good.jsonl is a file, not a folder"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("blank.jsonl").write_text('{"text": " "}\n\n')
    Path("nothing.jsonl").write_text("")
    Path("kind.doc").write_text("text")
    Path("good.jsonl").write_text('{"text": "good"}\n')
    Path("cut.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "cut"}\n' * 99)[:-8])
    Path("other").mkdir()
    Path("other/run.json").write_text('{"command": "train", "format": 1}')
    out = [] if "--out" in words else ["--out", "t"]
    assert main(["tokenize", *words, *out, "--address", "none", "--quiet"], prog="mplat") == code
    said = capfd.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_a_dry_run_says_how_much_it_will_be_and_writes_nothing(
    corpus: Path, right: TokenFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["tokenize", str(corpus), "--out", str(tmp_path / "t"), "--dry-run", "--json", "--set", "shard_mib=0.005"]
    assert main(words, prog="mplat") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["file_bytes"] == sum(path.stat().st_size for path in corpus.iterdir())
    assert said["shards"] >= said["text_bytes"] / 0.005 / 2**20 / 2
    assert 0.5 < said["folder_bytes"] / (2 * len(right.tokens)) < 3 and said["cost"]["seconds"] > 0
    assert said["one_frame"] == [str(corpus / "c.jsonl.gz")] and not said["read_by_one_worker"]
    assert not (tmp_path / "t").exists()


def test_a_damaged_folder_is_refused(right: TokenFolder, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(right.path, tmp_path / name)
        return tmp_path / name

    flipped = copy("flipped")
    data = bytearray((flipped / "tokens.bin").read_bytes())
    data[100] ^= 1
    (flipped / "tokens.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"tokens\.bin: damaged"):
        TokenFolder.open(flipped).verify()
    short = copy("short")
    (short / "tokens.bin").write_bytes(data[:-2])
    with pytest.raises(InputError, match=r"tokens\.bin has \d+ bytes"):
        TokenFolder.open(short)
    for content, message in (
        (b"{", "not valid JSON"),
        (b'{"format": 2}', "has format 2"),
        (b'{"format": 1}', "damaged"),
    ):
        (short / "manifest.json").write_bytes(content)
        with pytest.raises(InputError, match=message):
            TokenFolder.open(short)
