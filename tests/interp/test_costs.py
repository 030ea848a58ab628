"""What a plan would cost: what steps say, times a probe of this machine, beside what they take."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pyarrow as pa
import pytest
from interp_jobs import asked, reader
from model_zoo import ARCHITECTURES
from mplat.interp import Cache, Job, Plan, all_steps, config_model, plan_steps
from mplat.interp.engine.costs import effort_of, estimate, tokens_of
from mplat.interp.engine.effort import USUAL, of_channels, passes
from mplat.interp.engine.run import carry_out
from mplat.interp.engine.step import Asked, Effort, Step, StepSettings, step
from mplat.models import load


def nothing(job: Job) -> dict[str, pa.Table]:
    """Nothing."""
    return {"": pa.table({"row": [1]})}


def plan_of(chosen: Step, **values: object) -> Plan:
    config = config_model().model_validate({"steps": (chosen.name,)} | values)
    return plan_steps(reader(), asked(), config, known={chosen.name: chosen})


def made(cost: object) -> Step:
    return Step("made", 1, (), StepSettings, False, nothing, cost=cost)  # type: ignore[arg-type]


def test_passes_count_tokens_items_and_layers() -> None:
    chosen = Asked(reader(), (0, 1), None, {})
    file = passes(0, bytes=0)(chosen, [4, 6]).bytes
    assert passes(3, bytes=10)(chosen, [4, 6]) == Effort(30, file + 20)
    assert passes(3, bytes=10, layer_bytes=7)(chosen, [4, 6]) == Effort(30, file + 34)
    assert passes(3, bytes=10, seconds=1.5)(chosen, [4, 6]) == Effort(30, file + 20, 1.5)


def test_sites_count_their_channels() -> None:
    class Chosen(StepSettings):
        sites: tuple[str, ...] = ("mixer_out", "mixer.delta")

    file = passes(0, bytes=0)(Asked(reader(), (), None, {}), []).bytes
    effort = of_channels(2, bytes=5)(Asked(reader(), (1,), Chosen(), {}), [4, 6])
    assert effort == Effort(20, file + 5 * (24 + 48))


def test_a_step_that_says_nothing_counts_as_a_usual_number_of_passes() -> None:
    plan = plan_of(made(None))
    total = sum(plan.data.lengths)
    assert effort_of(plan, "made").tokens == USUAL * total == tokens_of(plan, ["made"])


def test_a_cost_sees_settings_layers_and_lengths() -> None:
    def cost(asked: Asked, lengths: object) -> Effort:
        assert asked.layers == (1,) and isinstance(asked.settings, StepSettings)
        return Effort(float(len(list(lengths))))  # type: ignore[call-overload]

    plan = plan_of(made(cost), layers=(1,))
    assert effort_of(plan, "made") == Effort(len(plan.data.items))


def test_an_estimate_is_the_effort_times_the_probe_and_of_missing_steps_alone() -> None:
    once, thrice = (estimate(plan_of(made(passes(n))), ["made"]).steps["made"].seconds for n in (1, 30))
    assert 5 < thrice / once < 180  # the probe is measured each time
    nothing_is = estimate(plan_of(made(None)), [])
    assert nothing_is.steps == {} and nothing_is.total.seconds == 0 and nothing_is.total.how == "nothing is missing"
    fixed = estimate(plan_of(made(lambda asked, lengths: Effort(0, 7, 42.0))), ["made"]).steps["made"]
    assert fixed == (42.0, 7)


def test_the_decorator_takes_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    from mplat.interp.engine.step import STEPS

    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))
    step("costly", cost=passes(2))(nothing)
    assert all_steps()["costly"].cost is not None


@pytest.mark.parametrize("name", ["attribution", "activations"])
def test_the_estimate_of_a_step_is_near_what_it_takes(name: str, tmp_path: Path) -> None:
    """Loosely: other work on this machine may slow down the one or the other."""
    config = config_model().model_validate({"steps": (name,), "per_level": 5})
    plan = plan_steps(load("tiny-mamba"), config=config)
    cost = estimate(plan, [name]).steps[name]
    began = time.monotonic()
    done = carry_out(plan, cache=Cache(tmp_path))
    took = time.monotonic() - began
    assert 0.1 < cost.seconds / took < 10
    written = sum(path.stat().st_size for path in (tmp_path / name / done.results[name].key).iterdir())
    assert 0.3 < cost.bytes / written < 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_analysis_says_what_it_takes_on_every_architecture(arch: str) -> None:
    names = [name for name, known in all_steps().items() if not known.others and known.items != "texts"]
    config = config_model().model_validate({"steps": names, "facts": "generated", "limit": 3})
    plan = plan_steps(reader(arch), asked(), config)
    for name in names:
        assert all_steps()[name].cost is not None, name
        effort = effort_of(plan, name)
        assert effort.tokens >= 0 and effort.bytes > 0 and effort.tokens + effort.seconds > 0, name
        assert all(map(math.isfinite, effort)), name
