"""Changes from token to token, and Delta's part in them, are those of the model run one prompt at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.methods.recurrences import scans_of
from mplat.models import LanguageModel, Replace
from mplat.models.parts.recall import inverse_softplus

ITEMS = token_items(5)
LAYER = 0


@pytest.fixture(params=["mamba", "mamba2", "stable_mamba"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


def tables(model: LanguageModel, **settings: Any) -> dict[str, Any]:
    upstream = {"delta_sensitivity": run_step("delta_sensitivity", model, ITEMS)}
    given = {"resamples": 100, "draws": 100, "top": 0.1} | settings
    return dict(run_step("delta_neurons", model, ITEMS, upstream=upstream, **given))


def column(table: Any, name: str, quantity: str, layer: int = LAYER) -> np.ndarray:
    rows = [row[name] for row in table.to_pylist() if (row["layer"], row["quantity"]) == (layer, quantity)]
    return np.array(rows, float)


@torch.no_grad()
def seen(model: LanguageModel, item: Any, *held: Replace) -> dict[str, np.ndarray]:
    """Changes (T-1, C, coordinates) of one prompt by quantity, and Delta (T-1, C)."""
    (scan,) = scans_of(model, LAYER)
    sites = [scan.prefix + "h", scan.name("delta"), *scan.outputs, f"blocks.{LAYER}.mixer_out"]
    with model.edit(*held), model.capture(*sites) as acts:
        model(torch.tensor([item.prompt]))
    h, delta = acts[sites[0]][0].numpy(), acts[sites[1]][0].numpy()
    y = np.concatenate([acts[name][0].numpy() for name in scan.outputs], -1)
    found = {"state": np.diff(h, axis=0), "y": np.diff(y, axis=0)[..., None]}
    found["mixer_out"] = np.diff(acts[sites[-1]][0].numpy(), axis=0)[..., None]
    return found | {"delta": np.repeat(delta[1:], y.shape[1] // delta.shape[1], 1), "all": delta}


def squares(change: np.ndarray) -> np.ndarray:
    return ((change - change.mean(0)) ** 2).sum((0, 2))


def fitted(change: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Squares of what lines in Delta fit, by least squares with an intercept."""
    result = np.zeros(change.shape[1])
    for c, n in itertools.product(range(change.shape[1]), range(change.shape[2])):
        design = np.stack([np.ones(len(delta)), delta[:, c]], 1)
        line = design @ np.linalg.lstsq(design, change[:, c, n], rcond=None)[0]
        result[c] += ((line - line.mean()) ** 2).sum()
    return result


def test_variances_and_deltas_part_equal_their_definitions(model: LanguageModel) -> None:
    (scan,) = scans_of(model, LAYER)
    found = tables(model)["channels"]
    clean = [seen(model, item) for item in ITEMS]
    holds = [Replace(scan.name("delta"), torch.from_numpy(one["all"].mean(0))) for one in clean]
    held = [seen(model, item, hold) for item, hold in zip(ITEMS, holds, strict=True)]
    n = sum(len(one["delta"]) for one in clean)
    for quantity in ("state", "y", "mixer_out"):
        total = sum(squares(one[quantity]) for one in clean)
        np.testing.assert_allclose(column(found, "variance", quantity), total / n, rtol=1e-9)
        ranks = column(found, "rank", quantity)
        assert ranks.argsort().tolist() == np.argsort(-total, kind="stable").tolist()
        assert column(found, "sensitive", quantity).sum() == max(1, round(0.1 * len(total)))
        share = 1 - sum(squares(one[quantity]) for one in held) / total
        np.testing.assert_allclose(column(found, "held_share", quantity), share, rtol=1e-7, atol=1e-9)
        assert np.abs(share).max() > 1e-3
        low, high = (column(found, f"held_share_{end}", quantity) for end in ("low", "high"))
        assert (low <= share + 1e-12).all() and (share <= high + 1e-12).all()
        if quantity != "mixer_out":
            explained = sum(fitted(one[quantity], one["delta"]) for one in clean) / total
            np.testing.assert_allclose(column(found, "explained", quantity), explained, rtol=1e-6, atol=1e-9)
            shifted = column(found, "shifted", quantity)
            assert ((shifted >= 0) & (shifted <= 1)).all() and not np.allclose(shifted, explained)
    assert np.isnan(column(found, "explained", "mixer_out")).all()


def steady(varying: int) -> LanguageModel:
    """A Mamba whose Delta is the same at every token in all channels but one."""
    model = nano("mamba")
    mixer: Any = model.blocks[LAYER].mixer
    with torch.no_grad():
        mixer.dt_proj.bias.fill_(inverse_softplus(0.5))
        others = torch.arange(len(mixer.dt_proj.weight)) != varying
        mixer.dt_proj.weight[others] = 0.0
        mixer.dt_proj.weight[varying] *= 5
    return model


def test_a_steady_delta_explains_nothing_and_the_planted_one_is_found() -> None:
    table = tables(steady(varying=11))
    for quantity in ("state", "y"):
        share, explained = (column(table["channels"], name, quantity) for name in ("held_share", "explained"))
        others = np.arange(len(share)) != 11
        np.testing.assert_allclose(share[others], 0.0, atol=1e-12)
        np.testing.assert_allclose(explained[others], 0.0, atol=1e-12)
        assert explained[11] > 0.05 and abs(share[11]) > 0.01
    delta = column(table["channels"], "delta_variance", "state")
    assert delta.argmax() == 11 and np.allclose(np.delete(delta, 11), 0.0)


def test_layers_tell_whether_deltas_variance_goes_with_the_change() -> None:
    from scipy.stats import spearmanr

    found = tables(nano("mamba"))
    (row,) = [r for r in found["layers"].to_pylist() if (r["layer"], r["quantity"]) == (LAYER, "state")]
    variance, delta = (column(found["channels"], name, "state") for name in ("variance", "delta_variance"))
    assert row["correlation"] == pytest.approx(spearmanr(variance, delta)[0])
    assert 0 < row["p"] <= row["p_holm"] <= 1
    top = set(np.argsort(-variance)[:5]) & set(np.argsort(-delta)[:5])
    assert row["overlap"] == pytest.approx(len(top) / 5) and row["overlap_chance"] == pytest.approx(5 / 48)
