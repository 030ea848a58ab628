"""Steps run after what they need; names that do not exist, and circles, are usage errors."""

from __future__ import annotations

import json

import pytest
from mplat.core.errors import UsageError
from mplat.interp.engine.graph import all_steps, in_order
from mplat.interp.engine.interp_config import config_model, default_config, settings_of
from mplat.interp.engine.step import Step, StepSettings


def step(name: str, *needs: str) -> Step:
    return Step(name, 1, needs, StepSettings, False, lambda job: {})


def names(steps: list[Step]) -> list[str]:
    return [s.name for s in steps]


def test_every_step_comes_after_what_it_needs() -> None:
    known = {s.name: s for s in (step("a", "c"), step("b"), step("c", "b", "d"), step("d"))}
    assert names(in_order(None, known)) == ["b", "d", "c", "a"]
    assert names(in_order(["c"], known)) == ["b", "d", "c"]
    assert names(in_order(["d", "b"], known)) == ["b", "d"]


def test_what_cannot_be_ordered_is_said() -> None:
    known = {s.name: s for s in (step("a", "b"), step("b", "a"), step("lost", "nowhere"))}
    with pytest.raises(UsageError, match="circle: a -> b -> a"):
        in_order(["a"], known)
    with pytest.raises(UsageError, match="'nowhere', which 'lost' needs"):
        in_order(["lost"], known)
    with pytest.raises(UsageError, match="did you mean 'bottlenecks'"):
        in_order(["botlenecks"])
    with pytest.raises(UsageError, match="no step is named"):
        in_order([])


def test_every_registered_step_keeps_the_contract() -> None:
    """Found by import, described in one line, with settings that have defaults and are plain JSON."""
    assert {"activations", "attribution", "bottlenecks", "delta_sensitivity"} <= all_steps().keys()
    for name, found in all_steps().items():
        assert found.name == name and found.version >= 1 and found.meaning.endswith(".")
        assert set(found.needs) <= all_steps().keys()
        defaults = found.settings()
        again = found.settings.model_validate_json(json.dumps(defaults.model_dump(mode="json")), strict=True)
        assert again == defaults
        assert settings_of(default_config(), found) == defaults


def test_the_shipped_configuration_is_the_default(root) -> None:
    from mplat.core.config import load_config

    assert load_config(config_model(), root / "configs" / "interp" / "default.yaml", []) == default_config()
    with pytest.raises(UsageError, match="did you mean 'bottlenecks'"):
        load_config(config_model(), None, ["botlenecks.resamples=1000"])
