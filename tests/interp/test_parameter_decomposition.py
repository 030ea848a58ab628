"""SPD and clusters of its components: losses equal loops in float64, and planted mechanisms are recovered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.interp.engine.fitting import Minibatch, Schedule, fit
from mplat.interp.methods import stochastic_masks as spd
from mplat.interp.methods.causal_importance import (
    Gate,
    lower_leaky,
    minimality,
    raw_importance,
    start_gate,
    upper_leaky,
)
from mplat.interp.methods.co_importance import co_importance, importance_clusters, interaction, specialisation
from mplat.interp.methods.matrix_function import (
    clean_pass,
    divergence_of_logits,
    mean_squares,
)
from mplat.interp.methods.rank_one import (
    RankOnes,
    column_recovery,
    cosines,
    faithfulness,
    matrices_of,
    random_ones,
    recovery,
    start,
)
from torch import Tensor
from toy_functions import Superposition, Toy, TwoCircuits

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# -- the parts of the loss ------------------------------------------------------------------------------------------


def test_the_leaky_sigmoids_have_the_values_and_slopes_of_their_definition() -> None:
    raw = torch.tensor([-2.0, -0.5, 0.25, 0.75, 1.5, 3.0], dtype=F64, requires_grad=True)
    for sigmoid, values, slopes in (
        (lower_leaky, [-0.02, -0.005, 0.25, 0.75, 1.0, 1.0], [0.01, 0.01, 1.0, 1.0, 0.0, 0.0]),
        (upper_leaky, [0.0, 0.0, 0.25, 0.75, 1.005, 1.02], [0.0, 0.0, 1.0, 1.0, 0.01, 0.01]),
    ):
        y = sigmoid(raw)
        (slope,) = torch.autograd.grad(y.sum(), raw)
        assert torch.allclose(y, torch.tensor(values, dtype=F64), atol=1e-15)
        assert torch.allclose(slope, torch.tensor(slopes, dtype=F64), atol=1e-15)


def test_an_importance_is_what_a_network_of_its_own_makes_of_the_inner_activation() -> None:
    gate, h = Gate(drawn(3, 4), drawn(3, 4, seed=1), drawn(3, 4, seed=2), drawn(3, seed=3)), drawn(5, 3, seed=4)
    found = raw_importance(gate, h)
    for b in range(5):
        for c in range(3):
            total = float(gate.b_out[c])
            for k in range(4):
                x = float(gate.w_in[c, k] * h[b, c] + gate.b_in[c, k])
                total += float(gate.w_out[c, k]) * x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
            assert float(found[b, c]) == pytest.approx(total, abs=1e-12)


def test_a_network_begins_at_nothing_where_its_component_does_little_and_at_one_where_it_does_much() -> None:
    scale = torch.tensor([0.01, 1.0, 30.0, 0.0], dtype=F64)
    gate = start_gate(scale, 64, torch.Generator().manual_seed(0))
    h = torch.tensor([-3.0, -1.0, 0.0, 0.4, 1.0, 3.0], dtype=F64)[:, None] * scale[:3]
    raw = raw_importance(Gate(*(part[:3] for part in gate)), h)
    assert bool((raw[:3] <= 0).all()) and bool((raw[3] < 0.1).all()) and bool((raw[4:] > 1).all())
    assert all(bool(part.isfinite().all()) for part in gate)  # also of a component that does nothing


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_minimality_is_the_mean_over_examples_of_the_sum_of_powers(power: float) -> None:
    raw = drawn(2, 4, 3) + 0.5
    counted = torch.tensor([[True, True, False, True], [True, False, False, False]])
    by_hand = []
    for b, t in ((0, 0), (0, 1), (0, 3), (1, 0)):
        total = 0.0
        for x in raw[b, t].tolist():
            g = 0.0 if x < 0 else x if x <= 1 else 1 + 0.01 * (x - 1)
            total += (g + 1e-12) ** power
        by_hand.append(total)
    assert float(minimality(raw, power, counted)) == pytest.approx(sum(by_hand) / 4, rel=1e-9)


def test_faithfulness_is_the_squared_error_over_the_number_of_entries_of_all_matrices() -> None:
    pairs = {n: (drawn(4, s, seed=s), RankOnes(drawn(4, 3), drawn(3, s, seed=9))) for n, s in (("a", 5), ("b", 2))}
    total = 0.0
    for weight, ones in pairs.values():
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                total += float(weight[i, j] - sum(ones.U[i, c] * ones.V[c, j] for c in range(3))) ** 2
    assert float(faithfulness(pairs)) == pytest.approx(total / (20 + 8), rel=1e-12)


def masked_by_hand(toy: Superposition, parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """Each example with weights of its own."""
    rows = []
    for b, x in enumerate(toy.data):
        W = {}
        for name in ("in", "out"):
            U, V = parameters[f"U/{name}"], parameters[f"V/{name}"]
            W[name] = U @ torch.diag(masks[name][b]) @ V if name in masks else toy.weights[name]
        rows.append(torch.relu(W["out"] @ (W["in"] @ x) - 0.27))
    return torch.stack(rows)


def test_stochastic_reconstruction_is_that_of_every_example_with_its_own_masked_weights() -> None:
    toy = Superposition(rows=40, active=0.5, dtype=F64)
    examples = torch.arange(len(toy.data))
    parameters = spd.start_components(toy, examples, {"in": 7, "out": 6}, 4, seed=1)
    parameters = {name: value + 0.1 * torch.randn_like(value) for name, value in parameters.items()}
    losses = spd.Losses(faithfulness=2.0, stochastic=3.0, layerwise=5.0, minimality=0.1, power=0.7)
    parts = spd.parts_of_loss(toy, parameters, examples, torch.Generator().manual_seed(3), losses, mean_squares)

    generator, masks, penalty = torch.Generator().manual_seed(3), {}, 0.0
    h = toy.data @ toy.W.T
    for name, a in (("in", toy.data), ("out", h)):
        raw = raw_importance(spd.gate_of(parameters, name), a @ parameters[f"V/{name}"].T)
        g = lower_leaky(raw)
        r = torch.rand(g.shape, generator=generator, dtype=F64)
        masks[name] = g + (1 - g) * r
        penalty += float(((upper_leaky(raw) + 1e-12) ** 0.7).sum() / len(toy.data))
        assert bool((masks[name] >= g).all()) and bool((masks[name] <= 1).all())
    target = torch.relu(h @ toy.W - 0.27)

    def error(chosen: Mapping[str, Tensor]) -> float:
        return float(((masked_by_hand(toy, parameters, chosen) - target) ** 2).mean())

    assert parts.stochastic is not None and parts.layerwise is not None
    assert float(parts.stochastic) == pytest.approx(error(masks), rel=1e-10)
    assert float(parts.layerwise) == pytest.approx(sum(error({n: m}) for n, m in masks.items()) / 2, rel=1e-10)
    assert float(parts.minimality) == pytest.approx(penalty, rel=1e-10)
    whole = 2.0 * parts.faithfulness + 3.0 * parts.stochastic + 5.0 * parts.layerwise + 0.1 * parts.minimality
    assert float(spd.total(parts, losses)) == pytest.approx(float(whole), rel=1e-12)


def test_the_divergence_is_kullback_and_leiblers_from_the_target() -> None:
    outputs, target = drawn(3, 5), drawn(3, 5, seed=1)
    p, q = torch.softmax(target, 1), torch.softmax(outputs, 1)
    assert float(divergence_of_logits(outputs, target)) == pytest.approx(
        float((p * (p / q).log()).sum(1).mean()), rel=1e-12
    )


def test_the_penalty_falls_in_the_second_half_of_the_training() -> None:
    losses = spd.Losses(minimality=1.0, begin=4.0)
    assert [losses.at(done).minimality for done in (0.0, 0.5, 2 / 3, 5 / 6, 1.0)] == pytest.approx([4, 4, 2.5, 1, 1])
    assert spd.Losses(minimality=1.0).at(0.2).minimality == 1.0


# -- components -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "count"), [((3, 8), 4), ((3, 8), 12), ((8, 3), 5), ((4, 4), 4)])
def test_enough_components_begin_as_a_sum_that_is_the_matrix(shape: tuple[int, int], count: int) -> None:
    weight = drawn(*shape)
    ones = start(weight, count, torch.Generator().manual_seed(0))
    assert torch.allclose(ones.U @ ones.V, weight, atol=1e-12)
    assert torch.allclose(ones.U.norm(dim=0), ones.V.norm(dim=1), atol=1e-12)
    too_few = start(weight, 2, torch.Generator().manual_seed(0))
    assert float((too_few.U @ too_few.V - weight).norm()) > 0.1


def test_cosines_are_those_of_whole_matrices() -> None:
    a, b = RankOnes(drawn(4, 3), drawn(3, 5, seed=1)), RankOnes(drawn(4, 2, seed=2), drawn(2, 5, seed=3))
    A, B = matrices_of(a).flatten(1), matrices_of(b).flatten(1)
    expected = (A / A.norm(dim=1, keepdim=True)) @ (B / B.norm(dim=1, keepdim=True)).T
    assert torch.allclose(cosines(a, b), expected, atol=1e-12)
    assert torch.allclose(a.norms, A.norm(dim=1), atol=1e-12)


def test_random_directions_of_the_same_norm_do_not_score_as_recovery() -> None:
    """The columns of a plane cannot tell: with twenty components one is always close. Whole matrices can."""
    toy = Superposition(rows=8)
    truth = toy.mechanisms()["in"]
    exact = RankOnes(toy.W, torch.eye(5))
    assert (
        recovery(truth, exact).mean_max_cosine == pytest.approx(1.0) and recovery(truth, exact).mean_norm_ratio == 1.0
    )
    like = RankOnes(torch.ones(2, 20), torch.ones(20, 5))
    control = [random_ones(like, torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert max(recovery(truth, one).mean_max_cosine for one in control) < 0.85
    assert min(column_recovery(toy.W, matrices_of(one)).mean_max_cosine for one in control) > 0.9
    assert all(torch.allclose(one.norms, like.norms) for one in control)


def decomposed(
    function: Toy, count: Mapping[str, int], losses: spd.Losses, schedule: Schedule, seed: int = 0
) -> dict[str, Tensor]:
    def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        now = losses.at(batch.step / schedule.steps)
        parts = spd.parts_of_loss(function, parameters, batch.examples, batch.generator, now, mean_squares)
        return spd.total(parts, now)

    begin = spd.start_components(function, torch.arange(min(512, len(function.data))), count, 8, seed)
    return fit("toy", begin, loss, examples=len(function.data), schedule=schedule, seed=seed).parameters


def check_superposition(toy: Superposition, parameters: Mapping[str, Tensor]) -> None:
    """Five components of each matrix are the mechanisms, each important at its own feature alone; the others are
    superfluous."""
    one_hot = torch.eye(5) * 0.75
    raw = spd.importances(toy, parameters, clean_pass(Superposed(one_hot, [*toy.matrices]), torch.arange(5)))
    for name, matrix in toy.matrices.items():
        ones = spd.ones_of(parameters, name)
        found = recovery(toy.mechanisms()[name], ones)
        assert found.mean_max_cosine > 0.99 and found.mean_norm_ratio == pytest.approx(1.0, abs=0.03), name
        norms = ones.norms.sort(descending=True).values
        assert float(norms[4]) > 1.0 and float(norms[5:].max()) < 0.05, name
        assert float((ones.U @ ones.V - matrix.weight).norm() / matrix.weight.norm()) < 0.02, name
        important = raw[name] > 0.1
        assert bool((important.sum(1) == 1).all()) and int(important.any(0).sum()) == 5, name


@pytest.mark.slow
def test_spd_recovers_the_first_matrix_of_the_toy_model_of_superposition() -> None:
    """5 features in 2 dimensions, 20 components."""
    toy = Superposition(rows=16384, only=("in",))
    losses = spd.Losses(minimality=3e-3, begin=1.5e-2)
    parameters = decomposed(toy, {"in": 20}, losses, Schedule(1500, 128, 5e-3))
    check_superposition(toy, parameters)
    columns = column_recovery(toy.W, matrices_of(spd.ones_of(parameters, "in")))
    assert columns.mean_max_cosine > 0.99 and columns.mean_norm_ratio == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_spd_recovers_both_matrices_of_the_toy_model_of_superposition_at_once() -> None:
    """The matrices are tied in the toy model, their components are not; from another seed than the first alone."""
    toy = Superposition(rows=16384, seed=1)
    losses = spd.Losses(minimality=3e-3, begin=1.5e-2)
    check_superposition(toy, decomposed(toy, {"in": 20, "out": 20}, losses, Schedule(1500, 128, 5e-3), seed=1))


class Superposed(Superposition):
    """The same function of given inputs."""

    def __init__(self, data: Tensor, only: Sequence[str]) -> None:
        super().__init__(rows=8, only=only)
        self.data = data


@cache
def two_circuits() -> tuple[TwoCircuits, dict[str, Tensor]]:
    toy = TwoCircuits()
    losses = spd.Losses(minimality=0.03, begin=0.3)
    return toy, decomposed(toy, {"first": 6, "second": 6}, losses, Schedule(900, 64, 1e-2))


@pytest.mark.slow
def test_spd_separates_two_circuits_that_are_used_on_disjoint_inputs() -> None:
    toy, parameters = two_circuits()
    raw = spd.importances(toy, parameters, clean_pass(toy, torch.arange(len(toy.data))))
    g = torch.cat([raw[name].clamp(0, 1) for name in ("first", "second")], 1)
    alive = g.max(0).values > 0.1
    of_first, of_second = (g[toy.circuit == k].mean(0)[alive] for k in (0, 1))
    assert int(alive.sum()) >= 4
    assert float(torch.minimum(of_first, of_second).max()) < 0.02  # pure
    assert float(torch.maximum(of_first, of_second).min()) > 0.1
    clusters = importance_clusters(co_importance(g[:, alive].numpy()), 0.5)
    assert len(clusters) == 2
    matrix = (torch.arange(12) // 6)[alive]
    for cluster in clusters:
        mine = (of_first > of_second)[cluster]
        assert len(set(mine.tolist())) == 1 and set(matrix[cluster].tolist()) == {0, 1}  # a circuit in both matrices
    truth = toy.mechanisms()["first"]
    assert recovery(truth, spd.ones_of(parameters, "first")).mean_max_cosine > 0.95
    shuffled = random_ones(spd.ones_of(parameters, "first"), torch.Generator().manual_seed(0))
    assert recovery(truth, shuffled).mean_max_cosine < 0.85


def losses_without(toy: Toy, parameters: Mapping[str, Tensor], taken: Mapping[str, list[int]]) -> Tensor:
    examples = torch.arange(len(toy.data))
    layers = {
        n: spd.scaled(toy.matrices[n], parameters, n, torch.tensor(c), torch.zeros(len(c))) for n, c in taken.items()
    }
    return ((toy(examples, layers) - clean_pass(toy, examples).outputs) ** 2).sum(1)


def test_links_of_a_chain_interact_below_zero_and_circuits_of_other_inputs_not_at_all() -> None:
    toy = TwoCircuits()
    # the true mechanisms as components: number k is circuit k
    parameters = {}
    for name, parts in toy.mechanisms().items():
        left, sizes, right = torch.linalg.svd(parts)
        parameters |= {f"U/{name}": (left[:, :, 0] * sizes[:, :1]).T, f"V/{name}": right[:, 0]}
    none = losses_without(toy, parameters, {})
    assert float(none.abs().max()) < 1e-10
    links, apart = {"first": [0], "second": [0]}, {"first": [0], "second": [1]}
    first, second, other = (
        losses_without(toy, parameters, {n: c}) for n, c in (("first", [0]), ("second", [0]), ("second", [1]))
    )
    chain = interaction(losses_without(toy, parameters, links), first, second, none)
    disjoint = interaction(losses_without(toy, parameters, apart), first, other, none)
    on = (toy.circuit == 0).numpy()
    assert (chain[on] < -0.1).all() and abs(disjoint).max() < 1e-5
    assert chain == pytest.approx(-first.double().numpy(), abs=1e-4)  # one does all the damage


class Saturated(Toy):
    """min(1, W x) of one output: either of two columns is enough."""

    def __init__(self) -> None:
        super().__init__(torch.ones(4, 2), {"w": torch.tensor([[2.0, 2.0]])})

    def __call__(self, examples: Tensor, layers: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        return self.act("w", layers, self.data[examples]).clamp(max=1.0)


def test_components_that_make_up_for_each_other_interact_above_zero() -> None:
    toy = Saturated()
    parameters = {"U/w": torch.full((1, 2), 2.0), "V/w": torch.eye(2)}
    alone = [losses_without(toy, parameters, {"w": [c]}) for c in (0, 1)]
    both = losses_without(toy, parameters, {"w": [0, 1]})
    assert interaction(both, *alone, torch.zeros(4)) == pytest.approx([1.0] * 4)


# -- clusters -------------------------------------------------------------------------------------------------------


def test_clusters_are_joined_while_their_members_are_co_important() -> None:
    g = torch.tensor([[1.0, 0.9, 0.0, 0.0, 0.0], [0.5, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.8, 0.2, 0.0]]).numpy()
    together = co_importance(g)
    assert together[0, 1] == pytest.approx((0.9 + 0.2) / math.sqrt(1.25 * 0.97)) and together[0, 2] == 0
    assert together[2, 3] == pytest.approx(1.0) and together[4].tolist() == [0.0] * 5
    assert importance_clusters(together, 0.5) == [[0, 1], [2, 3], [4]]
    assert importance_clusters(together, 0.9999) == [[2, 3], [0], [1], [4]]
    with pytest.raises(UsageError, match="between 0 and 1"):
        importance_clusters(together, 0.0)


def test_specialisation_is_the_contrast_of_the_kind_with_the_others() -> None:
    kinds = ["a", "a", "b", "b", "c"]
    assert specialisation([0.4, 0.6, 0.1, 0.1, 0.1], kinds) == ("a", 0.5, pytest.approx((0.5 - 0.1) / 0.6))
    assert specialisation([0.2, 0.4, 0.0, 0.0, 0.0], kinds).contrast == 1.0
    assert specialisation([1.0, 2.0], ["a", "a"]).contrast is None and specialisation([0.0] * 5, kinds).contrast is None


# -- attribution-based decomposition --------------------------------------------------------------------------------
