"""Latents, probe directions and edges as candidates of `circuits` and `patching`: planted carriers are found.

The autoencoder is made by hand: a latent for either sign of every channel of the stream but the fillers', in mixed
order, so that the planted carriers are some of its latents and it leaves an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import InputError
from mplat.interp.engine.graph import all_steps, in_order, needs_of
from mplat.interp.engine.interp_config import config_model, settings_of
from mplat.interp.engine.step import Tables
from mplat.interp.engine.tensor_parts import StoredTensors
from mplat.interp.methods.candidates import Candidate, Direction
from mplat.interp.methods.circuit_graph import graph_of
from mplat.interp.methods.latents import Latents
from mplat.interp.methods.sae.dictionary import SparseDictionary
from planted_circuits import grown, items_of, planted_edges
from safetensors.torch import save_file

MODEL, SITE, AE, LAYER, WIDTH = "planted-copy-mamba", "blocks.0.resid_post", "relu-0-resid_post-0", 0, 24
SMALL: Mapping[str, Any] = {
    "state_groups": 1, "methods": ("eap",), "rank_by": "eap", "random_circuits": 1, "seeds": 1, "subsets": 1,
    "outside": 1, "checked": 0, "fractions": (0.5,), "permutations": 100,
}  # fmt: skip


def carriers() -> tuple[int, ...]:
    """Channels of the stream by which the first block's output comes to the second."""
    planted, _ = grown(MODEL)
    return tuple(sorted(c for part in planted.truth.of("output", layer=LAYER) for c in part.channels))


@cache
def dictionary() -> tuple[SparseDictionary, tuple[int, ...]]:
    """The autoencoder, and its latents that carry: what is passed on is never below 0."""
    quiet = [c for c in range(WIDTH) if c not in carriers()][-5:]
    both = [(c, sign) for c in range(WIDTH) for sign in (1.0, -1.0) if c not in quiet]
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(3)).tolist()
    rows = torch.zeros(len(both), WIDTH)
    for row, i in enumerate(order):
        rows[row, both[i][0]] = both[i][1]
    known = tuple(row for row, i in enumerate(order) if both[i][0] in carriers() and both[i][1] > 0)
    return SparseDictionary(rows.T.contiguous(), torch.zeros(len(both)), rows, torch.zeros(WIDTH)), known


