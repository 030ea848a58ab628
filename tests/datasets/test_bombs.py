"""What unpacks to far more than it is takes no memory: the bound is looked at while it is unpacked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core import whole_files
from mplat.core.errors import InputError
from mplat.datasets.sources import compressed, files

READ = """
import resource, sys
from pathlib import Path
from mplat.core.errors import InputError
from mplat.datasets.readers.own_prompts import read_questions
from mplat.datasets.sources.files import values
from mplat.datasets.sources import compressed
import mplat.core.whole_files, zstandard
compressed.MAX_WHOLE_BYTES >>= 3
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)
for path in map(Path, sys.argv[1:]):
    try:
        read_questions(path)
        print(path.name, "was read")
    except InputError as error:
        print(error)
"""


def bomb(path: Path, piece: bytes, gib: float) -> Path:
    """A packed file of `gib` GiB, `piece` again and again."""
    frame = zstandard.compress(piece * ((64 << 20) // len(piece)))
    path.write_bytes(frame * int(gib * 16))
    return path


@pytest.mark.slow
def test_files_that_unpack_to_gigabytes_are_refused_within_the_memory_there_is(tmp_path: Path) -> None:
    paths = [
        bomb(tmp_path / "a.txt.zst", b"x", 20),
        bomb(tmp_path / "a.json.zst", b"[", 20),
        bomb(tmp_path / "a.csv.zst", b"a,", 20),
        bomb(tmp_path / "a.jsonl.zst", b"x", 1),  # a line has a bound of its own: it is passed over, not held
    ]
    assert all(path.stat().st_size < 3 << 20 for path in paths)
    told = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 4, told.stderr[-2000:]
    assert all(f"{path}: holds more than 128 MiB" in line for path, line in zip(paths[:3], lines, strict=False))
    assert "line_too_long" in lines[3]


def test_a_table_is_measured_by_its_footer_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["x" * (1 << 20)] * 4, "answers": [None] * 4}), path, use_dictionary=False)
    assert path.stat().st_size < 1 << 19
    assert len(list(files.values(path))) == whole_files.read_table(path).num_rows == 4
    monkeypatch.setattr(whole_files, "MAX_TABLE_BYTES", 1 << 20)
    monkeypatch.setattr(files, "MAX_TABLE_BYTES", 1 << 20)
    with pytest.raises(InputError, match="unpacks to 4[0-9]{6} bytes, more than the 1048576 that are read"):
        whole_files.read_table(path)
    with pytest.raises(InputError, match="row group 0 unpacks to 4[0-9]{6} bytes"):
        list(files.values(path))
    digest = whole_files.sha256_of(path.read_bytes())
    assert whole_files.read_table(path, digest).num_rows == 4  # of a file that its writer vouches for


def test_rows_that_take_no_space_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": pa.nulls(3 << 20)}), path, row_group_size=4 << 20)
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(whole_files, "MAX_TABLE_BYTES", 1 << 20)
    with pytest.raises(InputError, match="unpacks to 3145728 bytes"):
        whole_files.read_table(path)


def test_a_document_of_many_tiny_values_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "[]," * 999 + "[]]")
    assert len(list(files.values(path))) == 1000
    monkeypatch.setattr(files, "MAX_VALUES", 999)
    with pytest.raises(InputError, match="one document of more than 999 values"):
        list(files.values(path))


def test_what_fits_exactly_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_WHOLE_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    assert compressed.whole(tmp_path / "a.txt") == b"x" * 1000 and compressed.whole_size(tmp_path / "a.txt") == 1000
    (tmp_path / "a.txt").write_bytes(b"x" * 1001)
    with pytest.raises(InputError, match="a.txt: holds more than"):
        compressed.whole(tmp_path / "a.txt")
