"""A causal trace is the same numbers as one restoration at a time, through the public edits and by replaying the
corrupted prompt token by token, for every architecture, and in whatever batches it is computed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.interp.methods.restoration import SITES
from mplat.interp.tracing import causal_trace
from mplat.models import LanguageModel, Replace, Scale
from tracing_oracle import Oracle, restore_entries

T, L, SUBJECT, SAMPLES = 6, 2, (2, 4), 2
small = cache(nano)
PLACES = [0, 3, T - 1]  # before the corruption, in it, and the last token


#: every architecture in the first test, every other one in those of a trace's options
SOME, OTHERS = ARCHITECTURES[::2], ARCHITECTURES[1::2]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Shared by all tests: a trace leaves it as it was, which the last test says."""
    return small(request.param, n_layers=L)


def names(model: LanguageModel, site: str, layers: list[int]) -> list[str]:
    """Full names of the sites that a trace calls `site`; none for a layer that lacks one of them."""
    parts = [p if p.startswith(("resid", "mixer_out", "mlp")) else f"mixer.{p}" for p in site.split("+")]
    known = {s.name for s in model.sites()}
    full = [[f"blocks.{i}.{part}" for part in parts] for i in layers]
    return [name for each in full if known.issuperset(each) for name in each]


def by_key(table) -> dict[tuple[str, int, int], dict]:
    rows = table.to_pylist()
    found = {(r["site"], r["layer"], r["position"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def check_against_edits(model: LanguageModel, oracle: Oracle, table, window: int = 1, places=PLACES) -> None:
    depth = model.n_layers
    rows = by_key(table)
    expected_keys = [
        (site, layer, position)
        for site in dict.fromkeys(table["site"].to_pylist())
        for layer in range(depth)
        if names(model, site, [layer])
        for position in places
    ]
    assert list(rows) == expected_keys
    for (site, layer, position), row in rows.items():
        around = [layer] if site == "resid_post" else range(
            max(0, layer - window // 2), min(depth, layer + (window + 1) // 2)
        )  # fmt: skip
        effects = oracle.by_edits(names(model, site, list(around)), position)
        assert row["effect"] == pytest.approx(float(effects.mean()), rel=0, abs=1e-10), (site, layer, position)
        if len(effects) > 1:
            assert row["effect_std"] == pytest.approx(float(effects.std()), rel=0, abs=1e-10)
        else:
            assert row["effect_std"] is None
        assert row["samples"] == len(effects)
        assert row["token"] == str(int(oracle.clean[0, position]))


@torch.no_grad()
def test_noise_trace_equals_one_edit_at_a_time(model) -> None:
    clean = tokens(1, T)[0]
    table = causal_trace(model, clean, subject=SUBJECT, samples=SAMPLES, seed=3, positions=PLACES)
    oracle = Oracle(model, clean, subject=SUBJECT, samples=SAMPLES, seed=3)
    assert set(table["site"].to_pylist()) == {s for s in SITES if names(model, s, list(range(L)))}
    check_against_edits(model, oracle, table)
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert float(metadata["p_clean"]) == pytest.approx(oracle.p_clean, rel=1e-12)
    assert float(metadata["p_corrupted"]) == pytest.approx(float(oracle.p_corrupted.mean()), rel=1e-9)
    assert metadata["answer"] == str(oracle.answer)
    assert max(abs(e) for e in table["effect"].to_pylist()) > 1e-4


@pytest.mark.parametrize("arch", SOME)
@torch.no_grad()
def test_windows_and_replacement_equal_one_edit_at_a_time(arch: str) -> None:
    model = small(arch, n_layers=3)
    clean = tokens(1, T)[0]
    other = clean.clone()
    other[2:4] = (other[2:4] + 11) % 40
    oracle = Oracle(model, clean, other)
    sites = [s for s in ("resid_post", "mixer_out", "h_post+conv_state", "y", "mlp_out") if names(model, s, [0, 1, 2])]
    for window in (2, 3):
        table = causal_trace(model, clean, other, sites=sites, window=window, positions=[3, 4])
        check_against_edits(model, oracle, table, window, [3, 4])


@torch.no_grad()
def test_post_step_restorations_equal_token_by_token_replay(model) -> None:
    clean = tokens(1, T)[0]
    oracle = Oracle(model, clean, subject=SUBJECT, samples=SAMPLES)
    entries = {"h_post": ["h"], "conv_state": ["conv"], "h_post+conv_state": ["h", "conv"], "state": None}
    sites = [s for s in entries if s == "state" or names(model, s, list(range(L)))]
    table = causal_trace(model, clean, subject=SUBJECT, samples=SAMPLES, sites=sites, positions=[2, 4])
    for (site, layer, position), row in by_key(table).items():
        effects = oracle.by_replay(position, restore_entries(layer, entries=entries[site]))
        assert row["effect"] == pytest.approx(float(effects.mean()), rel=0, abs=1e-10), (site, layer, position)


@pytest.mark.parametrize("model", OTHERS, indirect=True)
@torch.no_grad()
def test_batched_equals_one_at_a_time(model) -> None:
    """The smallest budget that is accepted against the default, for the numbers of all sites."""
    clean = tokens(1, T)[0]

    def trace(**changes):
        options = {"subject": SUBJECT, "samples": 3, "window": 2, "positions": [3, T - 1]} | changes
        return causal_trace(model, clean, **options)

    whole = trace()
    with pytest.raises(ValueError, match="give at least") as refused:
        trace(memory_budget=1)
    least = int(re.findall(r"\d+", str(refused.value))[-1])
    small = trace(memory_budget=least)
    with pytest.raises(ValueError, match="too small"):
        trace(memory_budget=least - 1)
    for name in ("effect", "effect_std"):
        a, b = (torch.tensor(t[name].to_pylist(), dtype=torch.float64) for t in (whole, small))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    # and any choice of sites, layers and positions gives the rows of the whole
    some = trace(sites=["mixer_out", "resid_post"], layers=[1, 0], positions=[-1, 3])
    rows = by_key(whole)
    assert [(r["site"], r["layer"], r["position"]) for r in some.to_pylist()] == [
        (s, i, p) for s in ("mixer_out", "resid_post") for i in (0, 1) for p in (3, T - 1)
    ]
    for row in some.to_pylist():
        same = rows[row["site"], row["layer"], row["position"]]
        assert row["effect"] == pytest.approx(same["effect"], rel=0, abs=1e-12)


@pytest.mark.parametrize("model", SOME, indirect=True)
@torch.no_grad()
def test_edits_in_force_are_part_of_all_runs(model) -> None:
    """A steered model is traced as it is steered: in the clean, the corrupted and the restored runs."""
    clean = tokens(1, T)[0]
    edits = [Scale("blocks.1.mixer_out", 1.5), Scale("blocks.0.resid_pre", 0.9, positions=[-1, 3], phase="prefill")]
    options = {"subject": SUBJECT, "samples": SAMPLES, "positions": PLACES, "sites": ["mixer_out", "resid_post"]}
    plain = causal_trace(model, clean, **options)
    with model.edit(*edits):
        table = causal_trace(model, clean, **options)
        check_against_edits(model, Oracle(model, clean, subject=SUBJECT, samples=SAMPLES), table)
    assert plain["effect"].to_pylist() != table["effect"].to_pylist()


@pytest.mark.parametrize("case", ["gpt_neox", "jamba", "falcon_h1", "nemotron_h", "zamba2"])
@torch.no_grad()
def test_adapted_models_are_traced_like_our_own(case: str, tmp_path: Path) -> None:
    model = adapted(case, tmp_path / "model")
    clean = tokens(1, 6)[0]
    other = clean.clone()
    other[1:3] = (other[1:3] + 11) % 40
    oracle = Oracle(model, clean, other)
    table = causal_trace(model, clean, other, positions=[2, 4])
    assert {"resid_post", "mixer_out"} <= set(table["site"].to_pylist())
    check_against_edits(model, oracle, table, places=[2, 4])
    traced = causal_trace(model, clean, other, sites=["state"], positions=[2, 4])
    for (_, layer, position), row in by_key(traced).items():
        effects = oracle.by_replay(position, restore_entries(layer))
        assert row["effect"] == pytest.approx(float(effects.mean()), rel=0, abs=1e-10)


@torch.no_grad()
def test_noise_is_in_the_units_of_the_embedding_table(tmp_path: Path) -> None:
    """Falcon-H1 multiplies its embeddings by 2 here; the noise is multiplied with them."""
    model = adapted("falcon_h1", tmp_path / "model")
    clean = tokens(1, 6)[0]
    table = causal_trace(model, clean, subject=(1, 3), samples=2, sites=["resid_post"], layers=[0], positions=[2])
    oracle = Oracle(model, clean, subject=(1, 3), samples=2)
    assert oracle.noise is not None
    oracle.noise = 2.0 * oracle.noise
    with oracle.corruption():
        oracle.p_corrupted = oracle.prob(model(oracle.rows)[:, -1])
    expected = float(oracle.by_edits(["blocks.0.resid_post"], 2).mean())
    assert table["effect"].to_pylist() == [pytest.approx(expected, rel=0, abs=1e-10)]


@pytest.mark.parametrize("model", OTHERS, indirect=True)
@torch.no_grad()
def test_other_metrics_are_what_they_say(model) -> None:
    clean, place = tokens(1, T)[0], {"layers": [1], "positions": [5], "sites": ["mixer_out"]}
    other = clean.clone()
    other[2] = (other[2] + 11) % 40
    oracle = Oracle(model, clean, other)
    with model.capture("blocks.1.mixer_out") as acts:
        first = model(oracle.clean)[0, -1]
    with model.edit(Replace("blocks.1.mixer_out", acts["blocks.1.mixer_out"][:, 5:6], positions=[5])):
        restored = model(oracle.rows)[0, -1]
    second = model(oracle.rows)[0, -1]
    right, wrong = 7, 9

    def effect(**options) -> float:
        return causal_trace(model, clean, other, **place, **options)["effect"][0].as_py()

    def logprob(logits: torch.Tensor) -> float:
        return float(torch.log_softmax(logits, -1)[right])

    assert effect(answer=right, metric="logprob") == pytest.approx(logprob(restored) - logprob(second), abs=1e-10)
    expected = float((restored[right] - restored[wrong]) - (second[right] - second[wrong]))
    assert effect(answer=(right, wrong), metric="logit_diff") == pytest.approx(expected, abs=1e-10)
    # by default the contrast is what the corrupted run would say instead
    foil = int(torch.where(torch.arange(40) == int(first.argmax()), -torch.inf, second).argmax())
    assert effect(metric="logit_diff") == pytest.approx(
        effect(answer=(int(first.argmax()), foil), metric="logit_diff"), abs=1e-12
    )


@torch.no_grad()
def test_the_model_is_left_as_it_was(model) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    causal_trace(model, tokens(1, T)[0], subject=SUBJECT, samples=2, sites=["resid_post"])
    assert model.training and not model.edits and not model.captures
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
