"""Comparisons of models are the same bytes from one process and from workers, and their page's example is true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from interp_jobs import asked, reader
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.models import load

STEPS = ("causal_equivalence", "universality")


@pytest.mark.slow
@pytest.mark.ray
def test_comparisons_are_the_same_from_workers_elsewhere(tmp_path: Path) -> None:
    from mplat.runtime import open_session

    models = [load(reader(arch).save(tmp_path / arch)) for arch in ("mamba", "mamba2")]
    small = {name: dict(all_steps()[name].settings.small) for name in STEPS}
    chosen = config_model().model_validate({"batch_size": 2, "steps": STEPS, **small})
    here = run_steps(models[0], asked(), chosen, others=models[1:], cache=Cache(tmp_path / "here"))
    with open_session("local", actors=2) as session:
        there = run_steps(
            models[0], asked(), chosen, others=models[1:], cache=Cache(tmp_path / "there"), session=session
        )  # fmt: skip
    for step in STEPS:
        assert here[step].key == there[step].key
        for part in sorted(path.name for path in (tmp_path / "here" / step / here[step].key).glob("*.parquet")):
            one, two = ((tmp_path / side / step / here[step].key / part).read_bytes() for side in ("here", "there"))
            assert one == two, (step, part)


def test_the_example_of_the_page_is_true(root: Path) -> None:
    page = (root / "docs" / "comparing-models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, "comparing-models.md", "exec"), {})
    assert said.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
