"""What a layer selects equals its definition; a pattern that decides the answer is found, a shuffled one is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import asked, reader, run_step, token_items
from model_zoo import nano
from mplat.core.errors import InputError, UsageError
from mplat.datasets.records import Question
from mplat.interp.engine.batches import Item
from mplat.interp.engine.questions import encode, kind_of
from mplat.interp.methods.clustering import cluster
from mplat.interp.methods.recurrences import recurrences_of
from mplat.interp.methods.selectivity import FEATURES, PARTS, features, read_weights
from mplat.models import LanguageModel, Replace
from mplat.scoring.statistics import holm

SELECTIVE = ("mamba", "mamba2", "stable_mamba")
ITEMS = [dataclasses.replace(item, fact=(1, 3)) for item in token_items(40, seed=3)]


def quantities(model: LanguageModel, item: Item, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Delta (T, U) and B, C (T, G, N) of a prompt by itself."""
    (decay,) = recurrences_of(model, layer)
    names = [decay.name(quantity) for quantity in ("delta", "B", "C")]
    with torch.no_grad(), model.capture(*names) as seen:
        model(torch.tensor([item.prompt]))
    delta, B, C = (seen[name][0] for name in names)
    return delta, B.unflatten(-1, (decay.of.groups, -1)), C.unflatten(-1, (decay.of.groups, -1))


