"""Decomposed matrices of language models: a masked layer is the model with that weight, and everything is put back."""

from __future__ import annotations

import copy

import pytest
import torch
from interp_jobs import asked, reader, token_items
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.tensor_text import from_text, to_text
from mplat.interp.methods import stochastic_masks as spd
from mplat.interp.methods.cluster_prompts import ablation_losses, answer_losses, mask_slopes
from mplat.interp.methods.model_matrices import chosen_places, decomposable, layer_of, matrix_of, stays_whole
from mplat.interp.methods.prompts_function import PromptsFunction, still
from mplat.interp.methods.spd_prompts import on_prompts
from mplat.models import LanguageModel
from mplat.models.access.replaced_layers import is_replaced, replaced_layers

ITEMS = token_items(4)
MATRICES = {
    "mamba": ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "embedding"),
    "mamba2": ("in_proj", "conv1d", "out_proj"),
    "hyena": ("in_proj", "short_conv", "mlp.fc1?", "out_proj"),
    "stable_mamba": ("in_proj", "conv1d", "gates", "out_proj"),
}


def untied(arch: str) -> LanguageModel:
    return nano(arch, tie_embeddings=False)


def parameters_of(function: PromptsFunction, seed: int = 0) -> dict[str, torch.Tensor]:
    count = {name: 2 * max(matrix.weight.shape) for name, matrix in function.matrices.items()}
    return spd.start_components(function, torch.arange(1), count, 4, seed)


@pytest.mark.parametrize("arch", MATRICES)
def test_constant_masks_give_the_model_with_the_masked_weights(arch: str) -> None:
    model = untied(arch)
    before = model(torch.tensor([ITEMS[0].prompt]))
    places = chosen_places(model, (1,), MATRICES[arch])
    for place in places:
        with still(model):
            function = PromptsFunction(model, [place], ITEMS)
            matrix = function.matrices[place.name]
            parameters = parameters_of(function)
            n = len(parameters[f"b_out/{place.name}"])
            mask = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            found = function(torch.arange(4), {place.name: spd.masked(matrix, parameters, place.name, mask)})
        if place.acting == "rows":
            changed = mask[:, None] * matrix.weight
        else:
            ones = spd.ones_of(parameters, place.name)
            assert torch.allclose(ones.U @ ones.V, matrix.weight, atol=1e-10)
            changed = ones.U @ torch.diag(mask) @ ones.V
        other = copy.deepcopy(model)
        with torch.no_grad():
            weight = layer_of(other, place).weight
            weight.copy_(changed.T if place.acting == "lookup" else changed.reshape(weight.shape))
            rows = [other(torch.tensor([item.prompt + item.answer[:-1]]))[0] for item in ITEMS]
        assert torch.allclose(found, torch.cat(rows), rtol=0, atol=1e-9), place.name
    assert len(places) >= 3
    assert torch.equal(model(torch.tensor([ITEMS[0].prompt])), before)
    assert not any(is_replaced(layer_of(model, place)) for place in places)


def test_a_mask_of_one_token_acts_on_that_token_and_on_those_after_it() -> None:
    model = nano("mamba")
    with still(model):
        function = PromptsFunction(model, chosen_places(model, (1,), ("in_proj",)), ITEMS[:1])
        parameters = parameters_of(function)
        whole = function(torch.tensor([0]), {})
        mask = torch.ones(1, len(whole), len(parameters["b_out/1.mixer.in_proj"]), dtype=torch.float64)
        mask[0, 3] = 0.0
        layer = spd.masked(function.matrices["1.mixer.in_proj"], parameters, "1.mixer.in_proj", mask)
        found = function(torch.tensor([0]), {"1.mixer.in_proj": layer})
    apart = (found - whole).abs().amax(1)
    assert float(apart[:3].max()) < 1e-9 and float(apart[3]) > 1e-3 and float(apart[4]) > 1e-6


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_says_which_matrices_can_be_decomposed_and_why_the_others_cannot(arch: str) -> None:
    model = nano(arch)
    every = decomposable(model, (0, 1))
    assert every[-1].path == "embedding" and len(every) > 1
    found = {(place.layer, place.path) for place in every}
    whole = {
        (one.layer, one.parameter.removesuffix(".weight")): one.reason for one in stays_whole(model, (0, 1), every)
    }
    assert not found & set(whole)
    names = {(i, name) for i in (0, 1) for name, _ in model.blocks[i].named_parameters()}
    weights = {(layer, f"{path}.weight") for layer, path in found if layer is not None}
    assert names - weights == {(one.layer, one.parameter) for one in stays_whole(model, (0, 1), every)}
    for (_, name), reason in whole.items():
        if name.endswith("A_log"):
            assert reason in ("rates of decay", "a vector")
        if name.endswith((".D", "bias", "norm")):
            assert reason == "a vector"


