"""Several steerings in one folder: each as if it were alone, with p-values corrected across them."""

from __future__ import annotations

import json

import pytest
from mplat.core.errors import UsageError
from mplat.eval import matrix
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.models import lending
from mplat.runtime import open_session
from mplat.scoring.statistics import holm
from mplat.steering import find_variant
from planted_models import talking
from recipes import scaled


def config(folder, name):
    values = {
        "model": str(folder / "model"), "per_level": 4, "max_new_tokens": 2, "draws": 1, "resamples": 100,
        "price_limit": 4, "controls": ["random"], "steering": {"variant": name},
    }  # fmt: skip
    return EvalConfig.model_validate(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from mplat.models import load

    place = tmp_path_factory.mktemp("matrix")
    talking("mamba").save(place / "model")
    model = load(place / "model")
    for name, strength in (("twice", 2.0), ("half", 0.5)):
        scaled(model, (0, 1, 2), strength).save(place / f"{name}.json")
    return place


@pytest.mark.slow
def test_every_cell_is_what_it_is_alone_and_p_values_are_corrected_across_them(folder):
    names = [str(folder / "twice.json"), str(folder / "half.json")]
    wanted = config(folder, ",".join(names))
    plans = {name: prepare(cell) for name, cell in matrix.cells(wanted).items()}
    assert list(plans) == ["twice", "half"]
    with open_session("none") as session:
        found, rows = matrix.evaluate_all(matrix.Matrix(wanted, plans), out=folder / "out", session=session)
        alone = evaluate(plans["half"], out=folder / "alone", session=session)
    assert found["half"].summary == alone.summary
    assert json.loads((folder / "out" / "matrix.json").read_text())["cells"] == rows
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    assert [row["verdict"] for row in rows] == [result.summary.verdict.kind for result in found.values()]
    assert (folder / "out" / "cells" / "twice" / "items.parquet").is_file()


def searching(folder, names, **more):
    own = {"variant": names, "sites": ["mixer_out"], "layers": [1], "budget": 300_000, **more}
    return config(folder, names).model_copy(update={"steering": EvalConfig.model_validate({"steering": own}).steering})


@pytest.mark.slow
def test_searches_are_done_side_by_side_and_find_what_each_evaluation_finds_alone(folder, monkeypatch):
    from mplat.eval.experiment import Experiment

    wanted = searching(folder, "mamba,general")
    plans = {name: prepare(cell) for name, cell in matrix.cells(wanted).items()}
    with open_session("none") as session:
        alone = {name: evaluate(plan, out=folder / f"{name}-alone", session=session) for name, plan in plans.items()}
        monkeypatch.setattr(Experiment, "_search", None)  # no evaluation searches again
        found, _ = matrix.evaluate_all(matrix.Matrix(wanted, plans), out=folder / "searched", session=session)
    for name in plans:
        assert found[name].recipe == alone[name].recipe and found[name].said == alone[name].said
        files = [folder / f"{name}-alone", folder / "searched" / "cells" / name]
        one, two = ((place / "search.parquet").read_bytes() for place in files)
        assert one == two
    assert lending._LENT.keys().isdisjoint(plan.model.digest for plan in plans.values()), "nothing is kept"


@pytest.mark.slow
def test_a_search_that_cannot_be_done_is_left_to_its_evaluation_to_say(folder, monkeypatch):
    wanted = searching(folder, "mamba,general")
    plans = {name: prepare(cell) for name, cell in matrix.cells(wanted).items()}

    def search_all(plans, run):
        return {}

    monkeypatch.setattr(matrix, "search_all", search_all)
    with open_session("none") as session:
        found, rows = matrix.evaluate_all(matrix.Matrix(wanted, plans), out=folder / "again", session=session)
    assert all(result.said is not None for result in found.values()) and len(rows) == 2


def test_all_is_every_variant_whose_model_ships():
    made = matrix.cells(EvalConfig.model_validate({"steering": {"variant": "all"}}))
    assert {"mamba", "mamba2", "dense_mamba", "moe_mamba", "hyena", "striped_hyena", "stable_mamba", "miniplm"} <= set(
        made
    )
    assert not {"none", "general", "falcon_mamba", "transformer"} & set(made)
    assert all(find_variant(name).default_model for name in made)


def test_with_a_model_all_is_every_variant_that_fits_it(folder):
    made = matrix.cells(config(folder, "all"))
    assert set(made) == {"general", "mamba", "miniplm"}
    assert [prepare(cell).variant.name for cell in made.values()] == list(made)


def test_a_name_that_stands_twice_is_refused(folder):
    with pytest.raises(UsageError, match="a name stands there twice"):
        matrix.cells(config(folder, "mamba,mamba"))


def test_two_recipes_of_one_name_are_not_silently_one(folder):
    with pytest.raises(UsageError, match=r"a/r.json and b/r.json would both be written to cells/r; rename one"):
        matrix.cells(config(folder, "a/r.json,b/r.json"))
