"""Results on stdout, everything else on stderr, and nothing in either that steers the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.commands.frame import output as output_module
from mplat.commands.frame.output import Output, clean, duration, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ünïcode 漢字 🙂\n\ttab", "plain text, ünïcode 漢字 🙂\n\ttab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new window title\x07text", "text"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[1;1Hhome", "home"),
        ("\x1bcreset", "reset"),
        ("\x9b31mred", "red"),
        ("over\rwritten\b\b\x00\x7f", "overwritten"),
        ("abc\u202edesrever\u2066", "abcdesrever"),
        ("unfinished \x1b]0;title", "unfinished "),
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ],
)
def test_terminal_sequences_are_removed_and_text_stays(text, expected):
    assert clean(text) == expected


@given(st.text())
def test_clean_text_has_no_control_characters_and_is_clean(text):
    cleaned = clean(text)
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"])))
def test_ordinary_text_is_untouched(text):
    assert clean(text) == text


def test_a_table_lines_up_and_is_never_cut():
    rows = [["tiny-mamba", 1234567, 0.123456, True, None], ["a\x1b[31m\nb" + "x" * 200, 5, None, False, "-3"]]
    lines = table(["model", "parameters", "loss", "ships", "note"], rows).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["tiny-mamba", "1,234,567", "0.1235", "yes", "-"]
    assert lines[2].split() == ["a", "b" + "x" * 200, "5", "-", "no", "-3"]
    end = lines[0].index("parameters") + len("parameters")
    assert lines[1][:end].endswith("1,234,567") and lines[2][:end].endswith(" 5")
    assert table(["a", "b"], []) == "a  b"


def test_durations_are_in_human_units():
    assert [duration(s) for s in (0.2, 59.4, 60, 250, 3599, 3600, 7500)] == [
        "0 s", "59 s", "1 min 0 s", "4 min 10 s", "59 min 59 s", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip


def test_progress_in_a_pipe_is_plain_lines(capfd, monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(output_module.time, "monotonic", lambda: float(next(clock)))
    with Output().progress("evaluate", 40, "prompts") as progress:
        for _ in range(40):
            progress.advance(note="em \x1b[31m0.5")
    out, err = capfd.readouterr()
    assert out == "" and clean(err) == err
    lines = err.splitlines()
    assert 2 <= len(lines) < 40  # not a line for every prompt
    assert lines[-1].startswith("evaluate: 40/40 prompts (100%), ") and lines[-1].endswith("; em 0.5")
    assert "about" in lines[0] and lines[0].endswith("left; em 0.5")


def test_quiet_leaves_only_warnings_and_the_result(capfd):
    output = Output(quiet=True, verbose=1)
    output.say("working")
    output.detail("more")
    with output.progress("count") as progress:
        progress.advance(5)
    output.warn("half of the rows are short")
    output.result({}, "42")
    assert capfd.readouterr() == ("42\n", "warning: half of the rows are short\n")


def test_detail_needs_verbose(capfd):
    Output().detail("unseen")
    Output(verbose=1).detail("seen")
    assert capfd.readouterr().err == "seen\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_one_line_that_notes_do_not_break(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(output_module.sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    output = Output()
    with output.progress("a long title that does not fit", 2, "steps") as progress:
        progress._shown -= 1
        progress.advance()
        output.say("note")
        progress.advance()
    seen, erase = terminal.getvalue(), "\r\x1b[2K"
    assert seen.startswith(erase + "a long title that does not fit: 1/2 ste")
    assert f"{erase}note\n{erase}a long title" in seen
    assert max(len(part) for part in seen.replace("\n", "").split(erase)) < 40


def test_json_takes_paths_and_dataclasses_and_nothing_unknown(capfd):
    @dataclasses.dataclass
    class Row:
        name: str
        at: Path

    Output(json=True).result({"row": Row("a", Path("b/c")), "text": "\x1b[31mü"}, "")
    out = capfd.readouterr().out
    assert json.loads(out) == {"row": {"name": "a", "at": "b/c"}, "text": "\x1b[31mü"}
    assert out.isascii() and "\x1b" not in out
    with pytest.raises(TypeError, match="contains a object, which is not JSON"):
        Output(json=True).result({"x": object()}, "")
