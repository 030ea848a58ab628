"""Jacobians are those of finite differences and of autograd; planted decays and connections are found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.interp.engine.batches import Item
from mplat.interp.methods.decay_fits import decay_fits
from mplat.interp.methods.influence import InfluenceMap, connections, long_range_share, profile, token_weights
from mplat.interp.methods.jacobians import directions_of, squared_jacobians
from mplat.models import Add, LanguageModel
from mplat.models.parts.recall import inverse_softplus
from planted_circuits import grown, items_of

TOKENS = (3, 9, 1, 22, 9, 4, 17)
WHOLE = ("blocks.1.resid_post", ["blocks.0.resid_pre", "blocks.1.resid_pre"])
QUICK = {"resamples": 100}


def rows(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[key] == value for key, value in where.items())]


def steady(rates: torch.Tensor, step: float = 0.5) -> LanguageModel:
    """One Mamba block of one coordinate a channel, channel e of which decays by exp(-rates[e]) at every token and is
    read as strongly as it decays: rates spread evenly in their logarithm add up to 1 / k, the integral of r exp(-r k)
    over ln r."""
    model = nano("mamba", n_layers=1, state_size=1)
    mixer: Any = model.blocks[0].mixer
    with torch.no_grad():
        mixer.A_log.copy_((rates / step).log()[:, None])
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias.fill_(inverse_softplus(step))
        mixer.out_proj.weight.mul_(rates)
    return model


# -- Jacobians ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["mamba", "striped_hyena"])
def test_exact_sizes_are_those_of_finite_differences_and_of_autograd(arch: str) -> None:
    model, tokens = nano(arch), torch.tensor([TOKENS])
    directions, exact = directions_of(24, 32, 4, "q", 0)
    positions = [2, 6]
    (found,) = squared_jacobians(model, TOKENS, [WHOLE], positions, directions)
    assert exact

    def after(moved: torch.Tensor) -> torch.Tensor:
        with model.edit(Add("blocks.0.resid_pre", moved[None])), model.capture(WHOLE[0], gradients=True) as acts:
            model(tokens)
        return acts[WHOLE[0]][0]

    still = torch.zeros(len(TOKENS), 24, dtype=torch.float64)
    whole: Any = torch.autograd.functional.jacobian(after, still)
    sizes = whole.square().sum((1, 3))  # (t, s)
    torch.testing.assert_close(found["blocks.0.resid_pre"], sizes[positions], rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        for s in (1, 4):
            squares = torch.zeros(len(TOKENS), dtype=torch.float64)
            for channel in range(24):
                step = still.clone()
                step[s, channel] = 1e-6
                squares += ((after(step) - after(-step)) / 2e-6).square().sum(1)
            torch.testing.assert_close(found["blocks.0.resid_pre"][:, s], squares[positions], rtol=1e-6, atol=1e-9)
    assert found["blocks.0.resid_pre"][0, 3:].abs().max() == 0  # nothing comes from later tokens


def test_a_span_of_one_block_and_chunks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model, directions = nano("mamba"), torch.eye(24, dtype=torch.float64)
    block = ("blocks.0.resid_post", ["blocks.0.resid_pre"])
    both = squared_jacobians(model, TOKENS, [block, WHOLE], [6, 1], directions)
    monkeypatch.setattr("mplat.interp.methods.jacobians._TOKENS", 20)
    again = squared_jacobians(model, TOKENS, [WHOLE], [1, 6], directions)
    for site in WHOLE[1]:
        torch.testing.assert_close(both[1][site], again[0][site].flip(0))
    assert not torch.allclose(both[0]["blocks.0.resid_pre"], both[1]["blocks.0.resid_pre"])


def test_random_directions_estimate_the_sizes_without_bias() -> None:
    model, positions = nano("mamba"), [5]
    exact = squared_jacobians(model, TOKENS, [WHOLE], positions, torch.eye(24, dtype=torch.float64))
    directions, known = directions_of(24, 8, 400, "q", 0)
    estimate = squared_jacobians(model, TOKENS, [WHOLE], positions, directions)
    assert not known and directions.equal(directions_of(24, 8, 400, "q", 0)[0])
    assert not directions.equal(directions_of(24, 8, 400, "r", 0)[0])
    for site in WHOLE[1]:  # within four of the largest standard deviations that there can be
        torch.testing.assert_close(estimate[0][site], exact[0][site], rtol=4 * math.sqrt(2 / 400), atol=1e-12)


# -- what maps say --------------------------------------------------------------------------------------------------


def falling(law: Any, length: int = 30, group: str = "") -> InfluenceMap:
    positions = np.arange(1, length)
    distance = positions[:, None] - np.arange(length)
    squares = np.where(distance > 0, law(np.maximum(distance, 1).astype(float)) ** 2, np.where(distance == 0, 9.0, 0.0))
    return InfluenceMap(positions, squares, group)


def test_an_exponential_and_a_power_law_are_told_apart_with_their_numbers() -> None:
    k = np.arange(1, 40)
    curves = np.stack([2 * np.exp(-k / 7.0), 3 * k**-1.3, np.full(39, 0.5)])
    fits = decay_fits(k, curves)
    assert fits.tau[0] == pytest.approx(7) and fits.beta[1] == pytest.approx(1.3) and math.isinf(fits.tau[2])
    assert fits.difference[0] > 100 and fits.difference[1] < -100
    noisy = curves[:2] * np.exp(0.3 * np.random.default_rng(0).standard_normal((2, 39)))
    assert decay_fits(k, noisy).difference[0] > 2 > -2 > decay_fits(k, noisy).difference[1]
    for wrong in (curves[:, :3], -curves):
        with pytest.raises(UsageError):
            decay_fits(k[: wrong.shape[1]], wrong)


def test_the_aic_is_that_of_the_normal_likelihood() -> None:
    k, y = np.array([1.0, 2, 3, 4, 5]), np.array([0.9, 0.5, 0.4, 0.1, 0.05])
    slope, level = np.polyfit(k, np.log(y), 1)
    residual = np.log(y) - slope * k - level
    s = residual.std()
    likelihood = sum(-(r**2) / (2 * s**2) - math.log(s * math.sqrt(2 * math.pi)) for r in residual)
    assert decay_fits(k, y[None]).aic_exponential[0] == pytest.approx(6 - 2 * likelihood)


def test_profiles_shares_and_connections_by_hand() -> None:
    squares = np.array([[4.0, 1.0, 7.0, 0.0], [1.0, 9.0, 4.0, 7.0]])
    of = InfluenceMap(np.array([2, 3]), squares, "a")
    assert long_range_share(of, 1) == pytest.approx((4 + 1 + 9) / (4 + 1 + 1 + 9 + 4))
    assert long_range_share(of, 2) == pytest.approx(1 / 14)  # t = 2 has none so far
    assert long_range_share(of, 3) is None
    found = profile([of], seed=0, n_resamples=5)
    assert found.distances.tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.influence[0], [math.sqrt(2.5), math.sqrt(6.5), 1.0])
    (one,) = connections(of, 1, fewest=2)
    assert (one.t, one.s, one.influence) == (3, 1, 3.0) and one.share == 0.9 and one.times_even == 1.8
    assert connections(of, 1) == []  # two to choose from say little
    np.testing.assert_allclose(token_weights(of, 1), [0.2, 1.8, np.nan, np.nan])


def test_resampled_profiles_draw_whole_groups() -> None:
    maps = [falling(lambda k, a=a: a * k**-1.0, group=g) for a, g in ((1.0, "a"), (2.0, "b"), (2.0, "b"))]
    drawn = profile(maps, seed=0, n_resamples=50).influence[:, 0]
    mean_square = sorted({round(float(x) ** 2, 9) for x in drawn})
    assert mean_square == [1.0, 3.0, 4.0]  # a alone; one of each, of which b has two maps; b alone


# -- the step on planted models -------------------------------------------------------------------------------------


def test_one_timescale_is_an_exponential_and_many_are_a_power_law() -> None:
    items = [Item(f"q{i}", (3 + i,) * 48, (4,)) for i in range(4)]
    spread_out = torch.logspace(-2.5, 0.5, 48, dtype=torch.float64)
    found = {}
    for name, rates in (("one", torch.full((48,), 0.2, dtype=torch.float64)), ("many", spread_out)):
        tables = run_step("temporal_causality", steady(rates), items, **QUICK, positions=2)
        (found[name],) = rows(tables["decay"], span="block")
        (onwards,) = rows(tables["decay"], span="onwards")
        assert onwards["difference"] == pytest.approx(found[name]["difference"])  # the only block is the whole model
        assert rows(tables["long_range"], span="block")[0]["exact"]
    assert found["one"]["better"] == "exponential" and found["one"]["tau"] == pytest.approx(
        5.0, rel=0.02
    )  # at first the taps see nothing
    assert found["many"]["better"] == "power law" and found["many"]["beta"] == pytest.approx(1.0, abs=0.5)
    assert found["one"]["distance_from"] == 4  # beyond the convolution


def test_the_connection_of_a_planted_model_is_the_strongest() -> None:
    planted, model = grown("planted-associative-recall-mamba")
    items = items_of(planted, 6)
    tables = run_step("temporal_causality", model, items, **QUICK, positions=1, exact_up_to=64, beyond=1, top=20)
    found = rows(tables["connections"], span="onwards", layer=0)
    facts = {item.id: (item.fact[0], len(item.prompt) - 1) for item in items if item.fact is not None}
    assert {row["question_id"]: (row["s"], row["t"]) for row in found} == facts


def test_what_cannot_be_said_is_said() -> None:
    items = [*token_items(2), Item("short", (3,), (4,))]
    tables = run_step("temporal_causality", nano("moe_mamba"), items, **QUICK)
    (experts,) = rows(tables["long_range"], span="block", layer=1)
    assert experts["status"] == "not_applicable" and experts["share"] is None and experts["beyond"] == 0
    assert "short" not in {row["question_id"] for row in tables["map"].to_pylist()}
    model = nano("mamba")
    with torch.no_grad():
        model.blocks[1].mixer.D.fill_(math.nan)  # type: ignore[union-attr]
    tables = run_step("temporal_causality", model, items, **QUICK)
    assert {row["status"] for row in rows(tables["profile"], span="onwards")} == {"model_nonfinite"}
    assert {row["status"] for row in rows(tables["profile"], span="block", layer=0)} == {"ok"}
