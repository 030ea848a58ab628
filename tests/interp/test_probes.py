"""Probes find planted dimensions and nothing else, and a document never stands on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interp_jobs import asked, reader
from mplat.core.errors import UsageError
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.methods.activation_store import Store
from mplat.interp.methods.probe_targets import TARGETS, class_of, target_of, token_and_position
from mplat.interp.methods.probing import (
    PROBES,
    Floats,
    Target,
    directions,
    group_folds,
    judge,
    out_of_fold,
    ridge,
    score,
    shuffled_scores,
)

N, D, GROUPS = 240, 12, 40


def planted(rng: np.random.Generator, kind: str, noise: float = 0.3, n: int = N) -> tuple[Floats, Target, Floats]:
    """Features whose coordinates are noise but along two unit directions, which carry a class of three or a number."""
    basis = np.linalg.qr(rng.standard_normal((D, 2)))[0].T
    codes = rng.integers(0, 3, n).astype(float)
    number = rng.standard_normal(n)
    values = codes if kind == "class" else number
    plane = np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
    signal = plane[codes.astype(int)] * 3 if kind == "class" else np.column_stack([number * 3, np.zeros(n)])
    x = signal @ basis + noise * rng.standard_normal((n, D))
    classes = ("a", "b", "c") if kind == "class" else ()
    target = Target("t", kind, np.arange(n), values, np.arange(n) % GROUPS, classes)  # type: ignore[arg-type]
    return x, target, basis


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        (probe, kind)
        for probe in sorted(PROBES)
        for kind in ("class", "number")
        if (probe, kind) != ("logistic", "number")
    ],
)
def test_a_planted_dimension_is_read_and_exchanged_labels_are_not(
    rng: np.random.Generator, probe: str, kind: str
) -> None:
    x, target, _ = planted(rng, kind)
    found = judge(x, target, probe, folds=4, seeds=(0,), draws=50)
    assert found.low <= found.score <= found.high and found.score > 0.9
    mixed = shuffled_scores(x, target, probe, strength=found.strength, folds=4, draws=3, seed=0)
    assert np.mean(mixed) < target.chance + 0.15
    noise = judge(rng.standard_normal((N, D)), target, probe, folds=4, draws=20)
    assert noise.score < target.chance + 0.12


@pytest.mark.parametrize("kind", ["class", "number"])
def test_the_direction_of_a_probe_is_the_planted_one(rng: np.random.Generator, kind: str) -> None:
    """With enough tokens: a probe leans away from the direction by what its noise happens to be."""
    x, target, basis = planted(rng, kind, noise=1.0, n=20_000)
    found = directions(x, target, 1e-3)
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-9)
    wanted = basis if kind == "class" else basis[:1]
    # what of the found directions lies in the planted subspace
    assert len(found) == len(wanted) and np.linalg.norm(found @ wanted.T, axis=1).min() > 0.99


def test_no_group_stands_on_both_sides_and_what_only_its_group_tells_is_not_read(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(30), 8)
    for seed in range(3):
        folds = group_folds(groups, 5, seed)
        assert sorted(np.concatenate(folds).tolist()) == list(range(240))
        for test in folds:
            assert not set(groups[test]) & set(np.delete(groups, test))
    # features name the document and the label goes by document: a split by rows reads it, one by documents cannot
    scores: list[float] = []
    for _ in range(20):  # thirty labels are guessed by chance with .3 to .7 (standard deviation .09), the mean is not
        label = rng.integers(0, 2, 30)[groups].astype(float)
        x = np.eye(30)[groups] + 0.01 * rng.standard_normal((240, 30))
        by_document = Target("t", "class", np.arange(240), label, groups, ("a", "b"))
        scores.append(judge(x, by_document, "ridge", draws=2).score)
    assert np.mean(scores) < 0.6
    assert judge(x, by_document._replace(groups=np.arange(240)), "ridge", draws=2).score > 0.95
    with pytest.raises(UsageError, match="2 groups .* at least 3"):
        group_folds(np.array([0, 0, 1]), 5, 0)


def test_ridge_is_the_closed_form_for_every_strength(rng: np.random.Generator) -> None:
    x, target, _ = planted(rng, "number")
    y = target.columns
    found = ridge(x, y, x[:5], (0.5, 20.0), 0)
    for strength, predicted in zip((0.5, 20.0), found, strict=True):
        weights = np.linalg.solve(x.T @ x + strength * np.eye(D), x.T @ (y - y.mean(0)))
        np.testing.assert_allclose(predicted, x[:5] @ weights + y.mean(0), atol=1e-10)


def test_scores_are_r2_against_the_training_mean_and_balanced_accuracy() -> None:
    number = Target("t", "number", np.arange(4), np.array([0.0, 1.0, 2.0, 5.0]), np.arange(4))
    assert score(number, number.values[:, None], np.full(4, 2.0)) == 1.0
    assert score(number, np.full((4, 1), 2.0), np.full(4, 2.0)) == 0.0
    rare = Target("t", "class", np.arange(10), np.array([0.0] * 9 + [1.0]), np.arange(10), ("a", "b"))
    always_first = np.tile([1.0, 0.0], (10, 1))
    assert score(rare, always_first, np.zeros(10)) == 0.5  # plain accuracy would say .9


def test_a_scale_of_the_coordinates_changes_nothing(rng: np.random.Generator) -> None:
    x, target, _ = planted(rng, "class")
    one = out_of_fold(x, target, "ridge", folds=4, inner=3, seed=0)[0]
    other = out_of_fold(x * np.linspace(1, 1000, D), target, "ridge", folds=4, inner=3, seed=0)[0]
    np.testing.assert_allclose(one, other, atol=1e-8)


def test_token_classes() -> None:
    words = {" Mira": "begins a name", "Mira": "begins a name", " lives": "begins a word", "dor": "goes on",
             ".": "punctuation", "\n": "space or line break", " 7": "digit"}  # fmt: skip
    assert {text: class_of(text) for text in words} == words


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = config_model().model_validate({
        "steps": ("probes",),
        "probes": {"targets": ("in_fact", "since_fact", "next_token_class", "answer_stated"), "tokens": 150,
                   "folds": 3, "draws": 1, "seeds": 2, "ablated": 6, "subspaces": 3},
    })  # fmt: skip
    return run_steps(reader(), asked(4), config, cache=Cache(tmp_path_factory.mktemp("cache")))


def test_the_step_says_what_is_read_beside_its_controls(found: Any) -> None:
    rows = found["probes"].tables["scores"].to_pylist()
    stated = [row for row in rows if row["target"] == "answer_stated"]
    assert [row["status"] for row in stated] == ["not_applicable"] and "two classes" in stated[0]["reason"]
    scored = [row for row in rows if row["status"] == "ok"]
    for row in scored:
        assert row["selectivity"] == pytest.approx(row["score"] - max(row["shuffled"], row["chance"]))
        assert (row["layer"] is None) == (row["features"] == "token and position")
    kinds = {row["features"] for row in scored if row["target"] == "next_token_class"}
    assert kinds == {"site", "shuffled weights", "principal components", "token and position"}
    vectors = found["probes"].tensors["directions"]
    assert vectors["blocks.0.resid_post/in_fact"].shape == (1, reader().config.d_model)


def test_projecting_a_direction_out_is_what_an_edit_by_hand_does(found: Any) -> None:
    import torch
    from mplat.interp.engine.batches import Batch
    from mplat.interp.engine.questions import encode
    from mplat.interp.steps.probes import batch_projected

    model = reader()
    item = encode(model, asked(4), max_tokens=4096).items[3]
    vector = found["probes"].tensors["directions"]["blocks.0.resid_post/in_fact"]
    subspace = {"place": "blocks.0.resid_post", "shape": [model.config.d_model], "vectors": vector.tolist()}
    arguments = {"subspaces": [subspace], "asked": [item.id]}
    table = batch_projected(model, Batch([item], model.device), arguments).to_pylist()
    tokens = torch.tensor([[*item.prompt, *item.answer[:-1]]])
    unit = (vector[0] / vector[0].norm()).double()

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        return (x.double() - (x.double() @ unit)[..., None] * unit).to(x)

    handle = model.backbone.layers[0].register_forward_hook(lambda module, args, out: (by_hand(out[0]), *out[1:]))
    try:
        with torch.no_grad():
            scores = torch.log_softmax(model(tokens)[0].double(), -1)
    finally:
        handle.remove()
    wanted = sum(float(scores[len(item.prompt) - 1 + i, token]) for i, token in enumerate(item.answer))
    assert table[1]["logprob"] == pytest.approx(wanted, abs=1e-4)
    assert table[0]["logprob"] != pytest.approx(wanted, abs=1e-6)


def test_targets_are_those_of_the_tokens(found: Any, tmp_path: Path) -> None:
    store = Store.read(found["collect"].tables, found["collect"].tensors)
    for name in TARGETS:
        target = target_of(store.tokens, name, 10_000)
        if isinstance(target, str):
            continue
        rows = store.tokens.take(target.rows).to_pylist()
        if TARGETS[name][1]:
            assert all(row["from_end"] == 0 for row in rows)
        for row, value in zip(rows, target.values, strict=True):
            if name == "in_fact":
                assert target.classes[int(value)] == str(row["in_fact"])
            elif name == "distance":
                assert value == np.log1p(row["since_fact"])
    alone = token_and_position(store.tokens, np.arange(5), most=3)
    assert alone.shape == (5, 3 + 4) and set(alone[:, :3].ravel()) <= {0.0, 1.0}


def test_what_does_not_fit_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    for wrong, said in (({"targets": ["hopps"]}, "'hopps'.*hops"), ({"probes": ["svm"]}, "'svm'"),
                        ({"sites": ["mixer.delta"]}, "not stored; name it in collect.sites")):  # fmt: skip
        config = config_model().model_validate({"steps": ("probes",), "probes": wrong})
        with pytest.raises(UsageError, match=said):
            run_steps(reader(), asked(), config, cache=Cache(tmp_path))
    assert not list(tmp_path.iterdir())