def test_a_replaced_layer_is_put_back_after_an_error_and_must_have_run() -> None:
    model = nano("mamba")
    layer = model.blocks[0].mixer.out_proj
    with pytest.raises(ZeroDivisionError), replaced_layers({layer: lambda u: u / 0}):
        assert is_replaced(layer)
        raise ZeroDivisionError
    assert not is_replaced(layer)
    with pytest.raises(UsageError, match="never ran"), replaced_layers({layer: lambda u: u}):
        pass
    with replaced_layers({layer: lambda u: u}, all_run=False), pytest.raises(UsageError, match="replaced already"):
        with replaced_layers({layer: lambda u: u}):
            pass


def test_an_unknown_matrix_is_a_usage_error_that_names_the_nearest() -> None:
    model = nano("mamba")
    with pytest.raises(UsageError, match="in_proj"):
        chosen_places(model, (0,), ("in_prj",))
    assert chosen_places(model, (0,), ("gates?",)) == []
    assert [p.path for p in chosen_places(model, (0,), None)] == ["mixer.in_proj", "mixer.out_proj"]


def test_tensors_in_arguments_are_the_same_afterwards() -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.tensor(3, dtype=torch.int64)}
    back = from_text(to_text(tensors))
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert to_text(dict(reversed(tensors.items()))) == to_text(tensors)


# -- ablations and slopes -------------------------------------------------------------------------------------------


def test_slopes_are_those_of_the_loss_and_an_ablation_subtracts_components() -> None:
    model = nano("mamba2")
    batch = Batch(ITEMS, model.device)
    chosen = {"1.mixer.in_proj": [0, 5], "1.mixer.conv1d": [2, 7], "1.mixer.out_proj": [3]}
    with still(model):
        places = chosen_places(model, (1,), ("in_proj", "conv1d", "out_proj"))
        function = PromptsFunction(model, places, ITEMS)
        parameters = parameters_of(function)
        found = mask_slopes(function, parameters, batch, chosen)
        clean = answer_losses(function, batch, {})
        torch.testing.assert_close(found.loss, clean, rtol=0, atol=1e-10)
        column = 0
        for name, numbers in chosen.items():
            for number in numbers:
                ends = []
                for factor in (1 + 1e-5, 1 - 1e-5):
                    layer = spd.scaled(
                        function.matrices[name],
                        parameters,
                        name,
                        torch.tensor([number]),
                        torch.tensor([factor], dtype=torch.float64),
                    )
                    ends.append(answer_losses(function, batch, {name: layer}))
                torch.testing.assert_close(found.slope[:, column], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)
                column += 1
        assert column == found.slope.shape[1] == 5 and float(found.slope.abs().max()) > 1e-4
        without = ablation_losses(function, parameters, batch, chosen)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for place in places:
            weight = dict(other.named_parameters())[f"backbone.layers.1.{place.path}.weight"]
            if place.acting == "rows":
                weight[chosen[place.name]] = 0.0
            else:
                ones = spd.ones_of(parameters, place.name).only(torch.tensor(chosen[place.name]))
                weight -= ones.U @ ones.V
    expected = []
    for item in ITEMS:
        logits = other(torch.tensor([item.prompt + item.answer[:-1]]))[0, len(item.prompt) - 1 :]
        expected.append(-torch.log_softmax(logits, 1).gather(1, torch.tensor(item.answer)[:, None]).sum())
    torch.testing.assert_close(without, torch.stack(expected), rtol=0, atol=1e-8)
    assert float((without - clean).abs().max()) > 1e-3


def test_with_everything_important_the_model_is_itself() -> None:
    model = nano("mamba")
    with still(model):
        function = PromptsFunction(model, chosen_places(model, (1,), None), ITEMS)
        parameters = parameters_of(function)
        open_ = {n: torch.full_like(t, 5.0) if n.startswith("b_out/") else t for n, t in parameters.items()}
        shut = {n: torch.full_like(t, -1e4) if n.startswith("b_out/") else t for n, t in parameters.items()}
        every, none = on_prompts(function, open_, range(4)), on_prompts(function, shut, range(4))
    for of, other in zip(every, none, strict=True):
        assert of is not None and other is not None
        assert of.divergence == pytest.approx(0.0, abs=1e-9) and of.same == 1.0
        assert of.matrices["1.mixer.in_proj"].l0 == len(parameters["b_out/1.mixer.in_proj"])
        assert other.divergence > 1e-3 and other.whole == pytest.approx(0.0, abs=1e-9)
        assert other.matrices["1.mixer.in_proj"].l0 == 0.0


