"""Attribution patching is the slope of the outcome towards the clean run: checked against edits of the same sites."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.corruption import corrupt
from mplat.interp.methods.recurrences import scans_of
from mplat.interp.methods.restoration import SITES
from mplat.interp.methods.state_adjoint import state_effects, unit_blocks
from mplat.interp.tracing import attribution_patching, causal_trace
from mplat.models import Interpolate, LanguageModel, Replace, Scale
from torch import Tensor

T = 7
STEP = 1e-5
#: recurrences by their adjoint, by edits of zero (states that other layers read; a filter's), and no recurrence
ARCHITECTURES = (
    "mamba", "mamba2", "falcon_mamba", "stable_mamba", "stable_mamba_attached", "dense_mamba", "striped_hyena", "hyena",
)  # fmt: skip
#: three layers for states that two layers read; without sparse attention, whose choice of tokens is no smooth function
CHANGES = {
    "dense_mamba": {"dense_fuse": "recurrent", "n_layers": 3},
    "stable_mamba": {"attn_every": 0},
    "stable_mamba_attached": {"attn_every": 0},
}


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, **CHANGES.get(request.param, {}))


@pytest.fixture
def prompts() -> tuple[Tensor, Tensor]:
    clean = tokens(1, T)[0]
    corrupted = clean.clone()
    corrupted[[1, 3]] = (corrupted[[1, 3]] + 7) % 40
    return clean, corrupted


def log_probability(model: LanguageModel, text: Tensor, answer: int) -> float:
    return float(torch.log_softmax(model(text[None])[0, -1], -1)[answer])


def full_name(model: LanguageModel, site: str, layer: int) -> str:
    names = {s.name for s in model.sites()}
    return next(n for n in (f"blocks.{layer}.{site}", f"blocks.{layer}.mixer.{site}") if n in names)


@torch.no_grad()
def test_effects_are_central_differences_towards_the_clean_values(model, prompts) -> None:
    clean, corrupted = prompts
    table = attribution_patching(model, clean, corrupted, metric="logprob").to_pylist()
    answer = int(model(clean[None])[0, -1].argmax())
    parts = sorted({name for row in table for name in row["site"].split("+")})
    with model.capture(*{full_name(model, site, 0).replace(".0.", ".*.") for site in parts}) as acts:
        model(clean[None])
    seen = set()
    for row in table:
        if (row["layer"], row["position"]) not in ((0, 1), (1, 4), (0, T - 1), (2, T - 1)):
            continue
        names = [full_name(model, site, row["layer"]) for site in row["site"].split("+")]

        def at(weight: float, t: int = row["position"], names: list[str] = names) -> float:
            edits = [Interpolate(n, acts[n][:, t : t + 1], weight=weight, positions=[t]) for n in names]
            with model.edit(*edits):
                return log_probability(model, corrupted, answer)

        slope = (at(STEP) - at(-STEP)) / (2 * STEP)
        assert row["effect"] == pytest.approx(slope, rel=1e-6, abs=1e-9), row
        seen.add(row["site"])
    assert seen == {row["site"] for row in table} and "resid_post" in seen


@torch.no_grad()
def test_all_sites_of_a_trace_are_there_for_mamba_and_mamba2(prompts) -> None:
    for arch in ("mamba", "mamba2"):
        table = attribution_patching(nano(arch), *prompts)
        assert list(dict.fromkeys(table["site"].to_pylist())) == list(SITES)
        assert table.num_rows == len(SITES) * 2 * T


@torch.no_grad()
def test_the_adjoint_of_a_scan_equals_edits_of_the_state(prompts) -> None:
    """An identity edit in force makes every state's derivative come from edits; the numbers stay."""
    for arch in ("mamba", "mamba2", "stable_mamba"):
        model = nano(arch)
        sites = ["h", "h_post"]
        by_adjoint = attribution_patching(model, *prompts, sites, integrated_steps=2)["effect"].to_pylist()
        with model.edit(Scale("embed", 1.0)):
            by_edit = attribution_patching(model, *prompts, sites, integrated_steps=2)["effect"].to_pylist()
            in_groups = attribution_patching(model, *prompts, sites, integrated_steps=2, memory_budget=1)
        assert by_adjoint == pytest.approx(by_edit, rel=1e-9, abs=1e-14)
        assert in_groups["effect"].to_pylist() == by_edit
        assert max(map(abs, by_adjoint)) > 1e-5


