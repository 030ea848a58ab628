"""Gates, timescales and attention set by hand have the shares, decays and losses that were set; shares add up to 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.methods.mixture_readings import decays, held, openings, redundancy, shares
from mplat.models import LanguageModel, Replace, Scale
from mplat.models.families.stable_mamba.stable_mamba import StableMambaMixer
from torch import Tensor

ITEMS = token_items(4, seed=1)
STEP = "stable_mamba"
SMALL = {"resamples": 100, "states": 3, "every": 3}
Rows = list[dict[str, Any]]
E = 24  # width of a timescale in the nano model


def rows_of(model: LanguageModel, items=ITEMS, **more: Any) -> dict[str, Rows]:
    return {name: table.to_pylist() for name, table in run_step(STEP, model, items, **SMALL, **more).items()}


def planted(change: Callable[[StableMambaMixer], None]) -> LanguageModel:
    """A nano model with a part of its first block set by hand."""
    model = nano("stable_mamba")
    with torch.no_grad():
        change(model.blocks[0].mixer)  # type: ignore[arg-type]
    return model


def first(rows: Rows) -> Rows:
    return [row for row in rows if row["layer"] == 0]


def logprob(model: LanguageModel, item) -> float:
    """Of the answer, token by token, in one plain pass."""
    scores = torch.log_softmax(model(torch.tensor([item.prompt + item.answer])), -1)[0]
    start = len(item.prompt) - 1
    return float(sum(scores[start + i, token] for i, token in enumerate(item.answer)))


def logits_of(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).logit()


# -- gates ------------------------------------------------------------------------------------------------------------


def test_gates_set_by_hand_have_exactly_the_shares_that_were_set() -> None:
    opening, weight = (0.2, 0.5, 0.8), (0.5, 0.3, 0.2)

    def change(mixer: StableMambaMixer) -> None:
        mixer.gates.weight.zero_()
        mixer.gates.bias.copy_(logits_of(opening).repeat_interleave(24))
        mixer.gate_logits.copy_(torch.tensor(weight).log())

    found = rows_of(planted(change))
    total = sum(o * w for o, w in zip(opening, weight, strict=True))
    for row, o, w in zip(first(found["gates"]), opening, weight, strict=True):
        assert (row["opening"], row["weight"]) == pytest.approx((o, w), abs=1e-6)
        assert row["share"] == pytest.approx(w * o / total, abs=1e-6)
        assert row["share_low"] == pytest.approx(row["share_high"], abs=1e-9)  # the same in every prompt
    assert all(row["correlation"] is row["mutual_information"] is None for row in first(found["gate_pairs"]))
    assert {row["layer"]: round(row["share"], 3) for row in found["gates"]}[1] not in (0.25, 0.375)


def test_a_copied_gate_is_redundant_and_one_of_its_own_is_not() -> None:
    def change(mixer: StableMambaMixer) -> None:
        mixer.gates.weight[24:48], mixer.gates.bias[24:48] = mixer.gates.weight[:24], mixer.gates.bias[:24]
        mixer.gate_logits.copy_(torch.tensor([0.0, 0.0, -60.0]))

    found = rows_of(planted(change))
    pairs = {(row["gate"], row["other"]): row for row in first(found["gate_pairs"])}
    copied, other = pairs["gate_0", "gate_1"], pairs["gate_0", "gate_2"]
    assert copied["correlation"] == pytest.approx(1, abs=1e-9)
    assert math.log(8) >= copied["mutual_information"] > 1.7 > 3 * copied["by_chance"]
    assert abs(other["correlation"]) < 0.4 and other["mutual_information"] < 0.3
    lost = {row["without"]: row for row in first(found["ablations"])}
    assert lost["gate_0"]["kl"] < 1e-12 and abs(lost["gate_0"]["change"]) < 1e-9 and lost["gate_0"]["p_holm"] == 1
    assert lost["gate_2"]["kl"] < 1e-12  # it has no weight
    assert lost["fast"]["kl"] > 1e-4
    assert [row["share"] for row in first(found["gates"])] == pytest.approx([0.5, 0.5, 0], abs=1e-9)


# -- timescales -------------------------------------------------------------------------------------------------------


def test_decays_and_shares_of_timescales_are_those_that_were_set() -> None:
    def change(mixer: StableMambaMixer) -> None:
        mixer.tau_offset.zero_()
        mixer.offset_out.weight.zero_()
        mixer.in_proj.weight[E : 3 * E] = 0  # no values for medium and slow
        assert mixer.conv1d.bias is not None
        mixer.conv1d.bias[E : 3 * E] = 0
        mixer.D.zero_()

    found = first(rows_of(planted(change))["timescales"])
    for row, tau, share in zip(found, (0.7, 0.9, 0.98), (1, 0, 0), strict=True):
        assert [row["start"], row["decay"], row["decay_fastest"], row["decay_slowest"]] == pytest.approx([tau] * 4)
        assert row["decay_varies"] == pytest.approx(0, abs=1e-9)
        assert row["share"] == row["memory_share"] == pytest.approx(share, abs=1e-12)
    assert [row["timescale"] for row in found] == ["fast", "medium", "slow"]
    assert found[1]["first"] is None and found[1]["status"] == "ok"  # of a state without variance there is none


def test_a_block_that_writes_nothing_remembers_nothing_and_one_direction_is_one_component() -> None:
    B = slice(3 * E, 3 * E + 5)

    def silent(mixer: StableMambaMixer, written: float = 0.0) -> None:
        assert mixer.conv1d.bias is not None
        mixer.in_proj.weight[B] = 0
        mixer.conv1d.bias[B] = written

    nothing = first(rows_of(planted(silent))["timescales"])
    assert [row["memory_share"] for row in nothing] == pytest.approx([0, 0, 0], abs=1e-12)
    assert sum(row["share"] for row in nothing) == pytest.approx(1) and min(abs(r["share"]) for r in nothing) > 1e-3
    for row in first(rows_of(planted(lambda mixer: silent(mixer, 1.0)))["timescales"]):
        assert (row["first"], row["components"], row["participation"]) == pytest.approx((1, 1, 1), abs=1e-6)
        assert row["coordinates"] == 5


@torch.no_grad()
def test_shares_are_those_of_what_the_sites_hold() -> None:
    """Computed from captures of one prompt, part by part, without what the step computes with."""
    model, item = nano("stable_mamba"), ITEMS[0]
    found = rows_of(model, [item])
    names = [f"blocks.0.mixer.{n}" for n in ("ssm_fast", "ssm_slow", "timescale_weights", "y", "x", "sparse_attn")]
    with model.capture(*names) as seen:
        model(torch.tensor([item.prompt]))
    fast, slow, weights, y, x, attention = (seen[name].squeeze(0).numpy() for name in names)
    rows = {row["timescale"]: row for row in first(found["timescales"])}
    power = (y**2).sum()
    assert rows["fast"]["share"] == pytest.approx(weights[0] * (fast * y).sum() / power)
    D = model.blocks[0].mixer.D.numpy().repeat(8)[2 * E :]  # type: ignore[union-attr]
    skip = D * x[:, 2 * E :]
    assert rows["slow"]["memory_share"] == pytest.approx(weights[2] * ((slow - skip) * y).sum() / power)
    gate = 1 / (1 + np.exp(-float(model.blocks[0].mixer.attention.memory_gate)))  # type: ignore[union-attr]
    (row,) = first(found["attention"])
    answer = y + gate * attention
    assert row["memory_gate"] == pytest.approx(gate)
    assert row["share"] == pytest.approx(gate * (attention * answer).sum() / (answer**2).sum())
    assert row["ratio"] == pytest.approx(gate * np.sqrt((attention**2).mean() / (y**2).mean()))
    assert row["share_low"] is None  # of one prompt


# -- factors, attention, ablations ------------------------------------------------------------------------------------


def test_what_never_acts_is_told_from_what_does() -> None:
    def change(mixer: StableMambaMixer) -> None:
        mixer.compress_out.weight.zero_()
        mixer.compress_out.bias.fill_(0.3)
        assert mixer.attention is not None
        mixer.attention.memory_gate.fill_(-80.0)

    found = rows_of(planted(change))
    compression = first(found["factors"])[0]
    expected = 0.5 + 0.5 / (1 + math.exp(-0.3))
    assert [compression[n] for n in ("mean", "smallest", "largest")] == pytest.approx([expected] * 3)
    assert compression["varies"] == pytest.approx(0, abs=1e-12)
    (attention,) = first(found["attention"])
    assert max(attention["memory_gate"], abs(attention["share"]), attention["ratio"]) < 1e-30
    lost = {row["without"]: row for row in first(found["ablations"])}
    assert lost["compression"]["kl"] < 1e-12 > lost["sparse_attn"]["kl"] and lost["gain"]["kl"] > 1e-9
    (absent,) = (row for row in found["attention"] if row["layer"] == 1)
    assert absent["status"] == "not_applicable" and "no sparse attention" in absent["reason"]


@torch.no_grad()
def test_a_loss_is_what_the_edited_model_loses() -> None:
    model = nano("stable_mamba")
    lost = {(row["layer"], row["without"]): row for row in rows_of(model, batch_size=2)["ablations"]}
    weights = torch.softmax(model.blocks[1].mixer.gate_logits, 0)  # type: ignore[arg-type]
    others = torch.stack([torch.tensor(0.0), weights[1], weights[2]]) / (weights[1] + weights[2])
    by_hand = {
        (1, "slow"): Scale("blocks.1.mixer.ssm_slow", 0.0),
        (0, "sparse_attn"): Scale("blocks.0.mixer.sparse_attn", 0.0),
        (1, "gate_0"): Replace("blocks.1.mixer.gate_weights", others),
    }
    plain = [logprob(model, item) for item in ITEMS]
    for key, edit in by_hand.items():
        with model.edit(edit):
            changes = [logprob(model, item) - base for item, base in zip(ITEMS, plain, strict=True)]
        assert lost[key]["change"] == pytest.approx(np.mean(changes), rel=1e-9)


@torch.no_grad()
def test_an_attribution_is_the_slope_by_a_common_factor() -> None:
    model, size = nano("stable_mamba"), 1e-5
    found = {(row["layer"], row["parameter"]): row for row in rows_of(model)["parameters"]}
    assert {row["part"] for row in found.values()} == {
        "gates", "compression", "projections", "timescales", "attention", "gain",
    }  # fmt: skip
    for layer, name in ((0, "out_proj.weight"), (1, "D"), (0, "attention.memory_gate")):
        parameter = model.blocks[layer].mixer.get_parameter(name)
        moved = []
        for factor in (1 + size, (1 - size) / (1 + size)):
            parameter.mul_(factor)
            moved.append(np.mean([logprob(model, item) for item in ITEMS]))
        parameter.div_(1 - size)
        assert found[layer, name]["attribution"] == pytest.approx((moved[0] - moved[1]) / 2 / size, rel=1e-4)
        assert found[layer, name]["magnitude"] >= abs(found[layer, name]["attribution"]) - 1e-12
        assert found[layer, name]["size"] == parameter.numel()


def test_prompts_without_finite_values_are_left_out_and_counted() -> None:
    model = nano("stable_mamba")
    with torch.no_grad():
        model.embedding.weight[7] = torch.nan
    bad = token_items(1, seed=5)[0]
    bad = type(bad)("bad", (*bad.prompt, 7), bad.answer)
    for rows, of_good in zip(rows_of(model, [*ITEMS, bad]).values(), rows_of(model).values(), strict=True):
        for row, good in zip(rows, of_good, strict=True):
            if row["status"] == "ok":
                assert (row["n_prompts"], row["n_nonfinite"], row["status"]) == (4, 1, "ok")
                numbers = {name: value for name, value in good.items() if not name.startswith(("n_", "p"))}
                assert all(row[name] == pytest.approx(value, rel=1e-9) for name, value in numbers.items()
                           if isinstance(value, float))  # fmt: skip
    assert {row["status"] for row in rows_of(model, [bad])["gates"]} == {"model_nonfinite"}


def test_an_attached_part_has_rows_and_the_other_blocks_say_why_not() -> None:
    found = rows_of(nano("stable_mamba_attached", layers=(1,)))
    for name, rows in found.items():
        (absent,) = first(rows)
        assert absent["status"] == "not_applicable" and "no ensemble of gates" in absent["reason"], name
    assert {row["site"] for row in found["gates"] if row["layer"] == 1} == {"mixer.stable"}
    assert all(row["parameter"].startswith("stable.") for row in found["parameters"] if row["layer"] == 1)


# -- readings of tensors ----------------------------------------------------------------------------------------------

numbers = st.integers(0, 10_000).map(lambda seed: torch.Generator().manual_seed(seed))


@given(numbers, st.integers(1, 5))
def test_shares_add_up_to_one(generator: torch.Generator, count: int) -> None:
    parts = list(torch.randn(count, 6, 3, generator=generator))
    found = shares(parts)
    assert sum(share for share in found if share is not None) == pytest.approx(1)
    assert shares([torch.zeros(2, 2)] * count) == [None] * count


@given(numbers)
def test_redundancy_knows_no_scale_and_no_order_of_the_two(generator: torch.Generator) -> None:
    a, b = torch.rand(2, 20, 4, generator=generator, dtype=torch.float64)
    found, other, moved = redundancy(a, b), redundancy(b, a), redundancy(0.5 * a + 0.1, b)
    assert found.correlation == pytest.approx(other.correlation) == pytest.approx(moved.correlation)
    assert found.correlation == pytest.approx(np.mean([np.corrcoef(a[:, c], b[:, c])[0, 1] for c in range(4)]))
    assert found.mutual_information == pytest.approx(other.mutual_information)
    still = redundancy(a, torch.full_like(b, 0.3))
    assert still.correlation is still.mutual_information is None


def test_openings_states_and_decays_by_hand() -> None:
    u = torch.tensor([[2.0, 0.0]])
    assert openings(torch.tensor([[0.5, 0.0]]), u)[0, 0] == 0.25 and openings(u * 0.5, u)[0, 1].isnan()
    states = torch.zeros(4, 1, 3)
    states[:, 0, 0], states[:, 0, 1] = torch.tensor([3.0, -3, 0, 0]), torch.tensor([0, 0, 1.0, -1])
    found = held(states)  # variances 4.5 and 0.5
    assert found is not None and tuple(found) == pytest.approx((0.9, 1, 25 / (4.5**2 + 0.25), 3), rel=1e-6)
    assert held(states[:1]) is held(torch.ones(3, 2, 2)) is None
    delta = -torch.tensor([[0.5, 0.9], [0.7, 0.9]]).log()
    assert tuple(decays(delta)) == pytest.approx((0.75, 0.05, 0.6, 0.9), rel=1e-6)
