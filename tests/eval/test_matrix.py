"""Several steerings in one folder: each as if it were alone, with p-values corrected across them."""

from __future__ import annotations

import json

import pytest
from mplat.core.errors import UsageError
from mplat.eval import matrix
from mplat.eval.eval_config import EvalConfig
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
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


def test_all_is_every_variant_whose_model_ships():
    made = matrix.cells(EvalConfig.model_validate({"steering": {"variant": "all"}}))
    assert {"mamba", "mamba2", "dense_mamba", "moe_mamba", "hyena", "striped_hyena", "stable_mamba"} <= set(made)
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
