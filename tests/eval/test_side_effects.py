"""What the price says about an edit, against plain formulas."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from mplat.eval import side_effects
from mplat.eval.conditions import PLAIN, Condition
from mplat.eval.price import summarise_price
from mplat.eval.schema import PRICE_SCHEMA
from mplat.eval.side_effects import PriceWorker
from mplat.eval.summary import measure, values_of
from mplat.models import Scale
from mplat.scoring.statistics import Resampling
from mplat.steering import Recipe
from mplat.steering.divergence import compare
from mplat.steering.dose import DoseMeter
from mplat.steering.part import Part
from planted_models import talking

ROWS = [[5, 9, 2, 7, 7, 3], [4, 4, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def model():
    return talking()


class Scaled:
    """In place of a recipe: two channels of one layer's output."""

    def __init__(self, *factors):
        self.factors = factors

    def everywhere(self):
        return self

    def edits(self, *_, **__):
        return [Scale("blocks.1.mixer_out", factor, channels=(3, 11)) for factor in self.factors]


class Made(Condition):
    """A condition whose columns do not depend on how recipes are written down."""

    def fields(self):
        return {"condition": self.name, "family": self.family, "draw": self.draw}


def steered(*factors, name="steered"):
    return Made(name, name, Scaled(*factors))


def item(i, condition, **more):
    return {"text_id": f"t{i}", "document": f"d{i}", "text_source": "made up", "model": "m", "variant": "mamba",
            "tokens": ROWS[i], "n_bytes": 4, "condition": condition} | more  # fmt: skip


def test_rows_are_those_of_each_text_alone_and_the_unsteered_pass_runs_once(model, monkeypatch):
    condition = steered(3.0)
    calls = []
    real = side_effects.read_logits

    def counted(model, rows):
        calls.append(len(rows))
        return real(model, rows)

    monkeypatch.setattr(side_effects, "read_logits", counted)
    again = steered(0.5, name="control_random_0")
    worker = PriceWorker(model, [PLAIN, condition, again], separators=[3])
    items = [item(i, c) for c in ("unsteered", "steered", "control_random_0") for i in range(3)]
    rows = worker.run({"items": items}).to_pylist()
    assert calls == [3, 3, 3]  # the unsteered pass, and one for each of the two edits
    assert [(r["text_id"], r["condition"]) for r in rows] == [(i["text_id"], i["condition"]) for i in items]
    assert all((r["kl"], r["top1_agreement"], r["edit_norm"]) == (0.0, 1.0, 0.0) for r in rows[:3])
    assert all(r["kl"] > 0 for r in rows[3:])
    for number, row in enumerate(rows[3:6]):
        base = real(model, [ROWS[number]])[0]
        with model.edit(*condition.recipe.edits(model)):
            edited = real(model, [ROWS[number]])[0]
        targets = torch.tensor(ROWS[number][1:])
        expected = compare(base, edited, targets, targets != 3)
        got = (row["nll"], row["kl"], row["top1_agreement"], row["bits_per_byte"] * 4 * math.log(2))
        assert got == pytest.approx(expected, rel=1e-4)
        dose = DoseMeter(model, [ROWS[number]]).of(condition.recipe.everywhere().edits(model)).norm
        assert row["edit_norm"] == pytest.approx(dose, rel=1e-5)
        assert row["n_tokens"] == len(ROWS[number]) - 1


def test_a_recipe_of_some_positions_and_one_phase_is_read_at_every_token(model):
    part = Part("scale_channels", "mixer_out", (1,), 3.0, channels=(3, 11), positions="last", phase="decode")
    whole = dataclasses.replace(part, positions="all", phase="both")
    rows = {}
    for name, of in (("some", part), ("all", whole)):
        worker = PriceWorker(model, [PLAIN, Made(name, name, Recipe((of,), model.digest))])
        rows[name] = worker.run({"items": [item(0, name)]}).to_pylist()[0]
    assert rows["some"]["kl"] == rows["all"]["kl"] > 0


def test_scores_that_are_not_finite_are_a_status(model):
    worker = PriceWorker(model, [PLAIN, steered(1e38, 1e38)])
    rows = worker.run({"items": [item(0, "unsteered"), item(0, "steered")]}).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "model_nonfinite"]
    assert all(rows[1][name] is None for name in ("nll", "kl", "bits_per_byte", "top1_agreement"))


def test_the_summary_counts_documents_and_pools_bytes():
    how = Resampling(0, 0.95, 200)
    rows = [
        {"text_id": f"t{i}", "document": document, "text_source": "made up", "family": family, "condition": family,
         "draw": None, "n_bytes": size, "nll": 1.0, "bits_per_byte": bits + (family == "steered"), "kl": 0.1,
         "edit_norm": 0.5,
         "top1_agreement": 0.9, "status": "ok"}
        for i, (document, size, bits) in enumerate([("a", 10, 1.0), ("a", 30, 3.0), ("b", 60, 2.0)])
        for family in ("unsteered", "steered")
    ]  # fmt: skip
    families, compared = ["unsteered", "steered"], [("steered", "unsteered")]
    price = summarise_price(rows, families, how, lambda r, u, m: measure(values_of(r, u, m), families, compared, how))
    assert (price.texts, price.documents, price.source) == (3, 2, "made up")
    assert price.bits_per_byte["unsteered"].mean == pytest.approx((10 * 1 + 30 * 3 + 60 * 2) / 100)
    assert price.bits_per_byte["steered"].mean == pytest.approx(price.bits_per_byte["unsteered"].mean + 1)
    assert price.text_bits_per_byte.conditions["unsteered"].mean == pytest.approx(2.0)  # of documents: 2 and 2
    assert price.kl.differences["steered-unsteered"].n == 2
    rows[0]["status"], rows[0]["bits_per_byte"] = "model_nonfinite", None
    price = summarise_price(rows, families, how, lambda r, u, m: measure(values_of(r, u, m), families, compared, how))
    assert price.bits_per_byte["steered"].mean == pytest.approx((30 * 3 + 60 * 2) / 90 + 1)
    assert price.failed == 1
    assert {"document", "text_source", "kl", "top1_agreement", "bits_per_byte"} <= set(PRICE_SCHEMA.names)