# -- the steps ------------------------------------------------------------------------------------------------------

SETTINGS = {
    "spd": {"steps": 12, "seeds": 2, "prompts_at_once": 2, "hidden": 2, "overcomplete": 1.0,
            "matrices": ("in_proj", "conv1d", "out_proj")},
    "apd": {"steps": 4, "seeds": 2, "prompts_at_once": 2, "components": 6, "rank": 4, "probes": 1},
    "parameter_clusters": {"components": 8, "clusters": 2, "pairs": 3, "draws": 3, "resamples": 200,
                           "permutations": 200},
}  # fmt: skip


@pytest.mark.slow
def test_the_three_steps_find_one_another_and_say_what_is_what(tmp_path) -> None:
    model = reader("mamba")
    config = config_model().model_validate({"batch_size": 3, "steps": tuple(SETTINGS), **SETTINGS})
    results = run_steps(model, asked(), config, cache=Cache(tmp_path))
    assert all(result.bad == {} for result in results.values())
    matrices = results["spd"].tables["matrices"].to_pylist()
    assert [(r["of"], r["seed"]) for r in matrices[::3]] == [("model", 0), ("model", 1), ("weights in random order", 0)]
    for row in matrices:
        assert (row["error"] == 0.0) == (row["kind"] == "rows") and 0 <= row["l0"] <= row["components"]
        assert (row["agreement"] is None) == (row["kind"] == "rows" or row["of"] != "model")
    whole = {r["parameter"]: r for r in results["spd"].tables["parameters"].to_pylist() if r["decomposed"] == "whole"}
    assert {"mixer.A_log", "mixer.D", "norm.weight", "mixer.dt_proj.bias", "embedding"} <= set(whole)
    assert whole["mixer.A_log"]["reason"] == "rates of decay" and whole["mixer.x_proj.weight"]["reason"] == "not chosen"
    tensors = results["spd"].tensors["model-0"]
    assert tensors["U/1.mixer.in_proj"].shape == (96, 24) and "U/1.mixer.conv1d" not in tensors
    place = chosen_places(model, (1,), ("in_proj",))[0]
    error = matrices[0]["error"]
    rest = matrix_of(model, place).weight - tensors["U/1.mixer.in_proj"] @ tensors["V/1.mixer.in_proj"]
    assert error == pytest.approx(float((rest**2).sum() / (matrix_of(model, place).weight ** 2).sum()), rel=1e-3)

    compared = results["apd"].tables["comparison"].to_pylist()
    assert {(r["with"], r["status"]) for r in compared if r["matrix"] == "mixer.conv1d"} == {("spd", "not_applicable")}
    assert all(0 < r["random"] < 1 for r in compared if r["status"] == "ok")
    # both begin with 24 components in every matrix, and not with the same ones
    assert all(r["mean_max_cosine"] < 0.7 for r in compared if r["with"] == "spd" and r["status"] == "ok")
    used = results["apd"].tables["runs"].to_pylist()[0]
    assert used["used"] == pytest.approx(4.0) and used["n_prompts"] == 6

    clusters = results["parameter_clusters"].tables
    members = clusters["components"].to_pylist()
    assert len(members) == 8 and {m["cluster"] for m in members} == {
        r["cluster"] for r in clusters["clusters"].to_pylist()
    }
    assert sum(r["size"] for r in clusters["clusters"].to_pylist()) == 8
    assert sum(r["flow_share"] for r in clusters["clusters"].to_pylist()) == pytest.approx(1.0)
    pairs = [r for r in clusters["interactions"].to_pylist() if r["of"] == "components"]
    assert len(pairs) == 3
    for r in pairs:
        assert r["interaction"] == pytest.approx(r["loss_both"] - r["loss_first"] - r["loss_second"], abs=1e-9)


def test_blocks_that_are_not_looked_at_are_refused() -> None:
    config = config_model().model_validate({"steps": ("spd",), "layers": (0,), "spd": {"blocks": (1,)}})
    with pytest.raises(UsageError, match="not among the blocks looked at"):
        run_steps(reader("mamba"), asked(), config)
