"""Every module of the package can be imported: a wrong import in a file that no other test needs would go unnoticed.

In a process of its own, so that modules which other tests have imported already do not hide what is wrong, and one
process for all, because most of the time is torch's. Modules written for hardware that is absent here are let off by
what they themselves need: a package that is not installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "platform"
OPTIONAL = {"triton", "lm_eval"}  # the first comes with torch for CUDA only, the other is an extra
STARTS_THE_PROGRAM = {"mplat.__main__"}

IMPORT_ALL = """
import gc, importlib, json, sys
gc.disable()  # it would look through all of torch again and again
wrong = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException as error:
        wrong[name] = [type(error).__name__, str(error), getattr(error, "name", None)]
json.dump(wrong, sys.stdout)
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("mplat", *(part for part in parts if part != "__init__")))


def importing(names: list[str], path: str = "") -> dict[str, list[str]]:
    """What goes wrong, by module: the error's class, its text, and the module that an ImportError misses."""
    code = f"import sys; sys.path[:0] = {[path] if path else []}" + IMPORT_ALL
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(names), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_absent_package(told: list[str]) -> bool:
    return told[0] == "ModuleNotFoundError" and told[2].split(".")[0] in OPTIONAL


@pytest.mark.slow
def test_every_module_can_be_imported() -> None:
    names = sorted({module_name(path) for path in PACKAGE.rglob("*.py")} - STARTS_THE_PROGRAM)
    assert len(names) > 100
    assert {name: told for name, told in importing(names).items() if not is_absent_package(told)} == {}


def test_a_wrong_import_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong_import.py").write_text("from mplat.core.errors import NoSuchError\n")
    (told,) = importing(["mplat.core.errors", "wrong_import"], str(tmp_path)).values()
    assert told[0] == "ImportError" and "NoSuchError" in told[1]


def test_no_worker_and_no_command_loads_torch_to_make_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "The river"}\n')
    tokenizer, out = PACKAGE / "models" / "tiny" / "tokenizer", tmp_path / "T"
    words = ["tokenize", str(tmp_path / "a.jsonl"), "--tokenizer", str(tokenizer), "--out", str(out), "--quiet"]
    code = (
        "import sys; from mplat.commands import main; import mplat.tokenise.worker; "
        f"assert main({[*words, '--address', 'none']!r}) == 0; import mplat.runtime.installation as here; "
        "here.installation(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
