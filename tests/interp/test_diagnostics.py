"""Diagnostics find what was planted, position, gates, sinks, massive and dead channels, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import run_step
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.interp.methods.anomalies import dead_channels, opened, peak_of, sink_of
from mplat.interp.methods.paraphrases import agreement
from mplat.interp.methods.position_content import shares, sketch
from mplat.interp.methods.receptive_field import field_of, gradient_sizes
from mplat.interp.methods.recurrences import recurrences_of
from mplat.interp.methods.weight_measures import effective_rank
from mplat.models import LanguageModel
from mplat.models.access.edits import Edit
from mplat.scoring.statistics import Resampling

HOW = Resampling(0, 0.95, 200)
SMALL = {
    "prompts": 5, "positions": (1, 3, 7), "tokens": 3, "texts": 1, "lengths": (1,), "draws": 99, "resamples": 100,
}  # fmt: skip


@cache
def prompts() -> list[Item]:
    """Five prompts of 16 to 20 tokens."""
    rng = np.random.default_rng(0)
    return [Item(f"q{i}", tuple(rng.integers(0, 40, 16 + i).tolist()), (1,)) for i in range(5)]


def diagnosed(model: LanguageModel) -> dict[str, list[dict[str, Any]]]:
    found = run_step("diagnostics", model, prompts(), **SMALL)
    assert all(isinstance(table, pa.Table) for table in found.values())
    return {name: table.to_pylist() for name, table in found.items()}


@cache
def clean() -> dict[str, list[dict[str, Any]]]:
    return diagnosed(nano("mamba"))


def row(found: dict[str, list[dict[str, Any]]], part: str, layer: int, site: str) -> dict[str, Any]:
    return next(r for r in found[part] if (r["layer"], r["site"]) == (layer, site))


@dataclass(frozen=True, eq=False)
class Planted(Edit):
    """Whatever `act` makes of the site (B, T, C)."""

    kind: ClassVar[str] = "planted"
    site: str
    act: Callable[[torch.Tensor], torch.Tensor]

    def apply(self, run: Any, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
        return self.act(x.clone()), True


def clock(x: torch.Tensor) -> torch.Tensor:
    x[..., 3] += 3 * torch.arange(x.shape[1])
    return x


def sink(x: torch.Tensor) -> torch.Tensor:
    x[:, 2:3] *= 1e5
    return x


def still(x: torch.Tensor) -> torch.Tensor:
    x[..., 5] = 0.25
    return x


def massive(x: torch.Tensor) -> torch.Tensor:
    x[:, 1:2, 7] = 5e4
    return x


def test_what_was_planted_is_found_and_a_clean_model_has_nothing_of_it() -> None:
    model = nano("mamba")
    with model.edit(
        Planted("blocks.0.mixer_out", clock),
        Planted("blocks.1.mixer.B", sink),
        Planted("blocks.1.mixer_out", still),
        Planted("blocks.0.resid_post", massive),
    ):
        found = diagnosed(model)
    told, before = (row(of, "positions", 0, "mixer_out") for of in (found, clean()))
    assert told["position"] > 0.8 > 0.4 > before["position"] and told["p"] == 0.01
    assert told["position_low"] <= told["position"] <= told["position_high"]
    assert sum(told[name] for name in ("position", "content", "context")) == pytest.approx(1)
    read = row(found, "sinks", 1, "mixer")
    assert (read["position"], read["prompts_with"]) == (2, 1.0) and read["share_low"] > 0.5
    large = row(found, "massive", 0, "resid_post")
    assert (large["channel"], large["position"], large["prompts_with"]) == (7, 1, 1.0)
    assert large["massive_values"] == len(prompts()) and large["ratio"] > 1000
    dead = row(found, "dead", 1, "mixer_out")
    assert dead["which"] == [5] and dead["moves_at_most"] == pytest.approx(1 - 0.05 ** (1 / 5))
    assert all(r["prompts_with"] == 0 for part in ("sinks", "massive") for r in clean()[part])
    assert all(r["dead"] == 0 for r in clean()["dead"])
    assert all(r["status"] == "ok" for part, rows in clean().items() if part != "consistency" for r in rows)


def test_states_and_gates_are_those_of_the_prompts() -> None:
    model = nano("mamba")
    with torch.no_grad():
        mixer: Any = model.blocks[0].mixer
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias[:] = torch.linspace(-9, 9, 48, dtype=torch.float64)
    found = diagnosed(model)
    tokens = sum(len(item.prompt) for item in prompts())
    gate = row(found, "gates", 0, "mixer.delta")
    slope = torch.sigmoid(torch.linspace(-9, 9, 48, dtype=torch.float64))
    assert gate["closed_values"] == tokens * int((slope < 0.05).sum()) and gate["values"] == tokens * 48
    assert gate["open_values"] == tokens * int((slope > 0.95).sum())
    assert gate["closed"] == gate["closed_low"] == gate["closed_high"]  # the same in every prompt
    ranks, growths = [], []
    for item in prompts():
        with torch.no_grad(), model.capture("blocks.0.mixer.h") as seen:
            model(torch.tensor([item.prompt]))
        h = seen["blocks.0.mixer.h"][0]
        ranks.append(effective_rank(h[-1]))
        steps = [1, 3, 7, len(item.prompt) - 1]
        norms = [float(h[t].norm()) for t in steps]
        growths.append(np.polyfit(np.log(np.array(steps) + 1), np.log(norms), 1)[0])
    state = row(found, "states", 0, "mixer")
    assert state["rank"] == pytest.approx(np.mean(ranks)) and state["full_rank"] == 5
    assert state["growth"] == pytest.approx(np.mean(growths))


def test_shares_are_those_of_the_variance_they_were_made_with() -> None:
    rng = np.random.default_rng(1)
    n, places, kinds, width = 60, 5, 4, 8
    a, b = rng.normal(size=(places, width)), 2 * rng.normal(size=(kinds, width))
    a, b = a - a.mean(0), b - b.mean(0)
    x = a[:, None] + b[None] + 3 * rng.normal(size=(n, places, kinds, width))
    mean = x.mean((1, 2))
    totals = ((x - mean[:, None, None]) ** 2).sum((1, 2, 3)) / (places * kinds)
    found = shares(x.mean(2) - mean[:, None], x.mean(1) - mean[:, None], totals, how=HOW, draws=99)
    assert found is not None
    truth = np.array([(a**2).sum() / places, (b**2).sum() / kinds]) / totals.mean()
    assert found.position.value == pytest.approx(truth[0], rel=0.25) and found.p == 0.01
    assert found.content.value == pytest.approx(truth[1], rel=0.25)
    noise = x - a[:, None]  # without position
    without = shares(
        noise.mean(2) - noise.mean((1, 2))[:, None], noise.mean(1) - noise.mean((1, 2))[:, None], totals, how=HOW,
        draws=99,
    )  # fmt: skip
    assert without is not None and abs(without.position.value) < 0.01 and without.p > 0.05
    assert shares(x[:1].mean(2), x[:1].mean(1), totals[:1], how=HOW, draws=99) is None


def test_a_sketch_keeps_inner_products() -> None:
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1] += x[0]
    assert sketch(x).shape == (2, 256)
    assert float(sketch(x).prod(0).sum()) == pytest.approx(float(x.prod(0).sum()), rel=0.2)
    assert torch.equal(sketch(x[:, :7]), x[:, :7])


def test_a_sink_is_read_from_afar_and_recency_is_none() -> None:
    (decay,) = recurrences_of(nano("mamba"), 0)
    generator = torch.Generator().manual_seed(0)
    delta = torch.full((40, 48), 0.05, dtype=torch.float64)
    B, C = (torch.randn(40, 1, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    plain = sink_of(decay, delta, B, C)
    assert plain is not None and plain.share < 0.2
    B[11] = 1e4 * C.mean(0)
    found = sink_of(decay, delta, B, C)
    assert found is not None and found.position == 11 and found.share > 0.7
    assert sink_of(decay, delta[:3], B[:3], C[:3]) is None


def test_extremes_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0, 1.0], [1.0, 3000.0, 1.0]])
    assert peak_of(x, least=100, ratio=1000) == (3000.0, 1, 1, 1.0, 1)
    assert peak_of(x, least=4000, ratio=1000).massive == peak_of(x, least=100, ratio=4000).massive == 0
    assert dead_channels(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 5.0])) == [1]
    values = torch.tensor([-4.0, -2.0, 0.0, 4.0])
    assert opened(values, "sigmoid", 0.05) == (1, 1, 4)
    assert opened(torch.nn.functional.softplus(values.double()), "softplus", 0.05) == (1, 1, 4)


def test_two_wordings_agree_where_they_share_the_fact() -> None:
    rng = np.random.default_rng(2)
    fact, wording = rng.normal(size=(12, 1, 30)), 50 * rng.normal(size=(1, 2, 30))
    noise = rng.normal(size=(12, 2, 30))
    shared = agreement([fact + wording + 0.3 * noise], how=HOW)
    apart = agreement([wording + noise], how=HOW)
    assert shared is not None and apart is not None
    assert shared.ratio.low is not None and shared.ratio.low > 5 and shared.difference.p < 0.01
    assert apart.ratio.low is not None and apart.ratio.high is not None
    assert apart.ratio.low < 1 < apart.ratio.high and apart.difference.p > 0.05
    two = np.array([[[0.0], [1.0]], [[4.0], [7.0]]])  # centred: -2, 2 and -3, 3
    (ratio,) = (agreement([two], how=HOW).ratio.mean,)  # type: ignore[union-attr]
    assert ratio == pytest.approx(25 / 1)
    assert agreement([two[:, [0, 0]]], how=HOW) is None


def test_the_field_is_the_gradient_by_each_embedding() -> None:
    model = nano("mamba2")
    tokens, eps, t = torch.tensor(prompts()[0].prompt), 1e-5, 9
    sizes = gradient_sizes(model, tokens)

    def moved(x: torch.Tensor) -> torch.Tensor:
        """Row c: channel c moved up; row 24 + c: down."""
        x[:, t] += eps * torch.cat([torch.eye(24), -torch.eye(24)])
        return x

    with torch.no_grad(), model.edit(Planted("embed", moved)):
        ends = model(tokens.expand(48, -1))[:, -1].log_softmax(-1).amax(-1)
    assert float(sizes[t]) == pytest.approx(float((ends[:24] - ends[24:]).norm() / (2 * eps)), rel=1e-4)
    assert sizes.shape == tokens.shape and (sizes > 0).all()
    found = field_of(torch.tensor([1.0, 0.0, 1.0, 2.0]), base=2)
    assert (found["mean_distance"], found["d50"], found["d90"], found["beyond"]) == (1.0, 0.0, 3.0, 0.25)
    assert field_of(torch.zeros(3), 2)["status"] == "not_applicable"
    assert field_of(torch.tensor([1.0, torch.nan]), 2)["status"] == "model_nonfinite"
