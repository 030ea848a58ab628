"""Vectors of a model: what is read where, a direction planted in it, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.models import load
from mplat.steering.vectors import Contrast, Text, Vectors, fit_vectors, of_facts, vector_method_names
from mplat.steering.vectors.site_activations import read_site
from planted_models import talking

WORDS = (
    "Zakdor lives",
    "The thing of Sisgat",
    "Where is",
    "Karfen has",
    "In which place",
    "The friend of",
    "Who is the",
)


@pytest.fixture(scope="module")
def model():
    return talking().double()


@pytest.fixture(scope="module")
def planted():
    """A model whose embeddings are noise, and for half of the words noise and a direction; the direction; texts
    that end in these words."""
    model = talking().double()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(32, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    ends = [(token, str(model.tokenizer.decode([token]))) for token in range(model.config.vocab_size)]
    words = [(t, w) for t, w in ends if re.fullmatch(" [a-z]+", w) and model.tokenizer("One" + w).input_ids[-1] == t]
    half = len(words) // 2
    with torch.no_grad():
        model.embedding.weight.normal_(generator=generator)
        model.embedding.weight[[token for token, _ in words[:half]]] += 4 * direction
    sides = [tuple(Text("One" + w, w) for _, w in part) for part in (words[:half], words[half : 2 * half])]
    return model, direction, Contrast(sides[0], sides[1], False, "planted")


def contrast() -> Contrast:
    texts = [(f"{word} {n}", f"{word}{n}") for word in WORDS for n in ("one", "two", "three")]
    return Contrast(
        tuple(Text(f"{text} home", group) for text, group in texts),
        tuple(Text(f"{text} person", group) for text, group in texts),
        True,
        "planted",
    )


@pytest.mark.parametrize("method", vector_method_names())
def test_a_direction_planted_in_the_inputs_is_recovered(planted, method):
    model, direction, texts = planted
    vectors = fit_vectors(model, texts, method=method, site="resid_pre", layers=[0])
    vector = vectors.at_layer(0)
    assert len(texts.positive) > 60
    assert float(vector.direction.double() @ direction) > 0.9
    assert vector.auroc > 0.95 and vectors.best_layer == 0


def test_the_three_ways_to_aggregate_against_a_capture_of_one_text_alone(model):
    texts = [
        Text("Zakdor lives in Nornik.", "a", ((7, 12),)),
        Text("Who is the boss of Sisgat Karfen?", "b", ((0, 3),)),
    ]
    site = "blocks.1.mixer_out"
    found = {at: read_site(model, texts, site="mixer_out", layers=[1], at=at) for at in ("last", "evidence", "all")}
    everything = []
    for i, text in enumerate(texts):
        encoded = model.tokenizer(text.text, return_offsets_mapping=True)
        tokens = torch.tensor([encoded["input_ids"]])
        with torch.no_grad(), model.capture(site) as acts:
            model(tokens)
        alone = acts[site][0]
        (start, stop) = text.evidence[0]
        inside = [j for j, (a, b) in enumerate(encoded["offset_mapping"]) if a < stop and b > start]
        for at, expected in (("last", alone[-1]), ("all", alone.mean(0)), ("evidence", alone[inside].mean(0))):
            assert torch.allclose(torch.as_tensor(found[at].values[1][i]), expected, atol=1e-12)
        everything.append(alone)
    assert found["all"].rms[1] == pytest.approx(float(torch.cat(everything).square().mean().sqrt()))


def test_a_state_can_be_read_and_keeps_its_shape(model):
    vectors = fit_vectors(model, contrast(), site="mixer.h", layers=[1])
    assert vectors.shape == (64, 8) == tuple(vectors.at_layer(1).direction.shape)
    vectors.check(model)


def test_files_give_back_what_was_saved_and_equal_bytes(model, tmp_path):
    vectors = fit_vectors(model, contrast(), seed=3)
    path = vectors.save(tmp_path / "vectors.json")
    again = Vectors.load(path, model)
    assert again.to_dict() == vectors.to_dict()
    assert all(torch.equal(again.at_layer(n).direction, v.direction) for n, v in vectors.layers.items())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fit_vectors(model, contrast(), seed=3).save(path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert list(vectors.layers) == [0, 1, 2] and vectors.texts_digest == contrast().digest


def test_a_part_of_a_recipe_adds_multiples_of_the_rms_or_of_the_distance_of_the_means(model):
    vectors = fit_vectors(model, contrast(), layers=[1])
    vector, site = vectors.at_layer(1), "blocks.1.resid_post"
    tokens = torch.tensor([model.tokenizer("Who is the boss of Sisgat?").input_ids])

    def change(part):
        part.check(model)
        with torch.no_grad(), model.capture(site) as acts:
            model(tokens)
        before = acts[site]
        with torch.no_grad(), model.edit(*part.edits(model)), model.capture(site) as acts:
            model(tokens)
        return acts[site] - before, before

    by_rms, _ = change(vectors.part(1, 2.0))
    assert float(by_rms[0, 3].square().mean().sqrt()) == pytest.approx(2 * vector.rms, rel=1e-5)
    by_means, _ = change(vectors.part(1, -1.0, "value"))
    assert torch.allclose(by_means[0, 2], -vector.apart * vector.direction.double(), atol=1e-6)
    out, before = change(vectors.part(1, 1.0, operator="project_out"))
    assert float(((before + out) @ vector.direction.double()).abs().max()) < 1e-6


def test_i9_another_model_width_or_layer_is_refused_in_one_sentence(model, tmp_path):
    vectors = fit_vectors(model, contrast(), layers=[1])
    path = vectors.save(tmp_path / "vectors.json")
    with pytest.raises(InputError, match=r"vectors\.json: the vectors were fitted on the model with digest"):
        Vectors.load(path, talking(seed=4))
    wider = dataclasses.replace(vectors.at_layer(1), direction=torch.ones(33))
    with pytest.raises(InputError, match=r"have the shape \(33,\), and blocks.1.resid_post has \(32,\)"):
        dataclasses.replace(vectors, layers={1: wider}).check(model)
    with pytest.raises(InputError, match=r"blocks\.7\.resid_post, which .* does not have"):
        dataclasses.replace(vectors, layers={7: vectors.at_layer(1)}).check(model)
    with pytest.raises(UsageError, match="not finite"):
        dataclasses.replace(vectors, layers={1: dataclasses.replace(wider, direction=torch.full((32,), torch.nan))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not vectors of format"),
        ({"seed": True}, "seed is missing or has the wrong type"),
        ({"tensors_sha256": "0"}, "not the file that belongs to it"),
        ({"layers": {"1": {"apart": 1.0, "rms": 1.0}}}, "must be finite numbers"),
        ({"layers": {"9": {}}}, "no layer with a direction"),
        ({"decided_on": [1]}, "decided_on must be a list"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(model, tmp_path, change, message):
    path = fit_vectors(model, contrast(), layers=[1]).save(tmp_path / "vectors.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"vectors\.json: .*{message}"):
        Vectors.load(path)


def test_i9_directions_that_are_not_finite_in_a_file_are_refused(model, tmp_path):
    from mplat.core.whole_files import sha256_of
    from safetensors.torch import save

    path = fit_vectors(model, contrast(), layers=[1]).save(tmp_path / "vectors.json")
    data = save({"layer.1": torch.full((32,), torch.nan)})
    path.with_suffix(".safetensors").write_bytes(data)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tensors_sha256": sha256_of(data)}))
    with pytest.raises(InputError, match=r"vectors\.json: .*not finite"):
        Vectors.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pca"}, "no vector method 'pca'"),
        ({"site": "resid_posst"}, "no block of .* has a site 'resid_posst'; did you mean 'resid_post'"),
        ({"layers": [5]}, "in layer 5; its layers with it: 0, 1, 2"),
        ({"layers": [1, 1]}, "none twice"),
        ({"at": "first"}, "aggregated at 'first'"),
        ({"at": "evidence"}, "names no evidence"),
        ({"folds": 30}, "too few for 30 folds"),
    ],
)
def test_what_cannot_be_is_said(model, options, message):
    with pytest.raises((UsageError, InputError), match=message):
        fit_vectors(model, contrast(), **options)


def test_a_shipped_model_knows_whether_its_text_states_the_answer():
    model = load("tiny-mamba2")
    found = of_facts(model, per_level=16)
    vectors = fit_vectors(model, found, method="lda", layers=[0, 2])
    assert vectors.n_positive == 96 and len(vectors.decided_on) == 192
    assert vectors.at_layer(2).auroc > 0.6
