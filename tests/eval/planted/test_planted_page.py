"""The example of docs/planted.md is a search that can be scored, in at most twenty lines; the page names all kinds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mplat.eval.planted import KINDS, score

PAGE = (Path(__file__).resolve().parents[3] / "docs/planted.md").read_text(encoding="utf-8")
EXAMPLE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def louder" in block)


def test_the_page_names_every_kind_and_the_example_is_short():
    assert all(f"| `{kind}` |" in PAGE for kind in KINDS)
    search = EXAMPLE[EXAMPLE.index("def louder") : EXAMPLE.index("for case in")].strip()
    assert search.count("\n") < 20


@pytest.mark.slow
def test_the_example_of_the_page_mends_a_plant():
    names: dict[str, object] = {}
    exec(EXAMPLE[: EXAMPLE.index("for case in")], names)  # the page's own code
    (case,) = score(names["louder"], plants=["tiny-mamba2:mixer_out:1/16:0"], per_level=4, per_level_test=10, draws=1)
    assert case.supported and case.hits == 16 and case.restored is not None and case.restored > 0.8
