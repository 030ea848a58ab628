"""Analyses are the same bytes from this process, from one worker and from two."""

from __future__ import annotations

from pathlib import Path

import pytest
from interp_jobs import asked, reader
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.models import load

OF_ONE_MODEL = (
    "collect", "probes", "sae", "dictionary", "superposition", "sparse_probing", "circuits", "patching", "interchange",
    "spd", "apd", "parameter_clusters", "memory_decay",
)  # fmt: skip
OF_TWO_MODELS = ("universality", "model_overview", "causal_equivalence", "scaling")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("steps", "others"), [(OF_ONE_MODEL, 0), (OF_TWO_MODELS, 1)])
def test_analyses_are_the_same_from_workers_elsewhere(steps: tuple[str, ...], others: int, tmp_path: Path) -> None:
    from mplat.runtime import open_session

    model, *further = [load(reader("mamba2", seed=i).save(tmp_path / f"model-{i}")) for i in range(1 + others)]
    small = {name: dict(step.settings.small) for name, step in all_steps().items()}
    chosen = config_model().model_validate({"batch_size": 4, "steps": steps, **small})
    here = run_steps(model, asked(), chosen, others=further, cache=Cache(tmp_path / "here"))
    with open_session("local", actors=2) as session:
        for actors in (1, 2):
            used = session.using(actors=actors)
            run_steps(model, asked(), chosen, others=further, cache=Cache(tmp_path / f"by {actors}"), session=used)
    tables = 0
    for step, result in here.items():
        for path in sorted((tmp_path / "here" / step / result.key).iterdir()):
            for actors in (1, 2):
                there = tmp_path / f"by {actors}" / step / result.key / path.name
                assert path.suffix == ".json" or path.read_bytes() == there.read_bytes(), (step, path.name, actors)
            tables += path.suffix == ".parquet"
    assert here.keys() >= {*steps} and tables >= 2 * len(steps)
