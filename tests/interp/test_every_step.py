"""Analyses of prompts are the same bytes from one process and from workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from interp_jobs import asked, reader
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.models import load


@pytest.mark.ray
def test_analyses_of_prompts_are_the_same_from_workers_elsewhere(tmp_path: Path) -> None:
    from mplat.runtime import open_session

    reader("mamba2").save(tmp_path / "model")
    model = load(tmp_path / "model")
    small = {name: dict(step.settings.small) for name, step in all_steps().items()}
    chosen = config_model().model_validate({"batch_size": 2, "steps": ("memory_decay",), **small})
    here = run_steps(model, asked(), chosen, cache=Cache(tmp_path / "here"))
    with open_session("local", actors=2) as session:
        there = run_steps(model, asked(), chosen, cache=Cache(tmp_path / "there"), session=session)
    assert here.keys() == there.keys() >= {"fact_tracing"}
    for step, result in here.items():
        assert result.key == there[step].key
        for part in sorted(path.name for path in (tmp_path / "here" / step / result.key).glob("*.parquet")):
            one, two = ((tmp_path / side / step / result.key / part).read_bytes() for side in ("here", "there"))
            assert one == two, (step, part)
