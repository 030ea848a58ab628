"""An architecture in one file is analysed, traced and steered by what it declares: against sums over its own sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from interp_jobs import asked, run_step, token_items
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.interp.tracing import attribution_patching, causal_trace, hidden_attention, knockout
from mplat.models import LanguageModel, Replace, Scale, load
from mplat.models.linear_recurrence import Recurrence
from mplat.steering import find_variant, variant_for, variant_names
from recipes import scaled
from recurrence_loops import read_matrix, recur
from torch import Tensor
from toy_mixers import TOYS, toys
from tracing_oracle import Oracle, restore_entries

T, LAYER, PREFIX = 9, 1, "blocks.1.mixer."
ITEMS = [dataclasses.replace(item, fact=(1, 3)) for item in token_items(4)]
STEPS = ("eigenvalues", "memory_decay", "layer_specialisation", "selection_clusters", "state_projection", "bottlenecks")
TOKENIZER = Path(__file__).resolve().parents[2] / "platform" / "models" / "tiny" / "tokenizer"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with toys():
        yield


@pytest.fixture(params=TOYS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


def declared(model: LanguageModel) -> Recurrence:
    (of,) = model.blocks[LAYER].recurrences()
    return of


@torch.no_grad()
def held(model: LanguageModel, text: Tensor) -> Mapping[str, Tensor]:
    """What the sites of the block's mixer hold for one prompt."""
    with model.capture(*(site.name for site in model.sites() if site.name.startswith(PREFIX))) as acts:
        model(text[None])
    return acts


def test_eigenvalues_and_half_lives_are_those_of_its_a_and_delta(model: LanguageModel) -> None:
    of = declared(model)
    spectrum = [r for r in run_step("eigenvalues", model, ITEMS)["spectrum"].to_pylist() if r["layer"] == LAYER]
    traced = run_step("fact_tracing", model, ITEMS, samples=1, distances=(0, 2))
    tables = run_step("memory_decay", model, ITEMS, upstream={"fact_tracing": traced}, traced="all", resamples=100)
    lives = [row for row in tables["half_lives"].to_pylist() if row["layer"] == LAYER]
    delta = torch.ones(1, len(of.A))
    if of.delta is not None:
        delta = torch.cat([held(model, torch.tensor(item.prompt))[PREFIX + of.delta][0] for item in ITEMS])
    mean = delta.mean(0)[:, None]
    expected = (np.log(2) / (mean * of.A.abs())).flatten().tolist()
    assert {row["kind"] for row in spectrum} == {"modal" if of.delta is None else "selective"}
    assert [row["real"] for row in spectrum] == pytest.approx(of.A.flatten().tolist(), rel=1e-12)
    assert [row["half_life_tokens"] for row in spectrum] == pytest.approx(expected, rel=1e-9)
    assert [row["half_life_tokens"] for row in lives] == pytest.approx(expected, rel=1e-9)
    restored = {row["site"] for row in tables["restoration"].to_pylist()}
    assert restored == ({None} if of.delta is None else {"h_post"}), "one shows its states, the other does not"


def test_selection_reads_with_the_weights_of_the_last_row(model: LanguageModel) -> None:
    of = declared(model)
    rows = [row for row in run_step("selection", model, ITEMS, draws=100)["features"].to_pylist()
            if row["layer"] == LAYER]  # fmt: skip
    if of.delta is None:
        assert [row["status"] for row in rows] == ["not_applicable"], "it selects nothing"
        return
    for row in rows:
        item = next(item for item in ITEMS if item.id == row["question_id"])
        acts = held(model, torch.tensor(item.prompt))
        x = acts[PREFIX + of.x][0]
        weights = (read_matrix(of, acts, PREFIX)[:, -1] / x.T).abs()  # every channel of a unit has the same
        assert row["read_share"] == pytest.approx(float(weights[:, 1:3].sum() / weights.sum()), rel=1e-8)


