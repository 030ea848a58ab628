"""What every registered command promises: it explains itself, speaks JSON, and refuses what it does not know."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from mplat.commands import build_app, main
from mplat.commands.frame.command import COMMANDS
from typer.main import get_command

HEAVY = {"torch", "transformers", "tokenizers", "pyarrow", "pydantic", "ray", "numba", "scipy", "matplotlib", "numpy"}
NAMES = COMMANDS.names()


def ended(capfd: pytest.CaptureFixture[str], argv: list[str]) -> tuple[int, str, str]:
    code = main(argv, prog="mplat")
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", NAMES)
def test_it_explains_itself_and_every_option(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS.get(name).function.__doc__, "the docstring is the help"
    code, out, err = ended(capfd, [*name.split(), "--help"])
    assert (code, err) == (0, "") and out.startswith(f"Usage: mplat {name} ")
    command: Any = get_command(build_app()).commands[name]  # type: ignore[attr-defined]
    options = {option: entry for entry in command.params for option in entry.opts if entry.param_type_name == "option"}
    assert "--json" in options
    assert [option for option, entry in options.items() if not entry.help] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_it_does_not_have_is_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(capfd, [*name.split(), "--no-such-option"])
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"error: `mplat {name}` has no option --no-such-option")


def test_all_stand_in_the_help_and_importing_them_imports_nothing_heavy() -> None:
    script = f"import sys; from mplat.commands import main; main(['--help']); print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *page, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    shown = {line.split()[0] for line in page if line.startswith("  ") and line.split()}
    assert {name.split()[0] for name in NAMES if not COMMANDS.get(name).hidden} <= shown
