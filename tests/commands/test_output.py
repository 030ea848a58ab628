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
from mplat.commands.frame.drawing import _widths, coloured_help
from mplat.commands.frame.output import Output
from mplat.core.plain_text import Table, clean, duration


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
def test_i14_terminal_sequences_are_removed_and_text_stays(text, expected):
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
    lines = str(Table(["model", "parameters", "loss", "ships", "note"], rows)).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["tiny-mamba", "1,234,567", "0.1235", "yes", "-"]
    assert lines[2].split() == ["a", "b" + "x" * 200, "5", "-", "no", "-3"]
    end = lines[0].index("parameters") + len("parameters")
    assert lines[1][:end].endswith("1,234,567") and lines[2][:end].endswith(" 5")
    assert str(Table(["a", "b"], [])) == "a  b"


def test_durations_are_in_human_units():
    assert [duration(s) for s in (0.2, 59.4, 60, 250, 3599, 3600, 7500)] == [
        "0 s", "59 s", "1 min 0 s", "4 min 10 s", "59 min 59 s", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip


def test_f34_progress_in_a_pipe_is_plain_lines(capfd, monkeypatch):
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


def _on_a_terminal(monkeypatch) -> _Terminal:
    """stderr and stdout are one terminal of 60 columns."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    screen = _Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(output_module.sys, name, screen)
    return screen


def test_progress_on_a_terminal_is_one_line_that_notes_do_not_break(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    monkeypatch.setattr(output_module, "_LIVE_INTERVAL_S", 0.0)
    output = Output()
    with output.progress("a long title that does not fit beside its bar", 2, "steps") as progress:
        progress.advance()
        output.say("a note [bold]without[/bold] markup, longer than the sixty columns that the terminal has")
        progress.advance()
    seen = terminal.getvalue()
    assert seen.endswith("\n\x1b[?25h")  # the last state stays, and the cursor is shown again
    drawn = [clean(part).strip("\n") for part in seen.split("\r\x1b[2K")]
    note = "a note [bold]without[/bold] markup, longer than the sixty columns that the terminal has"
    bars = [line for part in drawn for line in part.splitlines() if line and line != note]
    assert any(part.startswith(note) for part in drawn) and len(bars) >= 3
    assert all("\u2501 a long title that does not fit" in bar and len(bar) <= 60 for bar in bars)


def test_f34_forty_columns_are_enough(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(output_module, "_LIVE_INTERVAL_S", 0.0)
    with Output().progress("evaluate the questions", 2, "prompts") as progress:
        progress.advance()
        progress.advance()
    Output().result({}, Table(["name", "what"], [["tiny-mamba", "more words than have room in forty columns"]]))
    lines = clean(terminal.getvalue().replace("\r\x1b[2K", "\n")).splitlines()
    assert any("evaluate" in line for line in lines) and any("tiny-mamba" in line for line in lines)
    assert max(map(len, lines)) <= 40


def test_a_table_on_a_terminal_is_wrapped_between_words(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    words = "[red]every[/red] word of a long cell is there and none of them is broken"
    Output().result({}, "before", Table(["name", "n", "what"], [["a-name", 1234, words], ["b", None, None]]), "after")
    lines = clean(terminal.getvalue()).splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and 5 < len(lines) and max(map(len, lines)) <= 60
    shown = " ".join(lines).split()
    assert [word for word in words.split() if word not in shown] == [] and "1,234" in shown and "a-name" in shown


def test_titles_are_broken_before_names_and_numbers(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    columns, row = ["a_very_long_title"] * 5, ["1234567.5"] * 5
    Output().result({}, Table(columns, [row]))
    lines = clean(terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60 and lines[-1].split() == row and "a_very_long_title" not in lines[0]


def test_a_table_whose_words_do_not_fit_is_left_to_the_terminal(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    wide = Table(["path", "n"], [["x" * 90, 5]])
    Output().result({}, wide)
    assert clean(terminal.getvalue()) == f"{wide}\n"


@given(st.lists(st.lists(st.text("ab é", max_size=12), min_size=3, max_size=3), max_size=4), st.integers(1, 60))
def test_columns_never_take_more_than_the_room_and_keep_the_words_of_cells(rows, room):
    table = Table(["name", "what it says", "n"], rows)
    widths, gap = _widths(table, room)
    longest = [max([len(word) for row in table.cells() for word in row[i].split()] or [1]) for i in range(3)]
    if widths is None:
        assert sum(longest) + 2 > room
    else:
        assert sum(widths) + 2 * gap <= room and all(w >= n for w, n in zip(widths, longest, strict=True))


def test_f34_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch):
    terminal = _on_a_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    output = Output()
    with output.progress("count", 2, "steps") as progress:
        progress.advance(2)
    output.result({}, Table(["a"], [["x" * 90]]))
    assert clean(terminal.getvalue()) == terminal.getvalue() and "x" * 90 in terminal.getvalue()


def test_help_on_a_terminal_is_the_plain_help_in_colours(monkeypatch):
    text = "Usage: mplat eval [OPTIONS]\n\n  Judge --questions.\n\nOptions:\n  -q, --per-level N  Of [a] 3-4 level.\n"
    terminal = _on_a_terminal(monkeypatch)
    coloured = coloured_help(text, terminal)
    assert clean(coloured) == text and "\x1b[36m--per-level\x1b[0m N" in coloured and "\x1b[1mOptions" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in coloured_help(text, terminal)
    assert coloured_help(text, io.StringIO()) == text


def test_brief_work_in_a_pipe_says_nothing(capfd):
    with Output().progress("count", 2, brief=True) as progress:
        progress.advance(2)
    assert capfd.readouterr() == ("", "")


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