@torch.no_grad()
def test_blocks_of_units_change_nothing() -> None:
    for arch in ("mamba", "mamba2"):
        model, text = nano(arch), tokens(3, T)
        (place,) = scans_of(model, 1)
        with model.capture(*place.inputs) as acts:
            model(text)
        scan = place.rebuild(acts)
        of_rows = {name: value for name, value in scan._asdict().items() if name != "A"}
        clean, corrupted = (scan._replace(**{n: v[rows] for n, v in of_rows.items()}) for rows in ([0], [1, 2]))
        gradient = torch.randn(corrupted.x.shape, dtype=torch.float64)
        whole = state_effects(clean, corrupted, corrupted, gradient)
        small = state_effects(clean, corrupted, corrupted, gradient, bytes_per_block=1)
        assert len(unit_blocks(corrupted, 1)) == corrupted.units and len(unit_blocks(corrupted)) == 1
        torch.testing.assert_close(small.h, whole.h, rtol=0, atol=1e-12)
        torch.testing.assert_close(small.h_post, whole.h_post, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", ["mamba2", "dense_mamba", "hyena"], indirect=True)
@torch.no_grad()
def test_the_ratio_to_the_true_effect_goes_to_one_as_the_corruption_shrinks(model) -> None:
    """Noise on two tokens, and what causal tracing measures with the same draws; one model of each way."""
    text, options = tokens(1, T)[0], {"subject": (1, 3), "samples": 2, "metric": "logprob"}
    worst = []
    for noise in (3e-2, 3e-5):
        true = causal_trace(model, text, noise=noise, **options).to_pylist()
        slope = attribution_patching(model, text, noise=noise, **options).to_pylist()
        assert [(r["site"], r["layer"], r["position"]) for r in slope] == [
            (r["site"], r["layer"], r["position"]) for r in true
        ]
        # exact zeros stay zeros; of what else there is, only what is not itself a difference of near equals
        assert all(abs(a["effect"]) < 1e-12 for a, b in zip(slope, true, strict=True) if b["effect"] == 0.0)
        largest = max(abs(r["effect"]) for r in true)
        pairs = [
            (a["effect"], b["effect"]) for a, b in zip(slope, true, strict=True) if abs(b["effect"]) > largest / 20
        ]
        assert len(pairs) > 5
        worst.append(max(abs(a / b - 1) for a, b in pairs))
    assert worst[1] < worst[0] / 5 and worst[1] < 1e-3


@pytest.mark.parametrize("case", ["bamba", "jamba", "falcon_h1", "zamba2", "gpt2"])
@torch.no_grad()
def test_hybrids_and_transformers_have_the_slope_of_their_traces(case, tmp_path: Path) -> None:
    model, text = adapted(case, tmp_path), tokens(1, T)[0]
    options = {"subject": (1, 3), "samples": 1, "noise": 1e-6, "metric": "logprob"}
    true = causal_trace(model, text, **options).to_pylist()
    slope = attribution_patching(model, text, **options).to_pylist()
    largest = max(abs(r["effect"]) for r in true)
    pairs = [(a["effect"], b["effect"]) for a, b in zip(slope, true, strict=True) if abs(b["effect"]) > largest / 20]
    assert len(pairs) > 5 and max(abs(a / b - 1) for a, b in pairs) < 5e-3


@pytest.mark.parametrize("model", ["mamba", "dense_mamba", "striped_hyena"], indirect=True)
@torch.no_grad()
def test_integrated_effects_of_the_input_add_up_to_the_whole_difference(model, prompts) -> None:
    clean, corrupted = prompts
    errors = []
    for steps in (8, 32):
        table = attribution_patching(
            model, clean, corrupted, ["resid_pre"], layers=[0], integrated_steps=steps, metric="logprob", answer=3
        )
        whole = log_probability(model, clean, 3) - log_probability(model, corrupted, 3)
        errors.append(abs(sum(table["effect"].to_pylist()) - whole) / abs(whole))
    assert errors[1] < errors[0] and errors[1] < 0.05


@torch.no_grad()
def test_samples_are_averaged_and_described_as_in_a_trace(prompts) -> None:
    model, text = nano("mamba"), prompts[0]
    options = {"subject": (1, 3), "noise": 0.5, "seed": 4, "positions": [2, -1], "metric": "logit_diff"}
    three = attribution_patching(model, text, None, ["h_post", "delta"], samples=3, **options)
    true = causal_trace(model, text, sites=["h_post", "delta"], samples=3, **options)
    assert three.schema.equals(true.schema)
    metadata, expected = three.schema.metadata, dict(true.schema.metadata)
    said, wanted = {**metadata, b"window": b"1"}, {**expected, b"method": b"attribution"}
    for measured in (b"metric_clean", b"metric_corrupted", b"p_clean", b"p_corrupted"):  # equal up to rounding
        if measured in wanted:
            assert float(said.pop(measured)) == pytest.approx(float(wanted.pop(measured)), rel=1e-12)
    assert said == wanted
    assert set(three["samples"].to_pylist()) == {3}
    # the draws of one sample are the first of three; a token's noise is a change of its embedding
    one = attribution_patching(model, text, None, ["h_post", "delta"], samples=1, **options)
    assert one["effect_std"].null_count == one.num_rows
    corruption = corrupt(model, text, subject=(1, 3), noise=0.5, samples=3, seed=4)
    assert corruption.noise is not None
    alone = []
    for i in range(3):
        changed = model.embedding.weight[text].clone()
        changed[1:3] += corruption.noise[i]
        with model.edit(*corruption.edits(model, slice(i, i + 1))):
            logits = model(corruption.rows(slice(i, i + 1)))[:, -1]
        with model.edit(Replace("embed", changed)):
            torch.testing.assert_close(model(text[None])[0, -1], logits[1], rtol=0, atol=1e-12)
        pair = (int(metadata[b"answer"]), int(metadata[b"foil"]))
        alone.append(_by_hand(model, text, changed, pair))
    stacked = torch.tensor(alone, dtype=torch.float64)
    rows = [r for r in three.to_pylist() if r["site"] == "delta"]
    assert [r["effect"] for r in rows] == pytest.approx(stacked.mean(0).tolist(), rel=1e-9)
    assert [r["effect_std"] for r in rows] == pytest.approx(stacked.std(0).tolist(), rel=1e-9)


def _by_hand(model: LanguageModel, text: Tensor, changed: Tensor, pair: tuple[int, int]) -> list[float]:
    """Delta's effects at positions 2 and -1 of both layers, from one capture and one call of autograd."""
    names = ["blocks.0.mixer.delta", "blocks.1.mixer.delta"]
    with torch.enable_grad(), model.capture(*names) as clean:
        model(text[None])
    with torch.enable_grad(), model.edit(Replace("embed", changed)), model.capture(*names, gradients=True) as acts:
        logits = model(text[None])[0, -1]
        slopes = torch.autograd.grad(logits[pair[0]] - logits[pair[1]], [acts[n] for n in names])
    return [
        float(((clean[n] - acts[n]) * g)[0, t].sum()) for n, g in zip(names, slopes, strict=True) for t in (2, T - 1)
    ]


def test_frozen_models_and_inference_mode_make_no_difference(prompts) -> None:
    model = nano("mamba2")
    plain = attribution_patching(model, *prompts)
    model.requires_grad_(False)
    assert attribution_patching(model, *prompts).equals(plain)
    with torch.inference_mode():
        assert attribution_patching(model, *prompts).equals(plain)


def test_wrong_arguments_say_what_would_be_right(prompts) -> None:
    clean, corrupted = prompts
    model = nano("mamba")
    for arguments, told in [
        ({"sites": ["detla"]}, "did you mean 'mixer.delta'"),
        ({"sites": "h"}, "write ..h.."),
        ({"sites": ["state"]}, "no single tensor"),
        ({"sites": ["h", "h"]}, "each of them once"),
        ({"layers": [2]}, "blocks 0 to 1"),
        ({"positions": [T]}, f"0 to {T - 1}"),
        ({"metric": "probs"}, "did you mean 'prob'"),
        ({"answer": 40}, "from 0 to 39"),
        ({"noise": 1.0}, "not both"),
        ({"integrated_steps": 0}, "at least 1"),
        ({"integrated_steps": 2.5}, "integrated_steps.*integer"),
        ({"positions": 3}, "list of integers"),
        ({"memory_budget": 0}, "at least 1"),
    ]:
        with pytest.raises(UsageError, match=told):
            attribution_patching(model, clean, corrupted, **arguments)
    with pytest.raises(UsageError, match="equal token length"):
        attribution_patching(model, clean, corrupted[1:])
    with pytest.raises(UsageError, match="one row of the batch"):
        attribution_patching(model, clean[None], corrupted)
    with pytest.raises(UsageError, match="no site 'delta'.*mixer.poles"):
        attribution_patching(nano("striped_hyena"), clean, corrupted, ["delta"])
    with pytest.raises(UsageError, match="no positions"):
        attribution_patching(nano("striped_hyena"), clean, corrupted, ["poles"])
