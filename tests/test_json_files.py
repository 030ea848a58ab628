"""JSON from anywhere is read to the letter, or refused in one sentence that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.core.json_files import MAX_DEPTH, MAX_DIGITS, parse, read_bounded, read_json, read_object, strict

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**127), 2**127) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_every_value_that_json_can_say_is_read(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert strict(text) == value
    assert parse(text.encode("utf-8", "surrogatepass") if ascii_only else text, "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": 1, "a": 1}', "has the key 'a' twice; leave one"),
        (b'{"b": [{"a": 1, "a": 2}]}', "has the key 'a' twice"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is too large"),
        (b"[-1.5e400]", "is too large"),
        (b"1" * (MAX_DIGITS + 1), "a whole number of 41 digits"),
        (b"9" * 9999, "a whole number of 9999 digits"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply, more than 100"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (rb'["\ud800"]', "half of a surrogate pair"),
        (rb'{"\udc00": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_json(path, advice="write it again")
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and message in said and said.endswith("; write it again")
    assert len(said.splitlines()) == 1


def test_the_bounds_themselves_are_inside(tmp_path: Path) -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x")
    assert parse("9" * MAX_DIGITS, "x") == 10**MAX_DIGITS - 1
    assert parse(rb'"\ud83d\ude00"', "x") == "\U0001f600"
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(InputError, match="a: has more than 4 bytes"):
        read_bounded(tmp_path / "a", 4)


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in (
        ("pipe", "is no plain file"), ("zero", "is no plain file"), (".", "is a folder"), ("none", "cannot be read"),
        ("a\0b", "cannot be read"), ("a" * 300, "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_json(tmp_path / name)


def test_an_object_is_no_other_value(tmp_path: Path) -> None:
    for text in ("[]", "1", "null", '"a"'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match="holds no JSON object"):
            read_object(tmp_path / "a.json")
