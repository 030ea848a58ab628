"""What autoencoders are measured by equals its definition, written out in float64, and tells planted cases apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mplat.interp.methods.sae import examples
from mplat.interp.methods.sae.absorption import absorbed_fraction, absorption, class_probe, fully_absorbed, main_latents
from mplat.interp.methods.sae.class_rows import absorption_rows, classes_of
from mplat.interp.methods.sae.correlates import PROPERTIES, correlations, properties
from mplat.interp.methods.sae.dictionary import SparseDictionary, channels_dictionary, pca_dictionary
from mplat.interp.methods.sae.examples import CHUNK, Held, StoredExamples, moments, spread_rows
from mplat.interp.methods.sae.material import held_out_groups, material_of, sides
from mplat.interp.methods.sae.measures import max_cosines, mean_max_cosine, measure, top_tokens
from mplat.interp.methods.sae.token_classes import token_classes
from planted_features import FakeStore, planted_features

PLANTED = planted_features(600)
X = PLANTED.x + 3.0 + 0.05 * torch.randn(600, 16, generator=torch.Generator().manual_seed(9))


def some_dictionary(seed: int = 0, **changes: object) -> SparseDictionary:
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = torch.randn(16, 20, generator=generator), torch.randn(20, 16, generator=generator)
    return SparseDictionary(encoder, torch.randn(20, generator=generator), decoder, X.mean(0), **changes)


@pytest.mark.parametrize("changes", [{}, {"k": 3}, {"threshold": torch.full((20,), 1.5)}])
def test_explained_variance_l0_density_and_means_are_their_definitions(changes: dict) -> None:
    dictionary = some_dictionary(**changes)
    found = measure(dictionary, Held(X))
    x = X.double().numpy()
    z = (x - dictionary.b_dec.numpy()) @ dictionary.W_enc.double().numpy() + dictionary.b_enc.double().numpy()
    f = np.maximum(z, 0)
    if "k" in changes:
        f = np.where(z >= np.sort(z, 1)[:, -3:-2], f, 0)
    if "threshold" in changes:
        f = np.where(z > 1.5, z, 0)
    back = f @ dictionary.W_dec.double().numpy() + dictionary.b_dec.double().numpy()
    explained = 1 - ((x - back) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert found.explained_variance == pytest.approx(explained, rel=1e-4)
    assert found.l0 == pytest.approx((f > 0).sum(1).mean(), rel=1e-6) and found.n == len(x)
    np.testing.assert_allclose(found.density.numpy(), (f > 0).mean(0), rtol=1e-9)
    active = np.where((f > 0).any(0), f.sum(0) / np.maximum((f > 0).sum(0), 1), 0)
    np.testing.assert_allclose(found.mean_active.numpy(), active, rtol=1e-4)
    assert found.dead_share == ((f > 0).sum(0) == 0).mean() and found.dense_share == ((f > 0).mean(0) > 0.1).mean()
    np.testing.assert_allclose(found.largest.numpy(), f.max(0), rtol=1e-4)


def test_measures_do_not_depend_on_how_many_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = some_dictionary()
    at_once = measure(dictionary, Held(X)), top_tokens(dictionary, Held(X), 4)
    monkeypatch.setattr(examples.chunks, "__defaults__", (7,))
    few = measure(dictionary, Held(X)), top_tokens(dictionary, Held(X), 4)
    assert CHUNK > len(X)
    assert few[0].explained_variance == pytest.approx(at_once[0].explained_variance, rel=1e-9)
    assert torch.equal(few[0].density, at_once[0].density) and torch.equal(few[1].rows, at_once[1].rows)
    order = torch.argsort(dictionary.latents(X), dim=0, descending=True, stable=True)[:4].T
    assert torch.equal(at_once[1].rows, order)


def test_correlations_are_pearsons_with_properties_that_are_their_definitions(rng: np.random.Generator) -> None:
    dictionary = some_dictionary()
    known = torch.from_numpy(rng.normal(size=(len(X), 2)))
    known[:, 1] = 1.0  # does not vary
    found = correlations(dictionary, Held(X), known).numpy()
    f, x = dictionary.latents(X).double().numpy(), X.double().numpy()
    centred = x - x.mean(1, keepdims=True)
    variance = (centred**2).mean(1)
    length = np.sqrt((x**2).sum(1))
    written_out = np.stack([
        length, (4 - np.abs(x).sum(1) / length) / 3, (x > 0).mean(1), variance,
        (centred**4).mean(1) / variance**2 - 3, known[:, 0].numpy(),
    ], 1)  # fmt: skip
    np.testing.assert_allclose(properties(X).numpy(), written_out[:, :5], rtol=1e-9)
    alive = f.std(0) > 0
    wanted = np.corrcoef(f[:, alive].T, written_out.T)[: alive.sum(), alive.sum() :]
    assert alive.sum() > 10
    np.testing.assert_allclose(found[alive, :6], wanted, rtol=1e-4, atol=1e-6)
    assert np.isnan(found[:, 6]).all() and len(PROPERTIES) == 5
    sparse, even = torch.eye(16)[:1], torch.ones(1, 16)
    assert properties(sparse)[0, 1] == pytest.approx(1.0) and properties(even)[0, 1] == pytest.approx(0.0, abs=1e-12)
    assert properties(torch.zeros(1, 16)).isfinite().all()


def test_cosines_with_a_permuted_and_flipped_dictionary() -> None:
    w = PLANTED.directions
    flipped = -3.0 * w[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))]
    assert mean_max_cosine(w, flipped, signed=False) == pytest.approx(1.0, abs=1e-6)
    assert mean_max_cosine(w, -flipped) == pytest.approx(1.0, abs=1e-6)
    assert mean_max_cosine(w, flipped) < 0.9
    np.testing.assert_allclose(max_cosines(w[:1], torch.eye(16)), [float(w[0].max())], rtol=1e-6)


def test_channels_and_principal_components_are_dictionaries_of_the_k_farthest_from_their_mean() -> None:
    mean, covariance = moments(Held(X))
    np.testing.assert_allclose(covariance.numpy(), np.cov(X.double().numpy().T, bias=True), rtol=1e-9, atol=1e-12)
    channels = channels_dictionary(mean, 2)
    x = X[:5].double()
    away = (x - mean).abs()
    kept = torch.where(away >= away.topk(2, 1).values[:, -1:], x, mean.expand_as(x))
    torch.testing.assert_close(channels.decoded(channels.latents(X[:5])).double(), kept, rtol=1e-5, atol=1e-5)
    values, vectors = np.linalg.eigh(covariance.numpy())
    whole = measure(pca_dictionary(covariance, mean, 16), Held(X))
    assert whole.explained_variance == pytest.approx(1.0, abs=1e-5)
    best = measure(pca_dictionary(covariance, mean, 4), Held(X)).explained_variance
    assert values[::-1][:4].sum() / values.sum() < best < 1  # chosen at each token, so more than the first four
    assert measure(channels_dictionary(mean, 16), Held(X)).explained_variance == pytest.approx(1.0, abs=1e-5)


def test_sides_keep_groups_whole_and_the_same_for_everybody() -> None:
    store = FakeStore(X)
    split = sides(store.tokens, 0.25)
    groups = np.array(store.tokens["group"].to_pylist())
    assert not set(groups[split.learn]) & set(groups[split.judge]) and len(split.learn) + len(split.judge) == len(X)
    assert len(set(groups[split.judge])) == round(0.25 * len(set(groups)))
    assert held_out_groups(["a", "b"], 0.01) | held_out_groups(["a", "b"], 0.99) <= {"a", "b"}
    assert len(held_out_groups(["a", "b"], 0.99)) == 1 and held_out_groups(["a"], 0.5) == frozenset()
    assert spread_rows(10, 4).tolist() == [0, 2, 5, 7] and spread_rows(3, 9).tolist() == [0, 1, 2]
    rows = np.array([5, 3, 100])
    assert torch.equal(StoredExamples(store, store.places[0], rows)(torch.tensor([2, 0])), X[[100, 5]])


def hierarchy(absorbed: bool) -> tuple[SparseDictionary, torch.Tensor, np.ndarray, np.ndarray]:
    """Tokens with or without direction 0, their class, each with one of four further directions, whatever its class.
    In the absorbing dictionary a latent of its own (10) stands for the class's tokens that have direction 5, one in 25,
    and the class's latent is silent there: so few that the latent is no second one of the class."""
    rng = np.random.default_rng(1)
    other, in_class = rng.choice([2, 3, 4, 5], 1600, p=[0.32, 0.32, 0.32, 0.04]), rng.random(1600) < 0.5
    x = 0.01 * rng.normal(size=(1600, 12))
    x[in_class, 0] += 1.0
    x[np.arange(1600), other] += 1.0
    encoder, decoder, bias = np.eye(12), np.eye(12), np.full(12, -0.2)
    if absorbed:
        encoder[5, 0] = -2.0
        encoder[[0, 5], 10], bias[10] = 2.0, -2.4
        decoder[10] = (np.eye(12)[0] + np.eye(12)[5]) / np.sqrt(2)
    tensors = [torch.from_numpy(value).float() for value in (encoder, bias, decoder, np.zeros(12))]
    return SparseDictionary(*tensors), torch.from_numpy(x).float(), in_class, np.arange(1600) % 4 > 0


