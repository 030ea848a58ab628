"""Comparisons of models are the same bytes from one process and from workers, and their page's example is true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from interp_jobs import asked, reader
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.models import load


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("step", "others"), [("causal_equivalence", 1), ("universality", 0)])
def test_comparisons_are_the_same_from_workers_elsewhere(step: str, others: int, tmp_path: Path) -> None:
    from mplat.runtime import open_session

    model, *further = [load(reader(arch).save(tmp_path / arch)) for arch in ("mamba", "mamba2")[: 1 + others]]
    settings: Any = {"batch_size": 2, "steps": (step,), step: dict(all_steps()[step].settings.small)}
    chosen = config_model().model_validate(settings)
    here = run_steps(model, asked(), chosen, others=further, cache=Cache(tmp_path / "here"))[step]
    with open_session("local", actors=2) as session:
        there = run_steps(model, asked(), chosen, others=further, cache=Cache(tmp_path / "there"), session=session)
    assert here.key == there[step].key
    files = sorted(path.name for path in (tmp_path / "here" / step / here.key).glob("*.parquet"))
    for part in files:
        one, two = ((tmp_path / side / step / here.key / part).read_bytes() for side in ("here", "there"))
        assert one == two, part
    assert len(files) == 3


def test_the_example_of_the_page_is_true(root: Path) -> None:
    page = (root / "docs" / "comparing-models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, "comparing-models.md", "exec"), {})
    assert said.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
