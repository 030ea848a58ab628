"""The example on the page of comparisons is true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path


def test_the_example_of_the_page_is_true(root: Path) -> None:
    page = (root / "docs" / "comparing-models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, "comparing-models.md", "exec"), {})
    assert said.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
