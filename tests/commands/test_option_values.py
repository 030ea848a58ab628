"""Values given on the command line are used as they are or refused with the allowed range; nothing is repaired."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.commands.frame.folders import writable_folder
from mplat.commands.frame.options import _check_address, _check_seed
from mplat.core.errors import UsageError
from mplat.core.typed_lists import parse_layers, parse_names, parse_numbers


@given(st.sets(st.integers(0, 30), min_size=1))
def test_layers_are_read_in_any_order_and_come_sorted(layers):
    assert parse_layers(",".join(map(str, layers)), 31) == sorted(layers)


def test_layers_may_be_ranges_or_all():
    assert parse_layers("0, 2-4,7", 8) == [0, 2, 3, 4, 7]
    assert parse_layers("all", 3) == [0, 1, 2]


@pytest.mark.parametrize("text", ["-1", "8", "1000000", "3,3", "2-4,3", "3,a", "", "1,,2", "4-2", "1.5", "0x1", "²"])
def test_i10_a_layer_that_is_not_there_is_refused_with_the_range(text):
    with pytest.raises(UsageError, match=r"^--layers .*(allowed: 0 to 7|more than once|entry is empty)"):
        parse_layers(text, 8)


def test_numbers_keep_their_order():
    assert parse_numbers("5, 0.5,1e-1", low=0, high=10, option="--strength") == [5.0, 0.5, 0.1]


@pytest.mark.parametrize("text", ["inf", "nan", "-inf", "1e9", "-1", "0", "1,1.0", "a", "", "1;2", "1e999"])
def test_i10_a_number_out_of_range_is_refused(text):
    with pytest.raises(UsageError, match=r"^--strength .*(allowed: above 0 to 100|more than once|entry is empty)"):
        parse_numbers(text, low=0, high=100, option="--strength", low_included=False)


def test_names_must_exist_and_come_once():
    valid = ["squad", "hotpotqa", "triviaqa"]
    assert parse_names("triviaqa,squad", valid, option="--datasets") == ["triviaqa", "squad"]
    assert parse_names("all", valid, option="--datasets") == valid
    with pytest.raises(
        UsageError, match=r"unknown name 'sqaud'; did you mean 'squad'\? valid: hotpotqa, squad, triviaqa"
    ):
        parse_names("sqaud", valid, option="--datasets")
    with pytest.raises(UsageError, match="squad is given more than once"):
        parse_names("squad,squad", valid, option="--datasets")


@pytest.mark.parametrize(
    "value", ["none", "local", "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379", "ray://head:10001"]
)
def test_addresses(value):
    assert _check_address(value) == value


@pytest.mark.parametrize(
    "value", ["", "nowhere", "head", ":6379", "head:", "head:0", "head:99999", "a b:1", "http://a:1"]
)
def test_addresses_that_mean_nothing(value):
    with pytest.raises(UsageError, match="use none .this process., local"):
        _check_address(value)


def test_i18_seeds():
    assert [_check_seed(s) for s in (0, 2**63 - 1)] == [0, 2**63 - 1]
    for seed in (-1, 2**63):
        with pytest.raises(UsageError, match="a seed is a whole number from 0 to"):
            _check_seed(seed)


def test_i16_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "some results" / "ünï 漢字"
    assert writable_folder(folder) == folder
    assert list(folder.iterdir()) == []
    assert writable_folder(folder) == folder


def test_i16_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    for path in (tmp_path / "runs", tmp_path / "runs" / "a" / "b"):
        with pytest.raises(UsageError, match=r"runs is a file, not a folder; choose another folder"):
            writable_folder(path)


def test_i12_i16_folders_that_cannot_be_written_are_refused(tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(UsageError, match="cannot write there"):
            writable_folder(path)
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere, so a read-only folder cannot be made")
    with pytest.raises(UsageError, match=r"cannot write there \(Permission denied\)"):
        writable_folder(closed / "a")


@pytest.mark.parametrize("method", ["mkdir", "touch"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_i16_whatever_the_file_system_refuses_is_one_sentence(tmp_path, monkeypatch, method, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(UsageError, match=rf"^--out .*: cannot write there \({os.strerror(number)}\); choose another"):
        writable_folder(tmp_path / "out")
