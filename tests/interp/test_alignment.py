"""Alignment search finds a planted variable where it is, and nothing where there is nothing to find."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from mplat.interp.engine.fitting import Schedule
from mplat.interp.engine.places import Place, places
from mplat.interp.methods.alignment import (
    align,
    gradients,
    inside,
    outside,
    principal_cosines,
    principal_subspace,
    random_rotation,
    random_subspace,
    rotation,
    share_inside,
    single_channels,
    span,
)
from mplat.interp.methods.alignment_controls import (
    DAS,
    FULL,
    RANDOM,
    SHUFFLED,
    UNTRAINED,
    Found,
    Search,
    Sides,
    learned,
    learned_untrained,
    unlearned,
)
from mplat.interp.methods.interchange import Region, outcome, prepare, regions
from mplat.models import LanguageModel
from mplat.models.shuffled import shuffled
from planted_pairs import PLANTED, copy_model, name_pairs, relayed, turned
from torch import Tensor

SEARCH = Search(Schedule(80, 32, 0.2), seeds=3, draws=19, natural=0.99, seed=0)


def sides(model: LanguageModel, position: str, site: str, layer: int = 0) -> tuple[Sides, Region]:
    """Pairs to learn on and other ones to judge on."""
    (place,) = places(model, [layer], [site], one_axis=False)
    train, test = (prepare(model, name_pairs(64, seed), position, [place]) for seed in (1, 2))
    return Sides(model, train, test), regions(place, 1)[0]


@cache
def at_the_relay() -> dict[str, Found]:
    """What is found in the residual stream behind block 0, where the name's code has just been read."""
    model = copy_model()
    trained, region = sides(model, "relay", "resid_post")
    untrained, _ = sides(shuffled(model, 0), "relay", "resid_post")
    every = (
        *unlearned(trained, region, [2]),
        *learned("relay", trained, region, [2], SEARCH),
        *learned_untrained("relay", untrained, region, [2], SEARCH),
    )
    return {found.kind: found for found in every}


def accuracies(found: Found) -> list[float]:
    return [float(one.target.mean()) for one in found.outcomes]


@pytest.mark.slow
def test_the_planted_subspace_is_found_from_every_seed() -> None:
    found = at_the_relay()[DAS]
    assert len(found.subspaces) == 3 and min(accuracies(found)) > 0.95
    for rows in found.subspaces:
        assert min(principal_cosines(rows, relayed())) > 0.95
    for said in found.dormant:
        assert min(said.natural, said.read) > 0.9 and said.accuracy_natural == said.accuracy_read == 1.0
        assert max(said.accuracy_unnatural or 0.0, said.accuracy_unread or 0.0) < 0.1
    assert float(found.outcomes[0].source.mean()) == accuracies(found)[0], "here the source's answer is the right one"


@pytest.mark.slow
def test_random_subspaces_of_equal_size_set_nothing() -> None:
    random = at_the_relay()[RANDOM]
    assert len(random.outcomes) == 19 and max(accuracies(random)) < 0.3
    assert max(min(principal_cosines(rows, relayed())) for rows in random.subspaces) < 0.9


@pytest.mark.slow
def test_answers_of_other_pairs_and_a_model_that_learned_nothing_give_no_subspace() -> None:
    found = at_the_relay()
    assert max(accuracies(found[SHUFFLED])) < 0.5 and max(accuracies(found[UNTRAINED])) < 0.5, "one of four is chance"
    assert min(principal_cosines(found[SHUFFLED].subspaces[0], relayed())) < 0.95


@pytest.mark.slow
def test_the_whole_site_bounds_what_a_part_of_it_sets() -> None:
    assert accuracies(at_the_relay()[FULL]) == [1.0]


def test_a_subspace_that_lies_along_no_channel_is_found_too() -> None:
    turn = random_rotation(24, 5)
    model = turned(copy_model(), turn)
    trained, region = sides(model, "relay", "resid_post")
    found = align("turned", model, trained.train, region, 2, schedule=SEARCH.schedule, seed=3)
    assert float(outcome(model, trained.test, region, found.subspace).target.mean()) > 0.95
    assert min(principal_cosines(found.subspace, relayed() @ turn.T)) > 0.95
    assert min(principal_cosines(found.subspace, relayed())) < 0.9
    channels = single_channels((gradients(model, trained.train, region) * trained.train.differences(region)).mean(0), 2)
    assert float(outcome(model, trained.test, region, channels).target.mean()) < 0.5, "no two channels hold it now"


