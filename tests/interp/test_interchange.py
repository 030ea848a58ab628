"""An exchange by edits is the one that is written by hand, whichever way a model is read; and the step's tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from adapter_zoo import adapted
from interp_jobs import reader, token_items
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.interp.engine.graph import all_steps
from mplat.interp.engine.places import places
from mplat.interp.engine.step import Asked, Job, StepOutput
from mplat.interp.methods.alignment import random_subspace
from mplat.interp.methods.counterfactuals import Answers, Pair
from mplat.interp.methods.interchange import Exchange, Region, interchanged, outcome, prepare, regions
from mplat.models import LanguageModel, Replace
from mplat.models.families.mamba.mamba import MambaMixer
from torch import Tensor


def token_pairs(count: int = 3, length: int = 9) -> list[Pair]:
    """Random tokens; sites stand at another token in every pair, and elsewhere in base and source."""
    generator = torch.Generator().manual_seed(5)

    def prompt(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 40, (n,), generator=generator).tolist())

    return [
        Pair(f"p{i}", f"g{i}", prompt(length + i), prompt(length + i), prompt(4), Answers(1, 2, 3),
             {"last": (length + i - 1,) * 2, "inner": (3 + i, 2 + 2 * i), "first": (0, i)})
        for i in range(count)
    ]  # fmt: skip


def change_of(exchange: Exchange, region: Region, k: int = 3) -> Tensor:
    rows = random_subspace(k, region.size, 7)
    return (exchange.differences(region) @ rows.T) @ rows


# -- by hand ---------------------------------------------------------------------------------------------------------


def by_hand(model: LanguageModel, tokens: tuple[int, ...], site: str, layer: int, at: int, change: Tensor) -> Tensor:
    """Logits (V,) behind `tokens` of a Mamba, step by step; `change` is added to a site of one block at one token."""
    x = model.backbone.embeddings.weight[list(tokens)]
    norm = lambda v, w, eps: v / (v.square().mean(-1, keepdim=True) + eps).sqrt() * w  # noqa: E731
    for i, block in enumerate(model.blocks):
        mixer = block.mixer
        assert isinstance(mixer, MambaMixer)
        here = i == layer
        both = norm(x, block.norm.weight, block.norm.eps) @ mixer.in_proj.weight.T
        inner, gate = both.chunk(2, -1)
        taps = mixer.conv1d.weight[:, 0]
        padded = torch.cat([inner.new_zeros(taps.shape[1] - 1, inner.shape[1]), inner])
        u = torch.stack([(padded[t : t + taps.shape[1]] * taps.T).sum(0) for t in range(len(inner))])
        assert mixer.conv1d.bias is not None
        u = F.silu(u + mixer.conv1d.bias)
        rank, n = mixer.dt_proj.weight.shape[1], mixer.A_log.shape[1]
        dt, b, c = (u @ mixer.x_proj.weight.T).split([rank, n, n], -1)
        delta = F.softplus(dt @ mixer.dt_proj.weight.T + mixer.dt_proj.bias)
        state, outs = torch.zeros_like(mixer.A_log), []
        for t in range(len(u)):
            state = torch.exp(-delta[t][:, None] * mixer.A_log.exp()) * state + (delta[t] * u[t])[:, None] * b[t]
            if here and site == "mixer.h" and t == at:
                state = state + change.view_as(state)
            outs.append(state @ c[t] + mixer.D * u[t])
            if here and site == "mixer.h_post" and t == at:
                state = state + change.view_as(state)
        out = (torch.stack(outs) * F.silu(gate)) @ mixer.out_proj.weight.T
        if here and site == "mixer_out":
            out = out.index_add(0, torch.tensor([at]), change[None])
        x = x + out
        if here and site == "resid_post":
            x = x.index_add(0, torch.tensor([at]), change[None])
    head = model.backbone.embeddings.weight if model.lm_head is None else model.lm_head.weight
    return norm(x, model.backbone.norm_f.weight, model.backbone.norm_f.eps)[-1] @ head.T


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("site", ["resid_post", "mixer_out", "mixer.h", "mixer.h_post"])
def test_an_exchange_equals_a_replay_by_hand(site: str, layer: int) -> None:
    model, pairs = nano("mamba"), token_pairs()
    (place,) = places(model, [layer], [site], one_axis=False)
    (region,) = regions(place, 1)
    for position in ("inner", "last", "first"):
        exchange = prepare(model, pairs, position, [place])
        change = change_of(exchange, region)
        with torch.no_grad():
            found = interchanged(model, exchange, region, change)
            for i, pair in enumerate(pairs):
                at = pair.at[position][0]
                wanted = by_hand(model, pair.base, site, layer, at, change[i])
                assert (found[i] - wanted).abs().max() < 1e-10
                last, state = at + 1 == len(pair.base), site.startswith("mixer.h")
                if (not last and (layer == 0 or state)) or (last and site != "mixer.h_post"):  # somebody reads it
                    assert (found[i] - by_hand(model, pair.base, site, layer, at, 0 * change[i])).abs().max() > 1e-6


# -- on every kind of model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "gpt2", "jamba"])
def test_reading_what_is_left_behind_a_state_equals_reading_whole_prompts(kind: str, tmp_path: Any) -> None:
    """An exchange of a few channels, pair by pair, against a `Replace` in one run over the whole base prompt."""
    model = nano(kind) if kind in ARCHITECTURES else adapted(kind, tmp_path, vocab_size=40).double()
    pairs = token_pairs()
    (place,) = places(model, [0], ["resid_post"])
    region = regions(place, 2)[1]
    for position in ("inner", "last"):
        exchange = prepare(model, pairs, position, [place])
        change = change_of(exchange, region)
        with torch.no_grad():
            found = interchanged(model, exchange, region, change)
            for i, pair in enumerate(pairs):
                value = exchange.values(region)[i] + change[i]
                edit = Replace(place.name, value, channels=range(region.start, region.stop),
                               positions=[pair.at[position][0]])  # fmt: skip
                with model.edit(edit):
                    wanted = model(torch.tensor([pair.base]))[0, -1]
                assert (found[i] - wanted).abs().max() < 1e-9, position


def test_values_are_those_of_each_run_at_its_own_token() -> None:
    model, pairs = nano("mamba2"), token_pairs()
    (place,) = places(model, [1], ["mixer.h_post"], one_axis=False)
    exchange = prepare(model, pairs, "inner", [place])
    for of in ("base", "source"):
        for i, pair in enumerate(pairs):
            with model.capture(place.name) as acts:
                model(torch.tensor([getattr(pair, of)]))
            wanted = acts[place.name][0, pair.at["inner"][("base", "source").index(of)]]
            assert (getattr(exchange, of)[place.name][i] - wanted).abs().max() < 1e-12


def test_exchanging_all_directions_is_exchanging_the_site_and_none_changes_nothing() -> None:
    model, pairs = nano("mamba"), token_pairs()
    (place,) = places(model, [0], ["mixer_out"])
    (region,) = regions(place, 1)
    exchange = prepare(model, pairs, "inner", [place])
    whole, everything = (outcome(model, exchange, region, rows) for rows in (None, random_subspace(24, 24, 0)))
    assert abs(whole.loss - everything.loss).max() < 1e-10
    with torch.no_grad():
        same = interchanged(model, exchange, region, torch.zeros(3, 24, dtype=torch.float64))
    for i, pair in enumerate(pairs):
        assert (same[i] - model(torch.tensor([pair.base]))[0, -1]).abs().max() < 1e-10


# -- the step ----------------------------------------------------------------------------------------------------------


def run(model: LanguageModel, **settings: Any) -> StepOutput:
    """The step with its small settings; it looks at none of its items."""
    step = all_steps()["interchange"]
    job = Job(
        model=model, items=token_items(1), excluded=(), layers=tuple(range(model.n_layers)),
        settings=step.settings.model_validate(dict(step.settings.small) | settings), seed=0, upstream={},
        map=lambda *a, **k: pa.table({}),
    )  # fmt: skip
    assert step.check is not None
    step.check(Asked(model, job.layers, job.settings, {}))
    output = step.function(job)
    assert isinstance(output, StepOutput)
    return output


def test_a_table_holds_every_kind_at_every_place_and_its_subspaces_are_there() -> None:
    model = reader("mamba")
    output = run(model, variables=("entity",), positions=("last",), parts=2, ranks=(2, 999), sites=("mixer_out",))
    rows = output.tables["accuracy"].to_pylist()
    kinds = {"das", "das_shuffled", "das_random_weights", "random", "pca", "channels", "full"}
    for layer in (0, 1):
        for channels in ("0:12", "12:24"):
            here = [row for row in rows if (row["layer"], row["channels"]) == (layer, channels)]
            assert {row["kind"] for row in here if row["status"] == "ok"} == kinds
            (das,) = (row for row in here if row["kind"] == "das")
            assert das["fits"] == 2 and das["pairs"] == 8 and 0 <= das["cosine_least"] <= das["cosine_mean"] <= 1
            assert das["p_draws"] >= 1 / 3 and das["p_holm"] is not None
            (too_large,) = (row for row in here if row["status"] == "not_applicable")
            assert too_large["k"] == 999 and too_large["accuracy"] is None
    bases = output.tensors["bases"]
    subspaces = output.tables["subspaces"].to_pylist()
    assert {row["tensor"] for row in subspaces} == set(bases) and len(bases) == 2 * 2 * 2
    for basis in bases.values():
        assert basis.shape == (2, 12) and (basis @ basis.T - torch.eye(2)).abs().max() < 1e-5


def test_a_learned_subspace_can_be_steered() -> None:
    from mplat.steering.part import Part

    model = reader("mamba2")
    basis = run(model, sites=("h",), seeds=1, positions=("last",)).tensors["bases"]["hop1.last.blocks.1.mixer.h.k2.0"]
    part = Part("scale_subspace", "mixer.h", (1,), 0.0, tensors={"basis": basis})
    assert part.tensors["basis"].shape[0] == 2


def test_what_cannot_be_said_has_a_row_that_says_why() -> None:
    model = reader("mamba")
    rows = run(
        model, variables=("entity", "hop1"), positions=("last", "fact"), sites=("h_post",), everywhere=True
    ).tables["accuracy"]
    for row in rows.to_pylist():
        if row["position"] == "last":
            assert row["reason"] == "nothing after the last token reads it"
        elif row["variable"] == "entity":
            assert row["reason"] == "the question has not been read there"
        else:
            assert row["status"] == "ok"
    wrong = run(model, correct_only=True, drawn=1).tables["accuracy"].to_pylist()
    assert {row["status"] for row in wrong} == {"model_wrong"} and "0 pairs" in wrong[0]["reason"]


def test_sites_that_hold_no_real_numbers_or_cannot_be_edited_are_refused() -> None:
    with pytest.raises(UsageError, match="no site 'nowhere'"):
        run(reader("mamba"), sites=("nowhere",))