@torch.no_grad()
def test_hidden_attention_is_what_each_token_reads_of_each(model: LanguageModel) -> None:
    of, text = declared(model), tokens(1, T)[0]
    acts = held(model, text)
    x = acts[PREFIX + of.x][0]
    weights = hidden_attention(model, text, LAYER).weights.repeat_interleave(x.shape[1] // len(of.A), 0)
    torch.testing.assert_close(weights * x.T[:, None], read_matrix(of, acts, PREFIX), rtol=0.0, atol=1e-10)
    with pytest.raises(UsageError, match="other parts"):
        hidden_attention(model, text, LAYER, form="mixer")


@torch.no_grad()
def test_a_knock_out_is_the_recurrence_without_the_sources_writes(model: LanguageModel) -> None:
    of, text = declared(model), tokens(1, T)[0]
    acts = held(model, text)
    targets, sources = [5, 8], [0, 3, 5]
    whole, cut = recur(of, acts, PREFIX), recur(of, acts, PREFIX, without=sources)
    y = whole.read + whole.skip
    y[targets] = (cut.read + cut.skip)[targets]
    answer = int(model(text[None])[0, -1].argmax())
    with model.edit(Replace(PREFIX + of.outputs[0], y[None])):
        expected = float(torch.softmax(model(text[None])[0, -1], -1)[answer])
    table = knockout(model, text, targets, sources, [LAYER], decay=1)
    assert table["p"].to_pylist() == pytest.approx([expected], abs=1e-10)
    parts = knockout(model, text, targets, sources, [LAYER], decay=2)
    assert sum(parts["coordinates"].to_pylist()) == table["coordinates"][0].as_py()
    assert abs(expected - float(table.schema.metadata[b"p0"])) > 1e-7


@torch.no_grad()
def test_traces_are_those_of_restoring_one_value_at_a_time(model: LanguageModel) -> None:
    text = tokens(1, T)[0]
    oracle = Oracle(model, text, subject=(1, 3), samples=2)
    table = causal_trace(model, text, subject=(1, 3), samples=2, positions=[2, 4, 8])
    found = {(row["site"], row["layer"], row["position"]): row["effect"] for row in table.to_pylist()}
    assert {site for site, _, _ in found} >= {"mixer_out", "resid_post"}
    for (site, layer, position), effect in found.items():
        if site in ("mixer_out", "h", "delta", "resid_post"):
            name = f"blocks.{layer}.{'mixer.' if site in ('h', 'delta') else ''}{site}"
            expected = oracle.by_edits([name], position)
        elif site == "h_post" and position < T - 1:
            expected = oracle.by_replay(position, restore_entries(layer, entries=["h"]))
        else:
            continue
        assert effect == pytest.approx(float(expected.mean()), abs=1e-10), (site, layer, position)


@torch.no_grad()
def test_the_derivative_by_a_state_is_that_of_an_edit_of_it() -> None:
    """The scan's adjoint, which is used where no edit is in force, against what autograd finds through an edit."""
    model, prompts = nano("tally"), tokens(2, T)
    by_adjoint = attribution_patching(model, *prompts, ["h", "h_post"], metric="logprob")["effect"].to_pylist()
    with model.edit(Scale("embed", 1.0)):
        by_edit = attribution_patching(model, *prompts, ["h", "h_post"], metric="logprob")["effect"].to_pylist()
    assert by_adjoint == pytest.approx(by_edit, rel=1e-9, abs=1e-14) and max(map(abs, by_adjoint)) > 1e-5


@pytest.mark.parametrize("name", TOYS)
def test_every_step_runs_and_the_model_is_steered_without_another_file(name: str, tmp_path: Path) -> None:
    nano(name, vocab_size=1024).float().save(tmp_path / "model")
    model = load(tmp_path / "model", tokenizer=str(TOKENIZER))
    few = {
        "steps": STEPS, "batch_size": 4, "bottlenecks": dict(all_steps()["bottlenecks"].settings.small),
        "selection": {"draws": 100}, "fact_tracing": {"prompts": 2, "samples": 1, "distances": (0, 4)},
        "layer_specialisation": {"resamples": 100}, "memory_decay": {"resamples": 100},
    }  # fmt: skip
    results = run_steps(model, asked()[:2], config_model().model_validate(few), cache=Cache(tmp_path / "cache"))
    assert results.keys() >= set(STEPS) and all(result.bad == {} for result in results.values())

    operators = {"scale_channels", "scale_delta"} if name == "tally" else {"scale_channels"}
    assert name in variant_names() and find_variant(name.upper()) == variant_for(model)
    plan = prepare(EvalConfig(model=str(tmp_path / "model"), per_level=4, draws=1), model)
    assert plan.variant.name == name and operators <= {operator for operator, _ in plan.variant.places}
    assert plan.search is not None and any(place.site == "mixer_out" for place in plan.search.where)
    recipe = scaled(model, (3, 5), 2.0, LAYER)
    recipe.check(model)
    text = tokens(1, T)
    with torch.no_grad(), model.capture("blocks.1.mixer_out") as acts:
        model(text)
        plain = acts["blocks.1.mixer_out"].clone()
        with model.edit(*recipe.edits(model)):
            model(text)
    factors = torch.ones(plain.shape[-1]).index_fill(0, torch.tensor([3, 5]), 2.0)
    torch.testing.assert_close(acts["blocks.1.mixer_out"], plain * factors, rtol=0, atol=0)
