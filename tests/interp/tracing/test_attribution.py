"""Attribution patching is the slope of the outcome towards the clean run: checked against edits of the same sites."""

from __future__ import annotations

import pytest
import torch
from model_zoo import nano, tokens
from mplat.errors import UsageError
from mplat.interp.tracing.attribution import SITES, attribution_patching
from mplat.interp.tracing.recurrences import scans_of
from mplat.interp.tracing.state_adjoint import state_effects, unit_blocks
from mplat.models import Interpolate, LanguageModel, Scale
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
        if row["position"] not in (1, 4, T - 1):
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
            in_groups = attribution_patching(model, *prompts, sites, integrated_steps=2, memory_mb=1)
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


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "dense_mamba", "striped_hyena"])
@torch.no_grad()
def test_the_ratio_to_the_true_effect_goes_to_one_as_the_corruption_shrinks(arch, prompts) -> None:
    model, (clean, _) = nano(arch), prompts
    clean[1], corrupted = 5, clean.clone()
    corrupted[1] = 6
    table = model.backbone.embeddings.weight
    direction = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    others = [t for t in range(T) if t != 1]
    clean[others] = corrupted[others] = torch.arange(10, 10 + T - 1)
    worst = []
    for size in (1e-1, 1e-3, 1e-5):
        table[6] = table[5] + size * direction
        sites = ["resid_post", "h_post", "conv_state"]
        rows = attribution_patching(model, clean, corrupted, sites, positions=[1, 2], layers=[0]).to_pylist()
        answer = int(model(clean[None])[0, -1].argmax())
        names = [full_name(model, site, 0) for site in sites]
        with model.capture(*names) as acts:
            model(clean[None])
        plain = float(torch.softmax(model(corrupted[None])[0, -1], -1)[answer])
        errors = []
        for row in rows:
            name, t = full_name(model, row["site"], 0), row["position"]
            with model.edit(Interpolate(name, acts[name][:, t : t + 1], positions=[t])):
                effect = float(torch.softmax(model(corrupted[None])[0, -1], -1)[answer]) - plain
            if row["site"] != "resid_post" or t == 1:  # the other residual does not carry the corruption alone
                errors.append(abs(row["effect"] / effect - 1))
        worst.append(max(errors))
    assert worst[1] < 0.1 * worst[0] and worst[2] < 1e-3


@torch.no_grad()
def test_integrated_effects_of_the_input_add_up_to_the_whole_difference(model, prompts) -> None:
    clean, corrupted = prompts
    errors = []
    for steps in (8, 64):
        table = attribution_patching(
            model, clean, corrupted, ["resid_pre"], layers=[0], integrated_steps=steps, metric="logit", answer=3
        )
        whole = float(model(clean[None])[0, -1, 3] - model(corrupted[None])[0, -1, 3])
        errors.append(abs(sum(table["effect"].to_pylist()) - whole) / abs(whole))
    assert errors[1] < errors[0] and errors[1] < 0.05


@torch.no_grad()
def test_samples_are_averaged(prompts) -> None:
    model, (clean, corrupted) = nano("mamba"), prompts
    second = corrupted.clone()
    second[2] = (second[2] + 11) % 40
    both = attribution_patching(model, clean, torch.stack([corrupted, second]), ["h_post", "delta"])
    alone = [
        attribution_patching(model, clean, c, ["h_post", "delta"])["effect"].to_pylist() for c in (corrupted, second)
    ]
    stacked = torch.tensor(alone, dtype=torch.float64)
    assert both["effect"].to_pylist() == pytest.approx(stacked.mean(0).tolist(), rel=1e-9)
    assert both["effect_std"].to_pylist() == pytest.approx(stacked.std(0).tolist(), rel=1e-9)
    assert set(both["samples"].to_pylist()) == {2}
    metadata = both.schema.metadata
    p = [float(torch.softmax(model(c[None])[0, -1], -1)[int(metadata[b"answer"])]) for c in (clean, corrupted, second)]
    assert float(metadata[b"p_clean"]) == pytest.approx(p[0])
    assert float(metadata[b"p_corrupted"]) == pytest.approx((p[1] + p[2]) / 2)


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
        ({"sites": "h"}, "list of names"),
        ({"sites": ["h", "h"]}, "each of them once"),
        ({"layers": [2]}, "blocks 0 to 1"),
        ({"positions": [T]}, f"0 to {T - 1}"),
        ({"metric": "probs"}, "did you mean 'prob'"),
        ({"answer": 40}, "0 to 39"),
        ({"answer": "Rome"}, "no tokenizer"),
        ({"integrated_steps": 0}, "1 or more"),
        ({"memory_mb": 0}, "at least 1"),
    ]:
        with pytest.raises(UsageError, match=told):
            attribution_patching(model, clean, corrupted, **arguments)
    with pytest.raises(UsageError, match="equally long"):
        attribution_patching(model, clean, corrupted[1:])
    with pytest.raises(UsageError, match="1-D"):
        attribution_patching(model, clean[None], corrupted)
    with pytest.raises(UsageError, match="no site 'delta'.*mixer.poles"):
        attribution_patching(nano("striped_hyena"), clean, corrupted, ["delta"])
    with pytest.raises(UsageError, match="values for all tokens"):
        attribution_patching(nano("striped_hyena"), clean, corrupted, ["poles"])
