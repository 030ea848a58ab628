"""The steps `circuits` and `patching` on planted models: what is planted is found, is enough and is needed, and nothing
else is; a path with a double is found to have one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa
import pytest
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.interp.engine.step import Tables
from mplat.interp.methods.candidates import Candidate
from mplat.interp.methods.circuit_graph import graph_of
from mplat.interp.methods.circuit_schema import CANDIDATES_SCHEMA
from mplat.runtime.plan import canonical_json
from planted_circuits import grown, items_of, planted_edges, planted_outputs, planted_states

GROUPS = 8
FAST: Mapping[str, Any] = {"state_groups": GROUPS, "methods": ("eap", "eap_ig"), "enough": 0.95}


@cache
def found(name: str) -> Tables:
    planted, model = grown(name)
    return run_step("circuits", model, items_of(planted, 24), batch_size=12, **FAST)


def replaced(name: str, *candidates: Candidate, **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """The tables of `patching` of these candidates, as if they had been ranked first."""
    planted, model = grown(name)
    rows = [
        {"candidate": c.name, "kind": c.name, "rank": i, "score": 1.0, "parts": canonical_json(c.to_json()),
         "status": "ok"}
        for i, c in enumerate(candidates, 1)
    ]  # fmt: skip
    upstream = {"prompts": found(name)["prompts"], "candidates": pa.Table.from_pylist(rows, schema=CANDIDATES_SCHEMA)}
    options = {"resamples": 500, "draws": 5, "controls": 5} | settings
    tables = run_step(
        "patching", model, items_of(planted, 24), batch_size=12, upstream={"circuits": upstream}, **options
    )
    return {part: table.to_pylist() for part, table in tables.items()}


def rows(tables: Tables, part: str, **only: Any) -> list[dict[str, Any]]:
    return [row for row in tables[part].to_pylist() if all(row[name] == value for name, value in only.items())]


@pytest.mark.parametrize("name", ["planted-copy-mamba", "planted-copy-mamba2"])
def test_the_circuit_that_is_found_is_the_planted_one(name: str) -> None:
    tables = found(name)
    planted, model = grown(name)
    graph = graph_of(model, range(model.n_layers), GROUPS)
    truth = {e.name for e, inside in zip(graph.edges, planted_edges(planted, graph), strict=True) if inside}
    circuit = {row["edge"] for row in rows(tables, "edges", method="eap_ig", in_circuit=True)}
    assert circuit == truth
    for row in rows(tables, "edges", method="eap_ig"):
        if row["exact"] is not None and row["edge"] not in truth:
            assert abs(row["exact"]) < 0.01
    by_test = {row["test"]: row for row in rows(tables, "tests")}
    assert by_test["random"]["statistic"] == pytest.approx(1, abs=0.02) and by_test["random"]["p"] <= 0.05
    outside = rows(tables, "minimality", element=False)
    assert by_test["minimality"]["p"] == 1 / (1 + len(outside)) and by_test["minimality"]["statistic"] > 0.1
    assert by_test["independence"]["p"] == 1.0  # without the circuit every prompt ends alike, but for rounding
    (whole,) = rows(tables, "completeness", draw=None)
    assert abs(whole["model_without"]) < 0.02 and whole["incompleteness"] < 0.02
    (missed,) = rows(tables, "false_negatives")
    assert missed["matter"] == 0


def test_rankings_by_attribution_have_larger_areas_than_random_ones() -> None:
    tables = found("planted-copy-mamba")
    areas = rows(tables, "areas")
    assert {(row["method"], row["seed"]) for row in areas} == {("eap", 0), ("eap_ig", 0), ("eap_ig", 1), ("eap_ig", 2)}
    for row in areas:
        assert row["p_cpr"] == row["p_cmd"] == 0.05 and row["n_random"] == 19
        assert row["cpr"] > row["random_cpr"] + 2 * row["random_cpr_sd"] and row["cmd"] < row["random_cmd"]
        assert row["cpr"] + row["cmd"] == pytest.approx(1, abs=0.02)  # f is never above 1 here
    curves = rows(tables, "curves", half="test")
    assert all(row["faithfulness"] == pytest.approx(1, abs=1e-6) for row in curves if row["fraction"] == 1)


def test_a_planted_circuit_is_necessary_and_sufficient_and_random_ones_are_neither() -> None:
    planted, _ = grown("planted-copy-mamba")
    tables = replaced("planted-copy-mamba", planted_states(planted), planted_outputs(planted))
    effects = {(row["candidate"].split()[1], row["how"]): row for row in tables["effects"]}
    for what in ("states", "outputs"):
        for how in ("corrupted", "patched"):
            row = effects[what, how]
            assert row["share"] == pytest.approx(1, abs=0.02) and abs(row["control_share"]) < 0.05
            assert row["verdict"] == "stronger than random" and row["n_controls"] == 5
        assert effects[what, "rest"]["share"] == pytest.approx(1, abs=0.02)  # all else may be another prompt's
        assert effects[what, "zero"]["share"] > 0.3 and effects[what, "resample"]["p_prompts"] < 0.01
    for row in tables["horizons"]:
        assert row["share"] == pytest.approx(1, abs=0.05)
    for row in tables["classes"]:
        assert row["change"] < -5 and abs(row["control_change"]) < 1 and row["accuracy_controls"] == 1.0
        assert row["accuracy"] < 0.7 and row["accuracy_clean"] == 1.0
    (pair, *_) = [row for row in tables["pairs"] if row["how"] == "corrupted"]
    assert pair["verdict"] == "in series"


def test_what_is_not_in_the_circuit_is_not_found_necessary() -> None:
    """Decoys hold the same code, where nothing reads it."""
    planted, model = grown("planted-copy-mamba")
    decoys = [part for part in planted.truth.decoys if part.coordinates]
    assert decoys
    from mplat.interp.methods.candidates import Coordinates

    candidate = Candidate(
        "decoys", "decoys", tuple(Coordinates(f"blocks.{p.layer}.mixer.", tuple(sorted(p.cells))) for p in decoys)
    )
    for row in replaced("planted-copy-mamba", candidate)["effects"]:
        if row["how"] in ("zero", "mean", "corrupted", "resample", "patched"):
            assert abs(row["share"]) < 0.02 and row["verdict"] != "stronger than random"


@pytest.mark.slow
def test_a_redundant_path_is_found_to_be_redundant() -> None:
    name = "planted-redundant-path-mamba"
    planted, _ = grown(name)
    tables = replaced(name, planted_states(planted, "a"), planted_states(planted, "b"))
    (pair,) = [row for row in tables["pairs"] if row["how"] == "zero"]
    assert pair["first_lost"] == pair["second_lost"] == 0.0
    assert pair["both_lost"] >= 1 - planted.chance - 0.1 and pair["verdict"] == "redundant"
    (single,) = [row for row in replaced("planted-copy-mamba", *_halves())["pairs"] if row["how"] == "zero"]
    assert single["verdict"] != "redundant" and single["first_lost"] > 0.5 < single["second_lost"]


def _halves() -> list[Candidate]:
    """Both states of a chain of two: neither can be missed."""
    planted, _ = grown("planted-copy-mamba")
    whole = planted_states(planted)
    return [Candidate(f"state {i}", f"state {i}", (part,)) for i, part in enumerate(whole.parts)]


def test_the_step_ranks_planted_states_and_patching_takes_them_up() -> None:
    name = "planted-copy-mamba"
    planted, model = grown(name)
    tables = found(name)
    scores = {row["candidate"]: row["score"] for row in rows(tables, "candidates", status="ok")}
    assert (
        list(scores)[0] == "coordinates of all blocks" and scores["blocks.0.mixer.h"] > 5 < scores["blocks.1.mixer.h"]
    )
    assert abs(scores["blocks.1.mixer.conv_state"]) < 1e-6  # the planted convolution sees the current token alone
    out = run_step("patching", model, items_of(planted, 24), batch_size=12, upstream={"circuits": tables}, kinds=2,
                   controls=2, draws=1, resamples=100, named=("blocks.0.mixer.h",), horizons=2)  # fmt: skip
    own = [
        row for row in out["effects"].to_pylist() if row["candidate"] == "blocks.0.mixer.h" and row["kind"] == "named"
    ]
    share = {row["how"]: row["share"] for row in own}
    assert share["corrupted"] == pytest.approx(1, abs=0.02) and share["patched"] == pytest.approx(1, abs=0.02)
    assert {row["status"] for row in own if row["how"] == "rest"} == {"not_applicable"}


def test_questions_without_a_contrast_leave_rows_that_say_so() -> None:
    model = nano("mamba")
    tables = run_step("circuits", model, token_items(6))
    for part, table in tables.items():
        for row in table.to_pylist():
            assert row["status"] == "not_applicable"
            assert not any(isinstance(value, float) for value in row.values()), part
    assert set(tables["prompts"]["reason"].to_pylist()) == {"the prompt does not state the answer"}
    out = run_step("patching", model, token_items(6), upstream={"circuits": tables})
    assert {row["status"] for table in out.values() for row in table.to_pylist()} == {"not_applicable"}


def test_settings_that_cannot_be_fulfilled_are_refused() -> None:
    model = nano("mamba")
    with pytest.raises(UsageError, match="rank_by"):
        run_step("circuits", model, token_items(2), methods=("eap",))
    with pytest.raises(UsageError, match="fractions"):
        run_step("circuits", model, token_items(2), fractions=(2.0,))
    with pytest.raises(UsageError, match="no site"):
        run_step("patching", model, token_items(2), named=("blocks.0.nothing",))


def test_the_same_arguments_give_the_same_tables_whatever_the_batches() -> None:
    planted, model = grown("planted-copy-mamba")
    items = items_of(planted, 12)
    small: Mapping[str, Any] = {**FAST, "random_circuits": 3, "outside": 3, "checked": 3, "methods": ("eap_ig",)}
    one, other = (run_step("circuits", model, items, batch_size=size, **small) for size in (12, 5))
    for part in ("edges", "areas", "tests"):
        for a, b in zip(one[part].to_pylist(), other[part].to_pylist(), strict=True):
            assert a.keys() == b.keys()
            for key, value in a.items():
                assert b[key] == (pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value)
