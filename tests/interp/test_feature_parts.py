"""Latents, directions and edges of the stream as parts, against computations by hand and by other code."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.interp.methods.candidates import Candidate, Channels, Direction, named
from mplat.interp.methods.circuit_graph import graph_of
from mplat.interp.methods.circuit_runs import cut_logits, source_of
from mplat.interp.methods.controls import complement, controls, overlap
from mplat.interp.methods.cuts import Rewrite
from mplat.interp.methods.donor import Donor, Part, SiteDictionary
from mplat.interp.methods.latents import Latents, packed_all, unpacked_all
from mplat.interp.methods.sae.dictionary import SparseDictionary
from mplat.interp.methods.stream_edges import StreamEdge, stream_edges
from mplat.models import LanguageModel, Replace
from torch import Tensor

SITE, NAME, WIDTH, F = "blocks.0.resid_post", "relu-0-resid_post-0", 24, 40
CLEAN, OTHER = tokens(3, 7, seed=1), tokens(3, 7, seed=2)
ALL, ORDER = torch.ones(3, dtype=torch.bool), torch.arange(3)


def dictionary(seed: int = 0, threshold: float | None = None, k: int | None = None) -> SparseDictionary:
    """One that reconstructs nothing well."""
    rng = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(WIDTH, F, generator=rng), torch.randn(F, WIDTH, generator=rng)
    bias, centre = torch.randn(F, generator=rng) / 3, torch.randn(WIDTH, generator=rng) / 3
    return SparseDictionary(enc, bias, dec, centre, None if threshold is None else torch.full((F,), threshold), k)


def known(found: SparseDictionary, site: str = SITE) -> dict[str, SiteDictionary]:
    return {NAME: SiteDictionary(site, found)}


@torch.no_grad()
def held(model: LanguageModel, ids: Tensor, *names: str) -> dict[str, Tensor]:
    with model.capture(*names) as acts:
        model(ids)
    return {name: acts[name].clone() for name in names}


@torch.no_grad()
def replaced(model: LanguageModel, part: Part, donor: Donor) -> Tensor:
    with model.edit(*part.edits(model, donor)):
        return model(CLEAN)


@torch.no_grad()
def edited(model: LanguageModel, site: str, value: Tensor) -> Tensor:
    with model.edit(Replace(site, value)):
        return model(CLEAN)


def by_hand(found: SparseDictionary, x: Tensor, latent: int) -> Tensor:
    """f of one latent (B, T), a number at a time; float64."""
    out = torch.zeros(x.shape[:2], dtype=torch.float64)
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            z = float(found.b_enc[latent])
            for c in range(WIDTH):
                z += (float(x[row, t, c]) - float(found.b_dec[c])) * float(found.W_enc[c, latent])
            out[row, t] = z if z > (0.0 if found.threshold is None else float(found.threshold[latent])) else 0.0
    return out


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_a_replaced_latent_moves_the_site_along_its_decoder_row_and_keeps_the_error(threshold: float | None) -> None:
    model, found, chosen, rows = (
        nano("mamba"),
        dictionary(threshold=threshold),
        (3, 17),
        torch.tensor([True, False, True]),
    )
    own, other = (held(model, ids, SITE)[SITE] for ids in (CLEAN, OTHER))
    value = own.clone()
    for latent in chosen:
        change = by_hand(found, other, latent) - by_hand(found, own, latent)
        assert change.abs().max() > 0.1
        value[rows] += change[rows][..., None] * found.W_dec[latent].double()
    part = Latents(SITE, NAME, chosen)
    logits = replaced(model, part, Donor({SITE: other}, ORDER, rows, known(found)))
    torch.testing.assert_close(logits, edited(model, SITE, value), rtol=0, atol=1e-9)
    assert torch.equal(logits[1], model(CLEAN)[1]) and (logits[0] - model(CLEAN)[0]).abs().max() > 1e-3


def test_zeroed_and_averaged_latents_are_latents_and_not_those_of_a_zeroed_or_averaged_site() -> None:
    model, found, chosen = nano("mamba"), dictionary(), (3, 17, 20)
    own = held(model, CLEAN, SITE)[SITE]
    part, f = Latents(SITE, NAME, chosen), torch.stack([by_hand(found, own, i) for i in range(F)], -1)
    decoder, mean = found.W_dec.double()[list(chosen)], f.mean((0, 1))
    none = own - f[..., list(chosen)] @ decoder
    average = own + (mean[list(chosen)] - f[..., list(chosen)]) @ decoder
    values = {SITE: own.mean((0, 1), keepdim=True), part.held: mean.view(1, 1, F)}
    for given_, expected in ((None, none), (values, average)):
        logits = replaced(model, part, Donor(given_, ORDER, ALL, known(found)))
        torch.testing.assert_close(logits, edited(model, SITE, expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [None, 5])
def test_all_latents_with_their_own_values_change_no_bit(k: int | None) -> None:
    model, found = nano("mamba"), dictionary(k=k)
    donor = Donor(held(model, CLEAN, SITE), ORDER, ALL, known(found))
    assert torch.equal(replaced(model, Latents(SITE, NAME, tuple(range(F))), donor), model(CLEAN))


@given(seed=st.integers(0, 999), chosen=st.sets(st.integers(0, F - 1), min_size=1), basis=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_part_and_its_complement_share_out_the_site(seed: int, chosen: set[int], basis: bool) -> None:
    """What the one leaves the other takes: x'(part) + x'(complement) = x + x of the donor."""
    model, rng = nano("mamba"), torch.Generator().manual_seed(seed)
    x, other = torch.randn(2, 3, 4, WIDTH, generator=rng, dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(WIDTH, 1 + seed % 4, generator=rng, dtype=torch.float64))[0].T.tolist()
    direction = Direction(SITE, tuple(tuple(row) for row in vectors))
    part: Part = direction if basis else Latents(SITE, NAME, tuple(sorted(chosen)))
    rest = complement(Candidate("c", "x", (part,)))
    assert rest is not None and complement(rest) is not None
    donor = Donor({SITE: other}, ORDER, ALL, known(dictionary(seed)))
    total = torch.zeros_like(x)
    for one in (part, *rest.parts):
        (edit,) = one.edits(model, donor)
        assert isinstance(edit, Rewrite)
        total += edit.function(x)
    torch.testing.assert_close(total, x + other, rtol=0, atol=1e-9)
    back = complement(rest)
    assert back is not None and back.parts == (part,)


def test_a_latent_without_its_autoencoder_is_refused() -> None:
    model, found = nano("mamba"), dictionary()
    narrow = SparseDictionary(torch.zeros(8, 4), torch.zeros(4), torch.zeros(4, 8), torch.zeros(8))
    for part, autoencoders, why in (
        (Latents(SITE, NAME, (1,)), {}, "missing"),
        (Latents(SITE, NAME, (1,)), known(narrow), "8 channels"),
        (Latents(SITE, NAME, (1,)), known(found, "blocks.1.resid_post"), "of blocks.1.resid_post"),
        (Latents(SITE, NAME, (F,)), known(found), "no latent 40"),
        (Latents("blocks.0.mixer.h", NAME, (1,)), known(found), "no site"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            part.edits(model, Donor(None, ORDER, ALL, autoencoders))


def test_features_and_edges_survive_json() -> None:
    model = nano("mamba")
    candidate = Candidate(
        "all sorts", "x",
        (Latents(SITE, NAME, (3, 1)), Latents(SITE, NAME, (3,), True), Direction(SITE, ((1.0,) * WIDTH,), True),
         StreamEdge("embed", "blocks.1.mixer_in")),
    )  # fmt: skip
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate
    assert candidate.size(model) == 2 + 23 + 23 + 24
    (site, found), original = (
        unpacked_all(json.loads(json.dumps(packed_all(known(dictionary(k=3))))))[NAME],
        dictionary(k=3),
    )
    assert site == SITE and found.k == 3 and torch.equal(found.W_enc, original.W_enc)


def test_controls_of_latents_are_living_ones_and_of_edges_other_edges() -> None:
    model, part = nano("mamba"), Latents(SITE, NAME, (1, 2))
    living = (1, 2, 5, 7, 9, 11)
    drawn = controls(model, Candidate("c", "x", (part,)), (0, 1), 6, seed=0, living={NAME: living})
    assert len(drawn) > 3 and len({c.parts for c in drawn}) == len(drawn)
    for control in drawn:
        (other,) = control.parts
        assert isinstance(other, Latents) and len(other.latents) == 2 and set(other.latents) <= {5, 7, 9, 11}
        assert (other.site, other.autoencoder) == (SITE, NAME)
    assert controls(model, Candidate("c", "x", (part,)), (0, 1), 6, seed=0) == []
    edge, known_edges = StreamEdge("embed", "blocks.1.mixer_in"), stream_edges(model, (0, 1))
    others = controls(model, Candidate("e", "x", (edge,)), (0, 1), 4, seed=0)
    assert others and all(c.parts[0] in known_edges and c.parts[0] != edge for c in others)
    assert complement(Candidate("e", "x", (edge,))) is None


def test_parts_of_one_space_overlap_whatever_their_basis() -> None:
    site, other = SITE, "blocks.1.resid_post"
    along = Direction(site, ((1.0,) + (0.0,) * 23,))
    same = [
        (Latents(site, NAME, (1, 2)), Latents(site, NAME, (2, 3))),
        (Latents(site, NAME, (1,)), Latents(site, "b", (2,))),
        (Latents(site, NAME, (1,)), along), (along, Channels(site, (5,))),
        (StreamEdge(site, "head"), Channels(site, (5,))), (StreamEdge(site, "head"), StreamEdge(site, "head")),
    ]  # fmt: skip
    apart = [
        (Latents(site, NAME, (1, 2)), Latents(site, NAME, (3,))), (Latents(site, NAME, (1,)), Channels(other, (1,))),
        (StreamEdge(site, "head"), StreamEdge(site, "blocks.1.mixer_in")),
    ]  # fmt: skip
    for pairs, expected in ((same, True), (apart, False)):
        for a, b in pairs:
            assert overlap(Candidate("a", "x", (a,)), Candidate("b", "x", (b,))) is expected, (a, b)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "striped_hyena"])
def test_a_patched_edge_of_the_stream_is_the_same_edge_cut_in_the_graph(arch: str) -> None:
    model = nano(arch)
    graph, mask = graph_of(model, range(model.n_layers), 1), torch.ones_like(CLEAN, dtype=torch.bool)
    numbers = [i for i, edge in enumerate(graph.edges) if edge.kind == "residual"]
    cut = torch.zeros(len(numbers), len(graph.edges), dtype=torch.bool)
    cut[torch.arange(len(numbers)), numbers] = True
    expected = cut_logits(model, graph, CLEAN, mask, cut, source_of(model, graph, OTHER, mask))
    edges = stream_edges(model, range(model.n_layers))
    assert [edge.name for edge in edges] == [graph.edges[i].name for i in numbers]
    donor = Donor(held(model, OTHER, *graph.senders), ORDER, ALL)
    for edge, logits in zip(edges, expected, strict=True):
        torch.testing.assert_close(replaced(model, edge, donor)[:, -1], logits, rtol=0, atol=1e-9)
        assert (logits - model(CLEAN)[:, -1]).abs().max() > 1e-6


def test_edges_are_named_as_circuits_names_them() -> None:
    model = nano("mamba")
    found = named(model, "blocks.0.mixer_out > blocks.1.mixer_in+embed > head")
    assert found.parts == (StreamEdge("blocks.0.mixer_out", "blocks.1.mixer_in"), StreamEdge("embed", "head"))
    with pytest.raises(UsageError, match="no edge"):
        named(model, "blocks.1.mixer_out > blocks.0.mixer_in")
