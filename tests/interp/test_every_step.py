"""Analyses are the same bytes from this process and from two workers, those of several models from one as well."""

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

    def files_of(folder: str, session: Session | None = None, alone: tuple[str, ...] = ()) -> dict[str, bytes]:
        """The files of the cache, by place; `alone`: analyses of one model."""
        run(alone, (), folder, session)
        run(OF_TWO_MODELS, (other,), folder, session)
        files = sorted(path for path in (tmp_path / folder).rglob("*") if path.suffix in {".parquet", ".safetensors"})
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in files}

    here = files_of("here", None, OF_ONE_MODEL)
    for actors, alone in ((1, OF_ONE_MODEL[:2]), (2, OF_ONE_MODEL)):
        there = files_of(f"by {actors}", ray_workers(actors), alone)
        assert {Path(name).parts[0] for name in there} >= {*alone, *OF_TWO_MODELS}
        assert [name for name, data in there.items() if data != here.get(name)] == [], actors
    assert there.keys() == here.keys()
    assert {Path(name).parts[0] for name in here} >= {*OF_ONE_MODEL, *OF_TWO_MODELS}
