"""Searches are judged on questions that they did not see, with controls, and detectors by what they are for."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from mplat.datasets.facts import LEVELS, prompts
from mplat.errors import UsageError
from mplat.eval.planted import PLANTS, Plant, benchmark, detect, find_plant, left_alone, score
from mplat.eval.planted.detecting import Detection
from mplat.eval.planted.judging import apart
from mplat.models.edits import Scale
from mplat.steering.part import Part
from mplat.steering.recipe import Recipe

NAME = "tiny-mamba2:mixer_out:1/16:0"
QUICK = {"per_level": 2, "per_level_test": 8, "draws": 2}
FEW = {**QUICK, "per_level_test": 3}  # where no share has to be significant
CONTROLS = ("random", "other_layers")  # of all there are those that say most
channels = cache(lambda: find_plant(NAME).grow().channels)


def undoing(model, questions):
    return Recipe((Part("scale_channels", "mixer_out", (0,), 16.0, channels=channels()),), model.digest)


@pytest.fixture(scope="module")
def result():
    return benchmark({"truth": undoing, "nothing": left_alone}, plants=[NAME], seeds=(0, 1), **QUICK, controls=CONTROLS)


@pytest.mark.slow
def test_the_truth_restores_everything_and_is_supported(result):
    for case in result.cases["truth"]:
        assert case.restored == 1.0 and case.steered == case.clean and case.supported
        assert (case.found, case.hits, case.planted) == (16, 16, 16) and case.sites == ("blocks.0.mixer_out",)
        assert set(case.controls) == set(CONTROLS)
        assert len(case.controls["random"]) == 2 and all((case.restored_by(c) or 0) < 0.5 for c in case.controls)


@pytest.mark.parametrize("per_level", [3, 20])
def test_no_test_question_is_about_a_person_of_the_development_side(per_level):
    development = prompts(per_level, 5, stream="planted-development")
    test = apart(development, per_level, 5)
    assert not {q.origin for q in test} & {q.origin for q in development}
    levels = Counter(q.level for q in test)
    assert set(levels) == set(LEVELS) and set(levels.values()) == {per_level}


@pytest.mark.slow
def test_a_search_that_leaves_the_model_alone_restores_nothing(result):
    for case in result.cases["nothing"]:
        assert case.restored == 0.0 and not case.supported and case.found is None and not case.controls


@pytest.mark.slow
def test_the_summary_adds_up(result):
    truth, nothing = result.summary()
    assert (truth.search, truth.seeds, truth.supported, truth.restored, truth.searched) == ("truth", 2, 2, 1.0, True)
    assert (nothing.supported, nothing.restored, nothing.control) == (0, 0.0, None)
    assert truth.damaged_share is not None and truth.damaged_share <= 0.6 and truth.p is not None and truth.p < 0.01
    tables = result.tables()
    assert tables["cases"].num_rows == 4 and tables["controls"].num_rows > 0
    assert set(tables["detectors"]["plant"].to_pylist()) == {NAME}


def test_a_harmful_edit_is_not_supported_and_edits_have_no_controls():
    def louder(model, questions):
        return [Scale("blocks.0.mixer_out", 100.0)]

    (case,) = score(louder, plants=[NAME], **FEW)
    assert not case.supported and case.restored is not None and case.restored <= 0
    assert case.found == 128 and case.hits == 16 and not case.controls and case.without


def test_recipes_at_sites_without_activity_are_judged_too():
    def slower(model, questions):
        return Recipe((Part("scale_time_constants", "mixer.A", (0,), 0.9, channels=(0, 1)),), model.digest)

    (case,) = score(slower, plants=[NAME], **FEW, controls=["random", "variance_matched"])
    assert len(case.controls["random"]) == 2 and not case.supported
    assert "the activity of the channels of blocks.0.mixer.A" in case.without["variance_matched"]


@pytest.mark.slow
def test_mending_what_is_not_damaged_is_a_false_alarm_only_where_it_helps():
    plant = find_plant("tiny-mamba2:mixer_out:carrier")
    result = benchmark({"louder": lambda model, _: [Scale("blocks.0.mixer_out", 1.01)]}, plants=[plant], **FEW)
    (case,) = result.cases["louder"]
    assert case.restored is None and case.clean == case.damaged and result.false_alarms("louder") == (0, 1)


def test_a_search_sees_neither_test_questions_nor_the_plant():
    seen = []

    def looking(model, questions):
        seen.append((model, questions))
        return []

    score(looking, plants=[NAME], seeds=(0, 1), **FEW)
    (model, first), (_, second) = seen
    assert len(first) == 12
    assert all("planted-development" in q.id for q in first)
    assert {q.prompt for q in first}.isdisjoint({q.prompt for q in second}) and not model.edits


def test_what_a_search_may_give():
    with pytest.raises(UsageError, match="Recipe or a list of edits, not str"):
        score(lambda model, questions: "more", plants=[NAME], **QUICK)
    with pytest.raises(UsageError, match="given twice"):
        benchmark({}, plants=[NAME, NAME])


@pytest.mark.slow
def test_detectors_find_what_was_made_quiet_and_spare_decoys():
    names = ["gradient_norm", "quiet_but_heard", "variance", "cosine"]
    found = {d.detector: d for d in detect([NAME], per_level=4, detectors=names)}
    assert found["gradient_norm"].verdict == "finds, as expected" and found["gradient_norm"].precision == 1.0
    assert found["quiet_but_heard"].verdict == "finds, as expected" and found["variance"].verdict == "misses"
    assert found["cosine"].right_sign is not None and found["cosine"].right_sign > 0.8
    decoys = detect(["tiny-mamba:mixer.gated:decoy"], per_level=4, detectors=["gradient_norm", "attribution_size"])
    assert [d.verdict for d in decoys] == ["spares, as expected"] * 2


def test_lift_counts_from_chance():
    half = Detection("p", "carrier", "variance", 0, planted=16, width=32, precision=0.5, recall=1.0)
    assert half.lift == 0.0 and half.verdict == "misses, against expectation"
    blind = Detection("p", "damaged", "variance", 0, planted=16, width=32, precision=None, recall=None)
    assert blind.lift is None and blind.verdict == "sees nothing"
    claimed = Detection("p", "decoy", "cosine", 0, planted=16, width=256, precision=0.5, recall=1.0)
    assert claimed.verdict == "claims, against expectation"


def test_every_architecture_and_kind_has_a_plant():
    models = {plant.model for plant in PLANTS.values() if plant.factor != 1}
    assert {"tiny-mamba", "tiny-mamba2", "tiny-dense-mamba", "tiny-moe-mamba", "tiny-hyena", "tiny-striped-hyena",
            "tiny-stable-mamba"} <= models  # fmt: skip
    assert {plant.kind for plant in PLANTS.values()} == {
        "carrier",
        "damaged",
        "loud",
        "state_only",
        "convolution_only",
        "decoy",
    }
    with pytest.raises(UsageError, match="no kind"):
        Plant("x", "other", "tiny-mamba", "mixer_out", 0, 1, 0.5)  # type: ignore[arg-type]
