"""Analyses are the same bytes from this process, from one worker and from two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from interp_jobs import asked, reader
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.models import LanguageModel, load
from mplat.runtime.session import Session

OF_ONE_MODEL = (
    "collect", "probes", "sae", "dictionary", "superposition", "sparse_probing", "circuits", "patching", "interchange",
    "spd", "apd", "parameter_clusters", "memory_decay", "bottlenecks", "memory_horizon", "temporal_causality",
    "diagnostics", "delta_neurons", "causal_neurons", "attention_neurons", "sparsity", "efficiency", "ssm_parameters",
    "recursion", "memory_recursion", "ssm_attention", "text_consistency", "stable_mamba",
)  # fmt: skip
OF_TWO_MODELS = ("universality", "model_overview", "causal_equivalence", "scaling", "layer_correlation")


@pytest.mark.slow
@pytest.mark.ray
def test_analyses_are_the_same_from_workers_elsewhere(tmp_path: Path, ray_workers: Callable[[int], Session]) -> None:
    model, other = (load(reader(arch).save(tmp_path / arch)) for arch in ("mamba2", "mamba"))
    small = {name: dict(step.settings.small) for name, step in all_steps().items()}

    def run(steps: tuple[str, ...], others: Sequence[LanguageModel], folder: str, session: Session | None) -> None:
        config = config_model().model_validate({"batch_size": 4, "steps": steps, **small})
        run_steps(model, asked(), config, others=others, cache=Cache(tmp_path / folder), session=session)

    def run_all(folder: str, session: Session | None = None) -> dict[str, bytes]:
        """The files of the cache, by place."""
        run(OF_ONE_MODEL, (), folder, session)
        run(OF_TWO_MODELS, (other,), folder, session)
        files = sorted(path for path in (tmp_path / folder).rglob("*") if path.suffix in {".parquet", ".safetensors"})
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in files}

    here = run_all("here")
    for actors in (1, 2):
        there = run_all(f"by {actors}", ray_workers(actors))
        assert there.keys() == here.keys()
        assert [name for name, data in there.items() if data != here[name]] == [], actors
    assert {Path(name).parts[0] for name in here} >= {*OF_ONE_MODEL, *OF_TWO_MODELS}