@pytest.mark.parametrize("arch", SELECTIVE)
def test_read_weights_say_what_the_last_token_reads_of_each_token(arch: str) -> None:
    """What the scan's last output loses when one token writes nothing: measured by editing x, and in Mamba, where x
    decides over Delta, B and C too, by holding these."""
    model, item, layer = nano(arch), ITEMS[0], 0
    (decay,) = recurrences_of(model, layer)
    weights = read_weights(decay, *quantities(model, item, layer))
    tokens = torch.tensor([item.prompt])
    last, site = len(item.prompt) - 1, f"blocks.{layer}.mixer.x"
    outputs = [f"blocks.{layer}.mixer.{name}" for name in
               (("ssm_fast", "ssm_medium", "ssm_slow") if arch == "stable_mamba" else ("y",))]  # fmt: skip
    held = [decay.name(quantity) for quantity in ("delta", "B", "C")]
    with torch.no_grad(), model.capture(site, *held, *outputs) as seen:
        model(tokens)
        clean = dict(seen)
        x, y = clean[site][0], torch.cat([clean[name][0, last] for name in outputs], -1)
        for j in range(last):  # at the last token itself y also holds the skip
            keep = [Replace(name, clean[name][:, j : j + 1], positions=[j]) for name in held]
            with model.edit(Replace(site, 0.0, positions=[j]), *keep):
                model(tokens)
            without = torch.cat([seen[name][0, last] for name in outputs], -1)
            per_channel = weights[j].repeat_interleave(x.shape[1] // len(decay.A))
            torch.testing.assert_close(y - without, per_channel * x[j], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_features_are_what_they_are_said_to_be(arch: str) -> None:
    model = nano(arch)
    found = run_step("selection", model, ITEMS[:4], draws=100)["features"].to_pylist()
    for row in found:
        item = next(i for i in ITEMS if i.id == row["question_id"])
        assert item.fact is not None
        delta, B, C = (v.numpy() for v in quantities(model, item, row["layer"]))
        (decay,) = recurrences_of(model, row["layer"])
        assert row["delta_fact"] == pytest.approx(np.mean([delta[1], delta[2]]))
        assert row["delta_last"] == pytest.approx(delta[-1].mean())
        assert row["delta_fact_relative"] == pytest.approx(np.log(delta[1:3].mean() / delta.mean()))
        cosines = [
            max(b @ C[-1, g] / np.linalg.norm(b) / np.linalg.norm(C[-1, g]) for b in B[1:3, g])
            for g in range(decay.of.groups)
        ]
        assert row["write_read_cosine"] == pytest.approx(np.mean(cosines))
        left = np.exp(-decay.rate.numpy() * delta[3:].sum(0)[:, None])
        assert row["survival"] == pytest.approx(left.mean())
        weights = read_weights(decay, *quantities(model, item, row["layer"])).abs().sum(1).numpy()
        assert row["read_share"] == pytest.approx(weights[1:3].sum() / weights.sum())
        assert (row["distance"], row["length"]) == (len(item.prompt) - 3, len(item.prompt))


def decided_by(model: LanguageModel, feature: str, layer: int, *, shuffled: bool = False) -> list[Item]:
    """Questions that are answered rightly exactly where the feature is above its median, or at random."""
    (decay,) = recurrences_of(model, layer)
    value = np.array([features(decay, *quantities(model, item, layer), (1, 3))[feature] for item in ITEMS])
    right = value > np.median(value)
    if shuffled:
        right = np.random.default_rng(2).permutation(right)
    made = []
    for item, is_right in zip(ITEMS, right, strict=True):
        said = int(model(torch.tensor([item.prompt]))[0, -1].argmax())
        made.append(dataclasses.replace(item, answer=(said if is_right else (said + 1) % 40,)))
    return made


def correlations(model: LanguageModel, items: list[Item]) -> list[dict[str, Any]]:
    table = run_step("selection", model, items, draws=5000)["correlations"]
    return [row for row in table.to_pylist() if row["outcome"] == "correct"]


@pytest.mark.parametrize(("arch", "feature"), [("mamba", "delta_fact"), ("mamba2", "write_read_cosine")])
@torch.no_grad()
def test_a_pattern_that_decides_the_answer_is_found_and_a_shuffled_one_is_not(arch: str, feature: str) -> None:
    model = nano(arch)
    rows = correlations(model, decided_by(model, feature, layer=1))
    tested = [row for row in rows if row["layer"] is not None]
    planted = next(row for row in tested if (row["layer"], row["feature"]) == (1, feature))
    assert planted["r"] == max(row["r"] for row in tested) > 0.5
    assert planted["p"] < 0.001 and planted["p_holm"] < 0.01
    assert planted["mean_right"] > planted["mean_wrong"] and planted["n_prompts"] == len(ITEMS)
    assert [row["p_holm"] for row in tested] == holm([row["p"] for row in tested])
    noise = correlations(model, decided_by(model, feature, layer=1, shuffled=True))
    assert min(row["p_holm"] for row in noise if row["layer"] is not None) > 0.05


@torch.no_grad()
def test_a_pattern_that_only_the_kind_of_question_explains_is_not_found() -> None:
    """Right answers follow the feature's median, and the kinds are the two halves: within one nothing varies but a few
    answers at random."""
    model, feature = nano("mamba"), "delta_fact"
    items = decided_by(model, feature, layer=1)
    right = [item.answer == (int(model(torch.tensor([item.prompt]))[0, -1].argmax()),) for item in items]
    flipped = np.random.default_rng(0).permutation(len(items))[:6].tolist()
    confounded = [
        dataclasses.replace(item, kind="easy, 1 hop" if is_right else "hard, 2 hops",
                            answer=((item.answer[0] + 1) % 40,) if i in flipped else item.answer)
        for i, (item, is_right) in enumerate(zip(items, right, strict=True))
    ]  # fmt: skip

    def planted(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return next(row for row in rows if (row["layer"], row["feature"]) == (1, feature))

    found = planted(correlations(model, confounded))
    assert found["n_kinds"] == 2 and abs(found["r"]) > 0.3 and found["p"] > 0.05
    pooled = planted(correlations(model, [dataclasses.replace(item, kind=None) for item in confounded]))
    assert pooled["n_kinds"] == 1 and pooled["r"] == found["r"] and pooled["p"] < 0.05


def test_a_question_is_of_the_kind_that_its_category_and_hops_say() -> None:
    kinds = {kind_of(question) for question in asked(per_level=2)}
    assert {"simple_recall, 1 hop", "two_hop, 2 hops", "three_hop, 3 hops"} <= kinds
    plain = Question("q", "own", "test", "Who?")
    assert kind_of(plain) is None and kind_of(dataclasses.replace(plain, category="own")) == "own"
    read = encode(reader(), asked(per_level=1), max_tokens=512).items
    assert [item.kind for item in read] == [kind_of(question) for question in asked(per_level=1)]
    item = Item("q", (1, 2), (3,), None, "own, 2 hops")
    assert Item.from_json(item.to_json()) == item


@torch.no_grad()
def test_the_correlation_is_that_of_the_features_beside_it() -> None:
    model = nano("mamba")
    tables = run_step("selection", model, decided_by(model, "survival", 0), draws=100)
    known = [row for row in tables["features"].to_pylist() if row["layer"] == 0]
    for row in tables["correlations"].to_pylist():
        if row["layer"] in (0, None):
            name = row["feature"]
            expected = np.corrcoef([r[name] for r in known], [float(r[row["outcome"]]) for r in known])[0, 1]
            assert row["r"] == pytest.approx(expected, abs=1e-9)
    assert {r["feature"] for r in tables["correlations"].to_pylist()} == {*FEATURES, "distance", "length"}


def test_where_nothing_varies_there_is_no_correlation() -> None:
    model = nano("mamba")
    wrong = [dataclasses.replace(item, answer=(39,) * 12) for item in ITEMS[:6]]
    rows = run_step("selection", model, wrong, draws=100)["correlations"].to_pylist()
    assert {(r["status"], r["r"], r["p"]) for r in rows if r["outcome"] == "correct"} == {
        ("not_applicable", None, None)
    }
    assert {r["status"] for r in rows if r["outcome"] == "logprob"} == {"ok"}


def test_prompts_that_state_nothing_and_models_that_select_nothing_say_so() -> None:
    items = [*ITEMS[:4], dataclasses.replace(ITEMS[5], id="unstated", fact=None)]
    rows = run_step("selection", nano("mamba"), items, draws=100)["features"].to_pylist()
    assert [(r["status"], r["delta_fact"]) for r in rows if r["question_id"] == "unstated"] == [
        ("not_applicable", None)
    ] * 2
    for arch in ("hyena", "striped_hyena"):
        tables = run_step("selection", nano(arch), items, draws=100)
        assert {r["status"] for table in tables.values() for r in table.to_pylist()} == {"not_applicable"}


def test_a_prompt_whose_scores_are_not_finite_is_left_out_and_counted() -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.backbone.embeddings.weight[7] = float("nan")
        model.backbone.norm_f.weight.mul_(1.0)
    broken = Item("broken", (1, 7, 2, 3), (3,), (1, 2))
    tables = run_step("selection", model, [*ITEMS[:5], broken], batch_size=1, draws=100)
    row = next(r for r in tables["features"].to_pylist() if r["question_id"] == "broken")
    assert row["status"] == "model_nonfinite" and row["delta_fact"] is None and row["correct"] is None
    # the head is tied: token 7 is a target too, so that no score of this model is finite
    assert {r["n_nonfinite"] for r in tables["correlations"].to_pylist() if r["layer"] is not None} == {6}
    assert {r["status"] for r in tables["correlations"].to_pylist()} == {"model_nonfinite", "not_applicable"}


def test_profiles_say_where_a_unit_opens() -> None:
    model, items = nano("mamba2"), ITEMS[:5]
    rows = run_step("selection", model, items, draws=100)["profiles"].to_pylist()
    here = [row for row in rows if row["layer"] == 1]
    logs = [quantities(model, item, 1)[0].log().numpy() for item in items]
    parts = [(log[:1], log[1:3], log[3:-1], log[-1:]) for log in logs]
    for unit, row in enumerate(here):
        for p, part in enumerate(PARTS):
            expected = np.mean(
                [own[p][:, unit].mean() - log[:, unit].mean() for own, log in zip(parts, logs, strict=True)]
            )
            assert row[part] == pytest.approx(expected, abs=1e-9)


# -- clusters -------------------------------------------------------------------------------------------------------


def clouds(k: int, size: int = 15, spread: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around k corners of a cube of side 1 in eight dimensions, and which corner each belongs to."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), size)
    return np.eye(8)[truth] + spread * generator.standard_normal((k * size, 8)), truth


@pytest.mark.parametrize("k", [2, 3, 5])
def test_planted_clusters_are_found_with_their_number(k: int) -> None:
    points, truth = clouds(k)
    found = cluster(points, seed=1)
    assert found.k == k and found.silhouette > 0.5 and found.silhouette == max(found.tried.values())
    pairs = {(int(a), int(b)) for a, b in zip(found.labels, truth, strict=True)}
    assert len(pairs) == k  # one label for each corner, and one corner for each label


def test_the_silhouette_is_its_definition_and_tells_a_cloud_without_parts() -> None:
    points, _ = clouds(3, size=5)
    found = cluster(points)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    values = []
    for i, own in enumerate(found.labels):
        means = [distances[i][found.labels == c].mean() for c in range(found.k)]
        inside = distances[i][found.labels == own].sum() / (np.sum(found.labels == own) - 1)
        outside = min(m for c, m in enumerate(means) if c != own)
        values.append((outside - inside) / max(inside, outside))
    assert found.silhouette == pytest.approx(np.mean(values))
    assert cluster(np.random.default_rng(0).standard_normal((200, 8))).silhouette < 0.25


def test_clusters_are_numbered_by_size_and_repeat_with_their_seed() -> None:
    points = np.concatenate([clouds(1, size=4)[0], clouds(2, size=9)[0][9:]])
    a, b = cluster(points, seed=5), cluster(points, seed=5)
    assert a.labels.tolist() == b.labels.tolist() == [1] * 4 + [0] * 9 and a.tried == b.tried


@pytest.mark.parametrize(
    ("points", "options", "error"),
    [
        (np.zeros((5, 2)), {}, InputError),
        (np.array([[0.0], [1.0], [np.nan]]), {}, InputError),
        (np.zeros(4), {}, UsageError),
        (np.eye(4), {"largest": 1}, UsageError),
    ],
)
def test_what_has_no_clusters_is_refused(points: np.ndarray, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        cluster(points, **options)


@torch.no_grad()
def test_prompts_of_one_kind_of_selection_share_a_cluster_and_its_accuracy() -> None:
    """Two kinds of prompts, of one repeated token each: one kind is answered rightly, the other wrongly."""
    model = nano("mamba")
    items = []
    for i in range(16):
        token = 3 if i % 2 else 21
        prompt = (token,) * (8 + i % 3)
        said = int(model(torch.tensor([prompt]))[0, -1].argmax())
        items.append(Item(f"q{i}", prompt, (said if i % 2 else (said + 1) % 40,), (1, 3)))
    selected = run_step("selection", model, items, draws=100)
    tables = run_step("selection_clusters", model, items, upstream={"selection": selected}, largest=2)
    rows = [row for row in tables["clusters"].to_pylist() if row["of"] == "prompts"]
    assert sorted((row["size"], row["accuracy"]) for row in rows) == [(8, 0.0), (8, 1.0)]
    assert {row["k"] for row in rows} == {2} and rows[0]["silhouette"] > 0.5
    assert {row["p"] < 0.001 for row in rows} == {True} and {row["agreement"] for row in rows} == {None}
    # where the clusters are the kinds of question, nothing is left for them to explain
    sorted_items = [dataclasses.replace(item, kind="odd" if i % 2 else "even") for i, item in enumerate(items)]
    of_kinds = run_step("selection", model, sorted_items, draws=100)
    same = run_step("selection_clusters", model, sorted_items, upstream={"selection": of_kinds}, largest=2)["clusters"]
    assert {(r["p"], r["agreement"]) for r in same.to_pylist() if r["of"] == "prompts"} == {(None, 1.0)}
    labels = {row["question_id"]: row["cluster"] for row in tables["prompts"].to_pylist()}
    assert len({labels[f"q{i}"] for i in range(0, 16, 2)}) == len({labels[f"q{i}"] for i in range(1, 16, 2)}) == 1
    units = tables["units"].to_pylist()
    assert len(units) == 2 * 48 and {row["status"] for row in units} == {"ok"}


def test_clusters_of_nothing_say_so() -> None:
    selected = run_step("selection", nano("hyena"), ITEMS[:4], draws=100)
    tables = run_step("selection_clusters", nano("hyena"), ITEMS[:4], upstream={"selection": selected})
    assert {row["status"] for row in tables["clusters"].to_pylist()} == {"not_applicable"}
