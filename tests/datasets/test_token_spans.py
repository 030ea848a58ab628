"""Files in spans: together the spans of a file hold every record of it once, under its number, however it is cut."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.datasets.sources import compressed
from mplat.datasets.sources.json_text import Unusable
from mplat.datasets.tokens import reading
from mplat.datasets.tokens.corpus import corpus_files
from mplat.datasets.tokens.reading import Document, Fields, records
from mplat.datasets.tokens.spans import SpanReader, survey

LINE = st.one_of(
    st.just(""),
    st.text(st.sampled_from("ab\u2028\u0085é🐍 "), max_size=40).map(
        lambda t: json.dumps({"text": t}, ensure_ascii=False)
    ),
    st.sampled_from(['{"text": 3}', "[1]", '{"text": "cut', "\r"]),
)


def by_hand(content: bytes) -> list[tuple[int, str]]:
    """Number and text of every good line, read without the code under test."""
    found = []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record["text"], str):
            found.append((number, record["text"]))
    return found


def texts(found) -> list[tuple[int, str]]:
    return [(number, one.text) for number, one in found if isinstance(one, Document)]


def faults(found) -> list[tuple[int, str]]:
    return [(number, one.reason) for number, one in found if isinstance(one, Unusable)]


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(LINE, min_size=1, max_size=30),
    ends=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    bom=st.booleans(),
    step=st.integers(1, 200),
    packing=st.sampled_from(["", ".gz", ".zst"]),
    cut=st.integers(1, 300),
    order=st.randoms(use_true_random=False),
)
def test_spans_hold_every_line_once_whatever_the_cuts(
    tmp_path_factory, lines, ends, last, bom, step, packing, cut, order
):
    content = (b"\xef\xbb\xbf" if bom else b"") + (ends.join(lines) + (ends if last else "")).encode()
    if not content:
        return
    path = tmp_path_factory.mktemp("spans") / f"a.jsonl{packing}"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing]
    path.write_bytes(b"".join(pack(content[i : i + cut]) for i in range(0, len(content), cut)))
    spans = survey(path, step).spans
    assert [span.start for span in spans] == list(range(0, len(content), step))

    whole = list(records(path, Fields()))
    assert texts(whole) == by_hand(content)
    fresh = [found for span in spans for found in SpanReader(Fields()).records(span)]
    one = SpanReader(Fields())
    going_on = [found for span in spans for found in one.records(span)]
    for found in (fresh, going_on):
        assert texts(found) == texts(whole) and faults(found) == faults(whole)

    shuffled = list(range(len(spans)))
    order.shuffle(shuffled)
    by_span = {i: list(one.records(spans[i])) for i in shuffled}
    assert [one for i in sorted(by_span) for one in texts(by_span[i])] == texts(whole)


def many_lines(n: int) -> bytes:
    made = random.Random(0)
    return b"".join(json.dumps({"text": f"{i} " * made.randrange(1, 60)}).encode() + b"\n" for i in range(n))


def test_a_span_is_read_from_its_own_frame_and_a_single_frame_from_where_the_reader_is(tmp_path, monkeypatch):
    content, path = many_lines(3000), tmp_path / "a.jsonl.zst"
    pieces = [content[i : i + 20_000] for i in range(0, len(content), 20_000)]
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"table"
    path.write_bytes(b"".join(map(zstandard.compress, pieces)) + zstandard.compress(b"") + skippable)
    surveyed = survey(path, 50_000)
    assert surveyed.frames == len(pieces)
    for span in surveyed.spans[1:]:
        assert span.unpacked == (span.start - 1) // 20_000 * 20_000
        assert path.read_bytes()[span.packed :][:4] == b"\x28\xb5\x2f\xfd"

    path.write_bytes(zstandard.compress(content))
    alone = survey(path, 50_000)
    assert alone.frames == 1 and {span.packed for span in alone.spans} == {0}
    opened = []
    from mplat.datasets.tokens import spans as module

    real = module.chunks
    monkeypatch.setattr(module, "chunks", lambda *a, **k: opened.append(a) or real(*a, **k))
    reader = SpanReader(Fields())
    odd = [found for span in alone.spans[1::2] for found in reader.records(span)]
    assert len(opened) == 1 and len(odd) > 1000
    list(reader.records(alone.spans[0]))
    assert len(opened) == 2


def test_row_groups_are_spans_and_rows_keep_their_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"text": f"row {i}", "meta": {"pile_set_name": "A" if i % 2 else "B"}, "other": b"x"} for i in range(100)]
    rows[57]["text"] = None
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)
    spans = survey(path, 1).spans
    assert [(s.start, s.end, s.before) for s in spans] == [(i, i + 1, 9 * i) for i in range(12)]
    found = [one for span in spans for one in SpanReader(Fields()).records(span)]
    assert found[58] == (59, Document("row 58", "B")) and len(found) == 100
    assert faults(found) == [(58, "wrong_type")]
    assert len(survey(path, 1 << 20).spans) == 1
    with pytest.raises(InputError, match="not a readable Parquet file"):
        cut = tmp_path / "cut.parquet"
        cut.write_bytes(path.read_bytes()[:-30])
        survey(cut, 1)


def test_the_set_of_a_record_is_a_text_where_it_has_one():
    fields = Fields("text", "meta.source.name")
    assert fields.document({"text": "a", "meta": {"source": {"name": "X"}}}) == ("a", "X")
    for meta in (None, {}, {"source": None}, {"source": "text"}, "text"):
        assert fields.document({"text": "a", "meta": meta}).set_name == ""
    for name in (0, False, ["a"], "\ud800"):
        with pytest.raises(Unusable):
            fields.document({"text": "a", "meta": {"source": {"name": name}}})


def test_a_truncated_file_is_refused_by_name_and_byte(tmp_path):
    for name, packed in (
        ("a.jsonl.zst", zstandard.compress(many_lines(500))),
        ("a.jsonl.gz", gzip.compress(many_lines(500))),
    ):
        path = tmp_path / name
        path.write_bytes(packed[:-20])
        with pytest.raises(InputError, match=rf"{name}: cut off at byte {len(packed) - 20}"):
            survey(path, 1000)


def test_what_is_held_in_memory_has_a_bound_that_is_looked_at_while_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(compressed, "MAX_WHOLE_BYTES", 1 << 20)
    for name, message in (("a.jsonl.zst", "a line is longer"), ("a.txt.zst", "more than"), ("a.csv.gz", "more than")):
        path = tmp_path / name
        pack = zstandard.compress if name.endswith("zst") else gzip.compress
        path.write_bytes(pack(b"x" * (64 << 20)))
        with pytest.raises(InputError, match=message):
            list(records(path, Fields()))


def test_folders_and_patterns_are_files_by_path_each_once(tmp_path, monkeypatch):
    for name in ("b/2.jsonl", "b/1.txt.gz", "b/c/3.csv", "b/readme.md", "b/.hidden.jsonl", "a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    inside = [str(tmp_path / name) for name in ("b/1.txt.gz", "b/2.jsonl", "b/c/3.csv")]
    assert corpus_files(["b"]) == inside
    assert corpus_files(["*.jsonl", "b"]) == [str(tmp_path / "a.jsonl"), *inside]
    assert corpus_files(["b/*.jsonl", "hub:some/set:train"]) == [inside[1], "hub:some/set:train"]
    for given_, error, message in (
        (["b", "b/2.jsonl"], UsageError, "named twice"),
        ([], UsageError, "no files are named"),
        (["b/readme.md"], InputError, "not a kind of text file"),
        (["c*"], InputError, "no file fits"),
        (["c.jsonl"], InputError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            corpus_files(given_)


def test_a_folder_is_read_as_a_data_set_of_the_hub(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(2):
        lines = [json.dumps({"text": f"{number}-{i}", "meta": {"pile_set_name": "S"}}) for i in range(3)]
        (folder / f"train-{number}.jsonl").write_text("\n".join(lines) + "\n")
    surveyed = survey(f"hub:{folder}:train", 10)
    assert [(span.form, span.start, span.end) for span in surveyed.spans] == [("hub", 0, 2), ("hub", 1, 2)]
    found = [one for span in surveyed.spans for one in SpanReader(Fields()).records(span)]
    assert found == [(i + 1, Document(f"{n}-{i}", "S")) for n in range(2) for i in range(3)]
    assert survey(f"hub:{folder}", 10).sha256 == surveyed.sha256
    (folder / "train-1.jsonl").write_text('{"text": "other"}\n')
    assert survey(f"hub:{folder}", 10).sha256 != surveyed.sha256
    with pytest.raises(InputError, match="cannot be opened"):
        survey(f"hub:{folder}:nowhere", 10)
    with pytest.raises(UsageError, match="write hub:NAME"):
        survey("hub:", 10)
