"""What a correct causal tracer cannot get wrong, through `causal_trace`, for every architecture with a state."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.interp.methods import trace
from mplat.interp.tracing import causal_trace
from mplat.models import LanguageModel

T, L, SUBJECT = 7, 3, (2, 4)
WHOLE = 2 * L + 1  # a window that holds every layer, wherever its centre is
#: architectures whose whole state is the recurrence and the convolution's window, in every block that has one
STATE_IS_H_AND_CONV = ("mamba", "mamba2", "falcon_mamba", "dense_mamba", "moe_mamba", "black_mamba")


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, n_layers=L)


def total_effect(table) -> float:
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    total = float(metadata["p_clean"]) - float(metadata["p_corrupted"])
    assert abs(total) > 1e-4, "a corruption that does nothing tests nothing"
    return total


@torch.no_grad()
def test_the_residual_at_all_corrupted_positions_gives_the_clean_output(model) -> None:
    """Where only the last token is corrupted, its residual stream is all that differs between the runs.

    DenseMamba's layers also read the states of the layers below, which the stream does not hold.
    """
    table = causal_trace(model, tokens(1, T)[0], subject=(T - 1, T), samples=2, sites=["resid_post"], positions=[-1])
    layers = range(L - 1, L) if model.config.arch == "dense_mamba" else range(L)
    effects = dict(zip(table["layer"].to_pylist(), table["effect"].to_pylist(), strict=True))
    for layer in layers:
        assert effects[layer] == pytest.approx(total_effect(table), rel=0, abs=1e-10)


@torch.no_grad()
def test_all_states_after_the_corruption_give_the_clean_output(model) -> None:
    clean = tokens(1, T)[0]
    sites = ["state"] + (["h_post+conv_state"] if model.config.arch in STATE_IS_H_AND_CONV else [])
    for layers in ([0], [2]):  # every window holds all layers
        table = causal_trace(model, clean, subject=SUBJECT, samples=2, sites=sites, window=WHOLE, layers=layers)
        for row in table.to_pylist():
            if SUBJECT[1] - 1 <= row["position"] <= T - 2:
                assert row["effect"] == pytest.approx(total_effect(table), rel=0, abs=1e-10)
    if len(sites) == 2:  # a tracer with an h site but without the window misattributes
        table = causal_trace(model, clean, subject=SUBJECT, samples=2, sites=["h_post"], window=WHOLE, layers=[0])
        assert abs(table["effect"][T - 2].as_py() - total_effect(table)) > 1e-6


@torch.no_grad()
def test_restoring_before_the_corruption_changes_nothing(model, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"subject": SUBJECT, "samples": 2, "positions": [0, 1]}
    effects = causal_trace(model, tokens(1, T)[0], **options)["effect"].to_pylist()
    assert set(effects) == {0.0}
    # and this is no more than what is found where it is computed
    corrupt = trace.corrupt
    monkeypatch.setattr(trace, "corrupt", lambda *a, **k: dataclasses.replace(corrupt(*a, **k), first=0))
    computed = causal_trace(model, tokens(1, T)[0], **options)["effect"].to_pylist()
    assert max(abs(e) for e in computed) < 1e-10 and len(computed) == len(effects)


@torch.no_grad()
def test_a_post_step_restoration_at_the_last_token_changes_nothing(model) -> None:
    sites = ["state", "conv_state"]
    table = causal_trace(model, tokens(1, T)[0], subject=SUBJECT, samples=2, sites=sites, positions=[-1])
    assert set(table["effect"].to_pylist()) == {0.0}


@torch.no_grad()
def test_the_last_layers_residual_elsewhere_does_not_move_the_final_position(model) -> None:
    table = causal_trace(model, tokens(1, T)[0], subject=SUBJECT, samples=2, sites=["resid_post"], layers=[L - 1])
    *others, last = table["effect"].to_pylist()
    assert max(map(abs, others)) < 1e-10
    assert last == pytest.approx(total_effect(table), rel=0, abs=1e-10)
