"""The steps sae, dictionary, superposition and sparse_probing on a small model: what they write fits together, steering
uses it as it is, and settings that cannot be fulfilled are refused before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import asked, reader
from model_zoo import tokens
from mplat.core.errors import InputError, UsageError
from mplat.interp import Cache, StepResult, config_model, plan_steps, run_steps
from mplat.interp.methods.activation_store import Store
from mplat.interp.methods.sae.examples import StoredExamples
from mplat.interp.methods.sae.kinds import SAE_KINDS
from mplat.interp.methods.sae.material import autoencoders, sides
from mplat.interp.methods.sae.measures import mean_max_cosine, measure
from mplat.interp.methods.sae.saelens import read_saelens, write_saelens
from mplat.interp.methods.superposition import dimensionality
from mplat.models import LanguageModel
from mplat.steering.features import read_dictionary

STEPS = ("sae", "dictionary", "superposition", "sparse_probing")
SAE = {"kinds": ("relu", "jumprelu", "topk"), "seeds": 2, "expansion": 0.25, "k": 2, "steps": 30, "batch_size": 64,
       "splice_prompts": 2, "tokens": 400, "sites": ("resid_post", "mixer.h?")}  # fmt: skip
SETTINGS: Mapping[str, Any] = {
    "collect": {"sites": ("resid_post", "mixer.h")}, "sae": SAE,
    "dictionary": {"rounds": 1, "tokens": 300, "judged": 20},
    "superposition": {"tokens": 300, "draws": 2},
    "sparse_probing": {"ks": (1, 2), "folds": 2, "draws": 1, "tokens": 2000},
}  # fmt: skip


def config(**settings: Any) -> Any:
    return config_model().model_validate({"batch_size": 4, "layers": (0, 1), "steps": STEPS} | {**SETTINGS} | settings)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader("mamba2")


@pytest.fixture(scope="module")
def found(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, StepResult]:
    results = run_steps(model, asked(1), config(), cache=Cache(tmp_path_factory.mktemp("features")))
    assert all(result.bad == {} for result in results.values())
    return results


@pytest.mark.slow
def test_the_table_says_what_the_dictionaries_are(found: Mapping[str, StepResult]) -> None:
    result = found["sae"]
    store = Store.read(found["collect"].tables, found["collect"].tensors)
    rows = result.tables["saes"].to_pylist()
    assert {(row["layer"], row["site"]) for row in rows} == {(1, "resid_post"), (1, "mixer.h")}
    assert len(rows) == 2 * 3 * 2 and {row["tensors"] for row in rows} == set(result.tensors)
    split = sides(store.tokens, 0.25)
    every = autoencoders(result.tables, result.tensors)
    for row, one in zip(rows, every, strict=True):
        place = store.place(one.layer, one.site)
        judged = split.judge[np.arange(min(400, len(split.judge))) * len(split.judge) // min(400, len(split.judge))]
        measured = measure(one.dictionary, StoredExamples(store, place, judged))
        assert row["explained_variance"] == pytest.approx(measured.explained_variance, rel=1e-6)
        assert row["l0"] == pytest.approx(measured.l0) and row["n_latents"] == one.dictionary.n_latents
        other = next(o for o in every if o[:3] == one[:3] and o.number != one.number)
        assert row["seed_match"] == pytest.approx(mean_max_cosine(one.dictionary.W_dec, other.dictionary.W_dec))
        assert row["error_term_exact"] is (True if one.number == 0 else None)
        ablated, clean = row["loss_zero"], row["loss_clean"]
        assert row["recovered_zero"] is None or row["recovered_zero"] == pytest.approx(
            (ablated - row["loss_spliced"]) / (ablated - clean)
        )
    features = result.tables["features"].to_pylist()
    assert len(features) == sum(row["n_latents"] for row in rows)
    spread = {(r["site"], r["kind"], r["measure"]): r for r in result.tables["spread"].to_pylist()}
    values = [row["l0"] for row in rows if (row["site"], row["kind"]) == ("resid_post", "relu")]
    assert spread["resid_post", "relu", "l0"]["mean"] == pytest.approx(np.mean(values))
    assert spread["resid_post", "relu", "l0"]["sd"] == pytest.approx(np.std(values, ddof=1))


def test_contexts_are_the_tokens_at_which_a_latent_is_largest(found: Mapping[str, StepResult]) -> None:
    store = Store.read(found["collect"].tables, found["collect"].tensors)
    one = autoencoders(found["sae"].tables, found["sae"].tensors)[0]
    x = store.values(store.place(one.layer, one.site))
    f = one.dictionary.latents(x[np.arange(min(400, len(x))) * len(x) // min(400, len(x))])
    rows = [
        row for row in found["sae"].tables["contexts"].to_pylist()
        if (row["site"], row["kind"]) == (one.site, one.kind)
    ]  # fmt: skip
    labels = store.tokens.to_pylist()
    for row in rows:
        assert row["value"] == pytest.approx(float(f[:, row["latent"]].sort(descending=True).values[row["rank"] - 1]))
        here = next(t for t in labels if (t["question_id"], t["position"]) == (row["question_id"], row["position"]))
        assert f"»{here['text']}«" in row["context"] and row["token"] == here["text"]
    assert {row["rank"] for row in rows} == {1, 2, 3}


def test_baselines_stand_beside_each_kind(found: Mapping[str, StepResult]) -> None:
    rows = found["sae"].tables["baselines"].to_pylist()
    assert {(r["model"], r["basis"]) for r in rows} == {
        (m, b) for m in ("trained", "shuffled") for b in ("sae", "channels", "pca")
    }
    assert len(rows) == 2 * 3 * 6 and all(r["recovered_mean"] is None for r in rows if r["model"] == "shuffled")
    saes = {(r["site"], r["kind"]): r for r in found["sae"].tables["saes"].to_pylist() if r["seed"] == 0}
    for row in rows:
        own = saes[row["site"], row["kind"]]
        if (row["model"], row["basis"]) == ("trained", "sae"):
            assert row["recovered_mean"] == own["recovered_mean"] and row["l0"] == own["l0"]
        elif row["model"] == "trained":
            assert row["l0"] == pytest.approx(max(1, round(own["l0"])), abs=0.01)


@pytest.mark.parametrize(("site", "kind"), [("resid_post", "relu"), ("resid_post", "jumprelu"), ("mixer.h", "relu")])
@torch.no_grad()
def test_steering_uses_the_files_as_they_are(
    model: LanguageModel, found: Mapping[str, StepResult], site: str, kind: str
) -> None:
    """Strength 1 keeps every bit, 0 takes the features out and leaves what the dictionary does not reconstruct."""
    result = found["sae"]
    row = next(r for r in result.tables["saes"].to_pylist() if (r["site"], r["kind"]) == (site, kind))
    dictionary = read_dictionary(result.tensors[row["tensors"]].path)
    name, text = f"blocks.1.{site}", tokens(1, 9, vocab=1024)
    with model.capture(name) as acts:
        clean = model(text)
    x = acts[name].flatten(2)
    f = dictionary.latents(x)
    features = f[0].sum(0).topk(2).indices.tolist()
    assert float(f[..., features].sum()) > 0
    with model.edit(*dictionary.part(model, site, 1, features, 1.0).edits(model)):
        assert torch.equal(model(text), clean)
    with model.edit(*dictionary.part(model, site, 1, features, 0.0).edits(model)), model.capture(name) as acts:
        assert not torch.equal(model(text), clean)
    if site != "mixer.h":  # an edited state runs on
        taken = f[..., features] @ dictionary.decoder[features].double()
        torch.testing.assert_close(acts[name].flatten(2).double(), x.double() - taken, rtol=1e-4, atol=1e-4)
    values = dictionary.part(model, site, 1, features, 1.0, values=[1.0, 2.0])
    with model.edit(*values.edits(model)):
        assert not torch.equal(model(text), clean)
    competing = next(r for r in result.tables["saes"].to_pylist() if (r["site"], r["kind"]) == (site, "topk"))
    with pytest.raises(InputError, match="k is no part of a relu or jumprelu dictionary"):
        read_dictionary(result.tensors[competing["tensors"]].path)


def test_what_was_trained_goes_through_saelens_format(found: Mapping[str, StepResult], tmp_path: Path) -> None:
    one = autoencoders(found["sae"].tables, found["sae"].tensors)[0]
    again = read_saelens(write_saelens(one.dictionary, tmp_path, model="nano", site="blocks.1.resid_post"))
    assert all(torch.equal(t, again.tensors()[name]) for name, t in one.dictionary.tensors().items())


def test_the_learnt_dictionary_stands_beside_the_autoencoders_at_equal_l0(found: Mapping[str, StepResult]) -> None:
    rows = found["dictionary"].table.to_pylist()
    saes = {(r["site"], r["kind"]): r for r in found["sae"].tables["saes"].to_pylist() if r["seed"] == 0}
    assert len(rows) == 2 * 3 * 5
    of_sae = {(row["site"], row["kind"]): row for row in rows if row["of"] == "sae"}
    for row in rows:
        own = of_sae[row["site"], row["kind"]]
        if row["of"] != "sae":
            assert row["k"] == min(max(1, round(own["l0"])), row["atoms"], 24 if row["site"] == "resid_post" else 240)
            assert row["explained_variance"] <= 1 + 1e-9
    for where, row in of_sae.items():  # judged on some of the tokens
        assert row["explained_variance"] == pytest.approx(saes[where]["explained_variance"], abs=0.2)
    atoms = [tensors["atoms"] for tensors in found["dictionary"].tensors.values()]
    assert {tuple(a.shape) for a in atoms} == {(6, 24), (60, 240)}


def test_geometry_is_that_of_the_dictionaries_weights_and_activations(
    model: LanguageModel, found: Mapping[str, StepResult]
) -> None:
    tables = found["superposition"].tables
    one = autoencoders(found["sae"].tables, found["sae"].tensors)[0]
    values = [
        r["dimensionality"] for r in tables["features"].to_pylist() if (r["site"], r["kind"]) == (one.site, one.kind)
    ]
    assert values == pytest.approx(dimensionality(one.dictionary.W_dec).tolist(), rel=1e-12)
    rows = {(r["of"], r["layer"], r["name"]): r for r in tables["matrices"].to_pylist()}
    out = rows["weights", 0, "mixer.out_proj.weight"]
    weight = dict(model.blocks[0].named_parameters())["mixer.out_proj.weight"].detach().double()
    assert (out["vectors"], out["dimensions"]) == (weight.shape[1], weight.shape[0])
    assert out["frobenius_squared"] == pytest.approx(float((weight**2).sum()), rel=1e-6)
    sigma = torch.linalg.svdvals(weight)
    assert out["stable_rank"] == pytest.approx(float((sigma**2).sum() / sigma[0] ** 2), rel=1e-5)
    activations = rows["activations", 1, "resid_post"]
    assert activations["effective_rank"] < activations["effective_rank_random"]  # coordinates that go together
    assert all(r["coherence"] >= r["welch_bound"] - 1e-9 for r in rows.values() if r["of"] != "activations")


def test_probes_have_rows_for_each_label_basis_and_k(found: Mapping[str, StepResult]) -> None:
    rows = [row for row in found["sparse_probing"].table.to_pylist() if row["status"] == "ok"]
    assert {row["basis"] for row in rows} == {
        "sae, relu", "sae, jumprelu", "sae, topk", "channels", "pca", "channels, shuffled weights",
    }  # fmt: skip
    assert {row["label"] for row in rows} == {"in fact"} and {row["k"] for row in rows} == {1, 2}
    assert all(len(row["coordinates"]) == row["k"] and 0 <= row["auroc"] <= 1 for row in rows)
    assert all(row["selectivity"] == pytest.approx(row["auroc"] - row["auroc_shuffled"]) for row in rows)


def test_too_few_groups_are_said_in_rows(model: LanguageModel, tmp_path: Path) -> None:
    one = asked(1)[:1]
    results = run_steps(model, one, config(), cache=Cache(tmp_path))
    for name, part in (("sae", "saes"), ("sae", "baselines"), ("dictionary", ""), ("sparse_probing", "")):
        rows = results[name].tables[part].to_pylist()
        assert rows and {row["status"] for row in rows} == {"not_applicable"}
    assert "no two groups" in results["sae"].tables["saes"]["reason"][0].as_py()
    assert {"ok"} == {r["status"] for r in results["superposition"].tables["matrices"].to_pylist()}


@pytest.mark.parametrize(("settings", "message"), [
    ({"sae": {"sites": ("mixer_out",)}}, "sae: its sites name 'mixer_out', which collect.sites does not; add it there"),
    ({"sae": {"kinds": ("batchtopk",)}}, "there is no kind of sparse autoencoder 'batchtopk'.*batch_topk"),
    ({"sae": {"layers": (1, 5)}}, "layers name block 5, which is not looked at"),
    ({"collect": {"baseline": False, "sites": ("resid_post",)}, "sae": {}}, "baselines need collect.baseline=true"),
])  # fmt: skip
def test_settings_that_cannot_be_fulfilled_are_refused_first(
    model: LanguageModel, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_steps(model, asked(), config(**settings))


def test_a_kinds_code_is_part_of_the_key_of_those_that_use_it(model: LanguageModel) -> None:
    def sources(*kinds: str) -> set[str]:
        plan = plan_steps(model, asked(), config(sae=SAE | {"kinds": kinds}))
        return set(plan.steps["sae"].key.components["sources"])

    assert SAE_KINDS.module("matryoshka") in sources("matryoshka", "relu") > sources("relu")
    assert SAE_KINDS.module("jumprelu") not in sources("relu")