def test_an_absorbed_member_of_a_class_is_seen_and_a_clean_dictionary_has_none() -> None:
    dictionary, x, in_class, learn = hierarchy(absorbed=False)
    clean = absorption(dictionary, x, in_class, learn, class_probe(x, in_class, learn))
    assert clean is not None and clean.main[0] == 0 and clean.split == 1
    assert clean.full == 0 and clean.fraction < 0.05 and clean.probe_f1 == clean.sparse_f1 == 1.0
    dictionary, x, in_class, learn = hierarchy(absorbed=True)
    found = absorption(dictionary, x, in_class, learn, class_probe(x, in_class, learn))
    share = float((x[torch.from_numpy(in_class & ~learn), 5] > 0.5).double().mean())
    assert found is not None and found.main == (0,) and found.absorbing == 10 and share > 0
    assert found.full == pytest.approx(share, abs=1e-9) and found.fraction == pytest.approx(share, abs=0.01)
    assert absorption(dictionary, x, np.zeros(1600, bool), learn, None) is None


def test_the_fractions_are_those_of_the_benchmark_case_by_case() -> None:
    written, cosines, main = np.array([1.0, 0.5, 0.5, 0.05]), np.array([1.0, 0.5, 0.5, 0.05]), np.array([0])
    f = np.array([
        [1.0, 0, 0, 0],  # the main latent writes it all
        [0.0, 1.6, 0, 0],  # silent, and one other writes 0.8
        [0.5, 1.0, 0, 0],  # half of it each
        [0.0, 0.2, 0, 0],  # 0.1: less than 0.4 of the projection
        [0.0, 0, 0, 20.0],  # as much, by a latent whose cosine is too small for a part, and enough for a whole
        [0.2, 0.5, 0.5, 0],  # two together write 0.5
    ])  # fmt: skip
    projected = np.ones(6)
    assert absorbed_fraction(f, written, cosines, main, projected).tolist() == pytest.approx(
        [0, 1, 0.5, 0, 0, 0.5 / 0.7]
    )
    full, strongest = fully_absorbed(f, written, cosines, main, projected)
    assert full.tolist() == [False, True, False, False, True, False] and strongest[:2].tolist() == [0, 1]