def sae_tables(*, site: str = "resid_post") -> Tables:
    found = dictionary()[0]
    about = {"layer": LAYER, "site": site, "kind": "relu", "seed": 0}
    saes = [about | {"tensors": AE, "held_out": 0.25, "status": "ok"}, {"status": "not_applicable", "tensors": None}]
    features = [about | {"latent": i, "alive": True} for i in range(found.n_latents)]
    return {"saes": pa.Table.from_pylist(saes), "features": pa.Table.from_pylist(features)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Tensors of `sae` and `probes`, as they are read from files."""
    folder: Path = tmp_path_factory.mktemp("tensors")
    save_file(dictionary()[0].tensors(), folder / "sae.safetensors")
    along = torch.eye(WIDTH)[list(carriers())]
    mixed = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0] @ along
    other = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    other[:, list(carriers())] = 0
    save_file({f"{SITE}/carried": mixed, f"{SITE}/nothing": other}, folder / "probes.safetensors")
    return {"sae": {AE: StoredTensors(folder / "sae.safetensors")},
            "probes": {"directions": StoredTensors(folder / "probes.safetensors")}}  # fmt: skip


@pytest.fixture(scope="module")
def ranked(stored: dict[str, dict[str, Any]]) -> Tables:
    planted, model = grown(MODEL)
    found, known = dictionary()
    return run_step(
        "circuits", model, items_of(planted, 24), batch_size=12, upstream={"sae": sae_tables(), "probes": {}},
        tensors=stored, candidates=("latents", "probes", "edges"), share=len(known) / found.n_latents, **SMALL,
    )  # fmt: skip


def candidates(tables: Tables, kind: str) -> list[tuple[Candidate, float]]:
    rows = [row for row in tables["candidates"].to_pylist() if row["kind"] == kind]
    return [(Candidate.from_json(json.loads(row["parts"])), row["score"]) for row in rows]


def test_the_latents_and_directions_that_carry_are_ranked_first(ranked: Tables) -> None:
    _, known = dictionary()
    (together,) = candidates(ranked, "latents")
    assert together[0].parts == (Latents(SITE, AE, tuple(sorted(known))),) and together[0].layer == LAYER
    alone = candidates(ranked, "latent")
    first_alone = [one.parts[0] for one, score in alone if abs(score) > 1e-9]
    assert set(first_alone) == {Latents(SITE, AE, (i,)) for i in known}
    assert sum(score for _, score in alone) == pytest.approx(together[1])
    (first, carried), (second, nothing) = candidates(ranked, "probe")
    assert first.name.startswith("carried") and second.name.startswith("nothing") and abs(nothing) < 1e-6
    assert carried == pytest.approx(together[1], rel=1e-5) and carried > 1  # the same subspace in two bases
    assert isinstance(first.parts[0], Direction) and len(first.parts[0].vectors) == len(carriers())
    ranks = [row["rank"] for row in ranked["candidates"].to_pylist()]
    assert ranks == list(range(1, len(ranks) + 1))


def test_carriers_are_necessary_and_sufficient_and_random_ones_are_neither(
    ranked: Tables, stored: dict[str, dict[str, Any]]
) -> None:
    planted, model = grown(MODEL)
    tables = run_step(
        "patching", model, items_of(planted, 24), batch_size=12, tensors={"sae": stored["sae"]},
        upstream={"circuits": ranked, "sae": sae_tables()}, draws=2, controls=5, resamples=200, horizons=1, paired=2,
    )  # fmt: skip
    effects = {(row["kind"], row["how"]): row for row in tables["effects"].to_pylist()}
    assert {kind for kind, _ in effects} == {"latents", "latent", "probe", "edge"}
    for kind in ("latents", "probe"):
        for how in ("corrupted", "patched", "rest"):
            assert effects[kind, how]["share"] == pytest.approx(1, abs=0.02), (kind, how)
        assert effects[kind, "zero"]["share"] > 0.3 and effects[kind, "mean"]["share"] > 0.3
    for how in ("corrupted", "patched"):
        row = effects["latents", how]
        assert abs(row["control_share"]) < 0.02 and row["n_controls"] == 5
        assert row["verdict"] == "stronger than random"
        assert 0 < effects["latent", how]["share"] < 0.5  # one of a code of several
        assert effects["edge", how]["n_controls"] >= 2
    pairs = {(row["first"], row["second"]) for row in tables["pairs"].to_pylist()}
    assert not any("latent" in a and "latent" in b for a, b in pairs)  # a part of the other


def test_planted_edges_of_the_stream_are_ranked_first_and_carry_all_of_it(ranked: Tables) -> None:
    planted, model = grown(MODEL)
    graph = graph_of(model, range(model.n_layers), 1)
    truth = {e.name for e, inside in zip(graph.edges, planted_edges(planted, graph), strict=True)
             if inside and e.kind == "residual"}  # fmt: skip
    first = candidates(ranked, "edge")
    assert {one.name for one, _ in first[: len(truth)]} == truth and abs(first[len(truth)][1]) < 0.01
    upstream = {"circuits": {**ranked, "candidates": ranked["candidates"].slice(0, 0)}}
    tables = run_step("patching", model, items_of(planted, 24), batch_size=12, upstream=upstream, draws=1, controls=2,
                      named=tuple(sorted(truth)), resamples=100, horizons=1, paired=1)  # fmt: skip
    rows = [row for row in tables["effects"].to_pylist() if row["how"] in ("corrupted", "patched")]
    assert len(rows) == 2 * len(truth) >= 6
    for row in rows:  # a chain: each of its edges stops all of the difference, and each brings all of it
        assert row["share"] == pytest.approx(1, abs=0.05), row["candidate"]


def test_a_latent_whose_autoencoder_is_missing_or_of_another_site_is_refused(
    ranked: Tables, stored: dict[str, dict[str, Any]]
) -> None:
    planted, model = grown(MODEL)
    with pytest.raises(InputError, match=f"{AE!r} of a latent is missing"):
        run_step("patching", model, items_of(planted, 24), upstream={"circuits": ranked})
    upstream = {"circuits": ranked, "sae": sae_tables(site="mixer_out")}
    with pytest.raises(
        InputError, match=r"of blocks.0.mixer_out: there is no latent \d+ of the 24 of blocks.0.resid_post"
    ):
        run_step("patching", model, items_of(planted, 24), upstream=upstream, tensors={"sae": stored["sae"]})
    other = nano("mamba", d_model=16)
    with pytest.raises(InputError, match="of the 24 channels"):
        upstream = {"sae": sae_tables(), "probes": {}}
        items = items_of(planted, 12)
        run_step("circuits", other, items, upstream=upstream, tensors=stored, candidates=("latents",),
                 answered_only=False, **SMALL)  # fmt: skip


def test_the_settings_decide_which_steps_are_needed() -> None:
    def order(*sorts: str, step: str = "patching") -> list[str]:
        config = config_model().model_validate({"circuits": {"candidates": sorts}} if sorts else {})
        return [found.name for found in in_order([step], settings=lambda one: settings_of(config, one))]

    assert order() == ["circuits", "patching"] == order("units", "edges")
    assert order("latents", step="circuits") == ["collect", "sae", "circuits"]
    assert order("units", "latents") == ["collect", "sae", "circuits", "patching"]
    assert order("units", "probes") == ["collect", "probes", "circuits", "patching"]
    known = all_steps()
    config = config_model().model_validate({"circuits": {"candidates": ("latents", "probes")}})
    assert needs_of(known["patching"], known, lambda one: settings_of(config, one)) == ("circuits", "sae")
    for step in known.values():
        assert needs_of(step, known) == step.needs  # by default nothing more is run


def test_without_pairs_of_prompts_there_are_no_candidates(stored: dict[str, dict[str, Any]]) -> None:
    _, model = grown(MODEL)
    tables = run_step("circuits", model, token_items(6, vocab=12), upstream={"sae": sae_tables(), "probes": {}},
                      tensors=stored, candidates=("latents",), **SMALL)  # fmt: skip
    assert tables["candidates"].to_pylist()[0]["status"] == "not_applicable"