def test_before_the_code_is_read_there_is_nothing_to_find() -> None:
    model = copy_model()
    trained, region = sides(model, "relay", "resid_pre")
    found = align("before", model, trained.train, region, 2, schedule=SEARCH.schedule, seed=0)
    assert float(outcome(model, trained.test, region, found.subspace).target.mean()) == 0.0


def test_a_direction_that_varies_but_is_not_read_is_told_from_one_that_is() -> None:
    """In the state, two decoy channels hold what two planted ones hold, and nobody reads them."""
    model = copy_model()
    trained, region = sides(model, "between", "h_post")
    held = torch.cat([trained.train.values(region), trained.train.values(region, "source")])
    read = span(gradients(model, trained.train, region), 0.99, centred=False)
    natural = span(held, 0.99, centred=True)
    state, copied = PLANTED.truth.part("first.state"), PLANTED.truth.part("first.copied_state")

    def coordinates(*channels: int) -> Tensor:
        rows = torch.zeros(len(channels), *region.shape, dtype=torch.float64)
        for row, channel in zip(rows, channels, strict=True):
            row[channel, state.coordinates[0]] = 1.0
        return rows.flatten(1)

    def accuracy(rows: Tensor) -> float:
        return float(outcome(model, trained.test, region, rows).target.mean())

    planted, decoys = coordinates(*state.channels), coordinates(*copied.channels)
    assert accuracy(planted) == 1.0 and share_inside(planted, read) > 0.4
    assert accuracy(decoys) == 0.0 and share_inside(decoys, read) < 1e-6 and share_inside(decoys, natural) > 0.01
    mixed = rotation(torch.cat([planted[:2] + decoys, planted[2:]]))
    assert accuracy(mixed) > 0.95, "half of two directions is dormant, and the exchange works all the same"
    assert accuracy(inside(mixed, read)) > 0.95 and accuracy(outside(mixed, read)) == 0.0


def test_parts_of_a_subspace_are_its_projections() -> None:
    axes = torch.eye(6, dtype=torch.float64)
    rows = torch.stack([(axes[0] + axes[3]) / 2**0.5, axes[1]])
    assert share_inside(rows, axes[:2]) == pytest.approx(0.75)
    assert principal_cosines(inside(rows, axes[:2]), axes[:2]) == pytest.approx([1.0, 1.0])
    assert outside(rows, axes[:2]).abs() == pytest.approx(axes[3:4])
    assert len(inside(rows, axes[4:])) == 0 and len(outside(rows, axes)) == 0


def test_spans_hold_the_share_that_they_are_asked_for() -> None:
    values = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0])).double()
    sizes = [len(span(values, share, centred=False)) for share in (0.5, 9 / 14 + 1e-6, 13 / 14 + 1e-6, 1.0)]
    assert sizes == [1, 2, 3, 3]
    constant = torch.ones(5, 3, dtype=torch.float64)
    assert len(span(constant, 0.9, centred=True)) == 0 and len(span(constant, 0.9, centred=False)) == 1


def test_subspaces_have_orthonormal_rows_and_random_ones_prefer_no_direction() -> None:
    drawn = [random_subspace(3, 12, seed) for seed in range(400)]
    for rows in drawn[:5]:
        assert (rows @ rows.T - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    mean = torch.stack([rows.T @ rows for rows in drawn]).mean(0)
    assert (mean - torch.eye(12, dtype=torch.float64) * 3 / 12).abs().max() < 0.06
    values = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ drawn[0]
    assert min(principal_cosines(principal_subspace(values, 3), drawn[0])) > 1 - 1e-12


def test_learning_goes_on_where_it_was_interrupted_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = copy_model()
    trained, region = sides(model, "relay", "resid_post")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        raise Stop

    schedule = Schedule(20, 16, 0.1, checkpoint_every=8)
    with pytest.raises(Stop):
        align("a", model, trained.train, region, 2, schedule=schedule, seed=4, folder=tmp_path, progress=stop)
    resumed = align("a", model, trained.train, region, 2, schedule=schedule, seed=4, folder=tmp_path)
    whole = align("b", model, trained.train, region, 2, schedule=schedule, seed=4)
    assert torch.equal(resumed.subspace, whole.subspace) and resumed.losses == whole.losses
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_site_is_cut_into_runs_of_channels() -> None:
    place = Place(0, "h", "blocks.0.mixer.h", (10, 4))
    cut = regions(place, 3)
    assert [(one.start, one.stop) for one in cut] == [(0, 3), (3, 7), (7, 10)] and cut[1].shape == (4, 4)
    assert [one.label for one in cut][0] == "blocks.0.mixer.h[0:3]" and regions(place, 1)[0].label == place.name
    assert len(regions(place, 99)) == 10 and dataclasses.is_dataclass(SEARCH)