def test_a_class_that_is_split_in_two_has_two_main_latents(rng: np.random.Generator) -> None:
    y = np.arange(400) % 2 == 0
    f = np.abs(rng.normal(size=(400, 6))) * 0.1
    f[y & (np.arange(400) % 4 == 0), 1] += 1.0
    f[y & (np.arange(400) % 4 == 2), 4] += 1.0
    main, reached = main_latents(f[:200], y[:200], f[200:], y[200:])
    assert set(main.tolist()) == {1, 4} and reached > 0.97


def test_classes_are_the_words_of_the_facts_world_or_first_letters() -> None:
    texts = [" Bek", "dok", " Fid", "bak", " red", " lamp", " the", None, "Bek"]
    assert token_classes(texts, "facts_world") == [
        "person, first syllable", "person, second syllable", "place, first syllable", "place, second syllable",
        "adjective", "noun", None, None, None,
    ]  # fmt: skip
    assert token_classes([" Bek", "dok", " 1", " über"], "first_letter") == ["begins with b", None, None, None]


def test_rows_of_classes_take_those_with_enough_tokens_on_both_sides() -> None:
    dictionary, x, in_class, _ = hierarchy(absorbed=True)
    texts = [" red" if one else ("dok" if number % 50 == 0 else " the") for number, one in enumerate(in_class)]
    store = FakeStore(x, text=texts)
    material = material_of(store, store.places[0], sides(store.tokens, 0.25), 10_000)
    classes = classes_of(store.tokens, material, "facts_world")
    assert [one.name for one in classes] == ["adjective"]
    rows, means = absorption_rows({"seed": 0}, dictionary, material, classes)
    assert [row["status"] for row in rows] == ["ok"] and means["classes"] == 1 and rows[0]["absorbing"] == 10
    assert means["absorption_fraction"] == rows[0]["absorption_fraction"] > 0
    assert absorption_rows({}, dictionary, material, []) == ([{"status": "not_applicable"}], {"classes": 0})
