"""Whether what is measured of a text is a property of the text, or of the kind of text: intraclass correlations.

Each text gives numbers for each block, for all of its tokens and for each half of them (of one run: the second half is
read after the first). Of each number, the intraclass correlation ICC(1,1) of one-way random effects, and ICC(1,k) of
means (`scoring.statistics.intraclass`; Shrout and Fleiss 1979, McGraw and Wong 1996), of

- `halves`: the two halves of a text; near 1, the texts differ among themselves and each keeps its value, near 0 the
  number says nothing of the text that its other half would confirm. Second halves may differ from first ones as such,
  which makes it small or negative: `halves_in_order` takes both halves' means over all texts out, ICC(3,1), ICC(3,k);
- `kind`: the texts of one kind of question, its category and hops; `group`: the questions of one document or entity.

The F interval supposes normal values, and is approximate for groups of unequal sizes; `resampled` is a bootstrap over
groups. p_permuted shuffles values over groups and supposes nothing. Many numbers depend on a text's length, and kinds
of questions differ in it: the row `length` says by how much, and an ICC by kind is no evidence of more unless it is
larger.

Parts: `consistency`, `texts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ...scoring.statistics import groups_differ_p, intraclass
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, TablePart, View
from ..methods.along_texts import along_texts
from ..methods.attention_shape import attention_shape
from ..methods.autocorrelation import autocorrelation
from ..methods.components import components
from ..methods.hidden_attention import scan_attention
from ..methods.over_texts import Rows
from ..methods.question_halves import group_of
from ..methods.recurrences import LayerRecurrence, recurrences_of, scans_of
from ..methods.superposition import spectrum
from ..methods.typed_tensors import lengths as norms
from ..methods.typed_tensors import singular_values
from .ssm_attention import chosen_units

if TYPE_CHECKING:
    from ...models import LanguageModel

OUTPUT = "mixer_out"
#: what is measured of a text: of the block's output, then of its recurrence
OF_OUTPUT = {
    "norm": "mean length of the block's output",
    "sparsity": "Hoyer sparsity of the block's output, mean over tokens",
    "effective_rank": "of the output's vectors around their mean, over the number of tokens",
    "autocorrelation": "of the output, from one token to the next",
}
OF_RECURRENCE = {
    "delta": "mean Delta",
    "horizon": "mean over units of ln(1 / (mean Delta |A|)), the slowest coordinate of each",
    "write": "mean length of what a token writes into a unit's state",
    "attention_entropy": "of the hidden attention, 0 one token, 1 all alike, mean over tokens and units",
}
MEASURES = {"length": "tokens of the text; a measure of no block"} | OF_OUTPUT | OF_RECURRENCE
STRETCHES = ("whole", "first", "second")
GROUPINGS = ("halves", "halves_in_order", "kind", "group")
_FEWEST = 4  # tokens of a half


class Settings(StepSettings):
    small = {"resamples": 100, "units": 2}

    units: int = Field(4, ge=1)
    """channels or heads, at equal steps, whose hidden attention is looked at: every pair of tokens meets in each"""
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)


_KEYS = [
    column("layer", pa.int32(), "block; null for the text's length"),
    column("site", pa.string(), "what is measured: the block's output, or where the recurrence stands; null for the "
           "text itself, and where there is none"),
    column("measure", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items())),
]  # fmt: skip
CONSISTENCY_SCHEMA = pa.schema([
    *_KEYS,
    column("by", pa.string(), "halves of a text; halves_in_order, less what all first (second) halves have in common; "
           "or texts by kind of question, or by group: document or entity"),
    column("icc", pa.float64(), "ICC(1,1), for halves_in_order ICC(3,1): of a single half or text; below 0 there is no "
           "consistency"),
    column("icc_low", pa.float64(), "lower end of its F interval"),
    column("icc_high", pa.float64(), "upper end"),
    column("resampled_low", pa.float64(), "lower end of its bootstrap interval over groups"),
    column("resampled_high", pa.float64(), "upper end"),
    column("icc_mean", pa.float64(), "ICC(1,k), ICC(3,k): of the mean of a group"),
    column("icc_mean_low", pa.float64(), "lower end of its F interval; null where it has none"),
    column("icc_mean_high", pa.float64(), "upper end"),
    column("k", pa.float64(), "values of a group, or what stands for it where groups differ in size"),
    column("p", pa.float64(), "of F: groups do not differ"),
    column("p_permuted", pa.float64(), "the same by shuffling values over groups"),
    column("groups", pa.int32(), "groups: texts for halves, else kinds or documents"),
    column("n_values", pa.int32(), "values in them"),
    column("n_nonfinite", pa.int32(), "texts left out because a value was not finite"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value"),
])  # fmt: skip
TEXTS_SCHEMA = pa.schema([
    column("id", pa.string(), "the text"), *_KEYS,
    *(column(name, pa.float64(), f"the measure over the {name} text" if name == "whole" else
             f"over its {name} half; null where that is too short") for name in STRETCHES),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable"),
])  # fmt: skip
BATCH_SCHEMA = pa.schema([*TEXTS_SCHEMA, pa.field("reason", pa.string())])

_NAMES = {"effective_rank": "effective rank", "attention_entropy": "attention's entropy", OUTPUT: "output"}
VIEW = View(
    "What is a property of a text",
    "Intraclass correlations with F intervals: of the two halves of a text, and of texts of one kind. 1: all "
    "that differs, differs between texts (kinds); 0: nothing does. Compare kinds with the row for length.",
    (
        BarPart(
            part="consistency", x="measure", y="icc", low="icc_low", high="icc_high", group="layer",
            only={"status": "ok", "by": "halves_in_order"}, title="Halves of a text, in order", label="ICC(3,1)",
            words=_NAMES,
        ),
        BarPart(
            part="consistency", x="measure", y="icc", low="icc_low", high="icc_high", group="layer",
            only={"status": "ok", "by": "kind"}, title="Texts of one kind of question", label="ICC(1,1)",
            words=_NAMES,
        ),
        TablePart(
            part="consistency", title="Intraclass correlations", only={"status": "ok"}, sort=("by", "measure"),
            columns=(
                Column("by"), Column("measure"), Column("layer", absent="–"), Column("site", absent="–"),
                Column("icc", "ICC", "icc_low", "icc_high", form="signed"),
                Column("icc_mean", "of the mean", "icc_mean_low", "icc_mean_high", form="signed"), Column("k"),
                Column("p_permuted", "p", form="p"), Column("groups"), Column("n_values", "values"),
            ),
            words=SITE_WORDS | _NAMES,
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass; attention of a few units, singular values, and bootstraps."""
    pairs = float(sum(length**2 for length in lengths))
    scans = [p for layer in asked.layers for p in scans_of(asked.model, layer)]
    cells = sum(min(asked.settings.units, len(p.A)) * (p.A.shape[1] + 12) for p in scans)
    seconds = 4e-9 * cells * pairs + len(asked.layers) * (0.004 * len(lengths) + 0.3)
    return Effort(2.0 * sum(lengths), of_files(2) + len(asked.layers) * (3500 + 8 * 25 * len(lengths)), seconds)


@step("text_consistency", settings=Settings, seeded=True, view=VIEW, cost=cost)
def text_consistency(job: Job) -> Tables:
    """Intraclass correlation of what is measured of texts: by their halves, by kind of question, by document."""
    settings: Settings = job.settings
    arguments = {"layers": list(job.layers), "units": settings.units}
    rows = job.map(batch_measures, BATCH_SCHEMA, arguments).to_pylist()
    rows += [
        {"id": item.id, "measure": "length", "whole": float(len(item.prompt)), "status": GOOD} for item in job.items
    ]
    names = list(MEASURES)
    rows.sort(key=lambda row: (names.index(row["measure"]), row.get("layer") or 0, row.get("site") or ""))
    labels = {
        "kind": {item.id: item.kind for item in job.items},
        "group": {item.id: group_of(item) for item in job.items},
    }
    cells: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        cells.setdefault(tuple(row.get(name) for name in ("layer", "site", "measure")), []).append(row)
    made: Rows = []
    for (layer, site, measure), of_cell in cells.items():
        about = {"layer": layer, "site": site, "measure": measure}
        for by in GROUPINGS if layer is not None else GROUPINGS[2:]:
            made.append(about | {"by": by} | _consistency(of_cell, by, labels.get(by, {}), job))
    texts = [{name: row.get(name) for name in TEXTS_SCHEMA.names} for row in rows]
    return {
        "consistency": pa.Table.from_pylist(made, schema=CONSISTENCY_SCHEMA),
        "texts": pa.Table.from_pylist(texts, schema=TEXTS_SCHEMA),
    }


def _consistency(rows: Rows, by: str, labels: Mapping[str, str | None], job: Job) -> dict[str, Any]:
    settings: Settings = job.settings
    good = [row for row in rows if row["status"] == GOOD]
    lost = sum(row["status"] == "model_nonfinite" for row in rows)
    if not good:
        first = next((row for row in rows if row["status"] == "model_nonfinite"), rows[0])
        return {"n_nonfinite": lost, "status": first["status"], "reason": first.get("reason")}
    halves: list[str] | None = None
    if by.startswith("halves"):
        kept = [row for row in good if row["first"] is not None and row["second"] is not None]
        values = [row[half] for row in kept for half in STRETCHES[1:]]
        groups = [row["id"] for row in kept for _ in STRETCHES[1:]]
        halves = [half for _ in kept for half in STRETCHES[1:]] if by == "halves_in_order" else None
    else:
        kept = [row for row in good if row["whole"] is not None and labels[row["id"]] is not None]
        values, groups = [row["whole"] for row in kept], [str(labels[row["id"]]) for row in kept]
    found = intraclass(
        values, groups, seed=job.seed, occasions=halves, confidence=settings.confidence, n_resamples=settings.resamples
    )
    counts = {"groups": found.groups, "n_values": found.n, "n_nonfinite": lost}
    if found.single is None:
        reason = "there are no two groups of which one has two values, or nothing varies"
        return counts | {"status": NOT_APPLICABLE, "reason": reason}
    return counts | {
        "icc": found.single, "icc_low": found.single_low, "icc_high": found.single_high,
        "resampled_low": found.resampled_low, "resampled_high": found.resampled_high, "icc_mean": found.average,
        "icc_mean_low": found.average_low, "icc_mean_high": found.average_high, "k": found.size, "p": found.p,
        "p_permuted": groups_differ_p(
            groups, values, seed=job.seed, n_draws=settings.resamples, strata=halves
        ), "status": GOOD,
    }  # fmt: skip


@torch.no_grad()
def batch_measures(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each text, block and measure."""
    layers = arguments["layers"]
    found = {layer: recurrences_of(model, layer) for layer in layers}
    rows: Rows = []
    for number, item, values in along_texts(model, batch, [[f"blocks.{layer}.{OUTPUT}"] for layer in layers]):
        (output,) = values.values()
        at = {"id": item.id, "layer": layers[number]}
        rows += _rows(at | {"site": OUTPUT}, OF_OUTPUT, output, lambda part, x=output: _of_output(x[part].double()))
        if not found[layers[number]]:
            rows += [at | {"measure": name, "status": NOT_APPLICABLE, "reason": "the block has no recurrence"}
                     for name in OF_RECURRENCE]  # fmt: skip
    places = [place for of in found.values() for place in of]
    for number, item, values in along_texts(model, batch, [place.inputs for place in places]):
        place = places[number]
        at = {"id": item.id, "layer": place.layer, "site": place.site}
        whole = torch.cat([value.flatten(1) for value in values.values()], 1)
        seen = _along(place, values, arguments["units"]) if bool(torch.isfinite(whole).all()) else {}
        rows += _rows(at, OF_RECURRENCE, whole, lambda part, s=seen, p=place: _of_recurrence(p, s, part))
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _rows(at: dict[str, Any], names: Mapping[str, str], values: Tensor, of: Any) -> Rows:
    """A row for each measure. of: part of the text -> measure -> number."""
    length = len(values)
    if not bool(torch.isfinite(values).all()):
        why = {"status": "model_nonfinite", "reason": "a value is not finite"}
        return [at | {"measure": name} | why for name in names]
    parts = {"whole": slice(0, length)}
    if length >= 2 * _FEWEST:
        parts |= {"first": slice(0, length // 2), "second": slice(length // 2, length)}
    measured = {name: of(part) for name, part in parts.items()}
    rows: Rows = []
    for name in names:
        row = {part: known[name] for part, known in measured.items() if name in known}
        reason = "this recurrence has no such quantity, or nothing varies in the text"
        rows.append(at | {"measure": name} | (row | {"status": GOOD} if "whole" in row
                                              else {"status": NOT_APPLICABLE, "reason": reason}))  # fmt: skip
    return rows


def _of_output(x: Tensor) -> dict[str, float]:
    """`OF_OUTPUT` of vectors (T, C)."""
    size, width = norms(x), x.shape[1]
    found = {"norm": float(size.mean())}
    if bool((size > 0).all()) and width > 1:
        found["sparsity"] = float(((width**0.5 - x.abs().sum(1) / size) / (width**0.5 - 1)).mean())
    if len(x) > 1 and (ranks := spectrum(singular_values(x - x.mean(0)))) is not None:
        found["effective_rank"] = ranks.effective_rank / len(x)
    if one := autocorrelation(x.cpu().numpy(), [1]):
        found["autocorrelation"] = one[0].pooled
    return found


def _along(place: LayerRecurrence, values: Mapping[str, Tensor], units: int) -> dict[str, NDArray[np.float64]]:
    """What is averaged over the tokens of a text, (T, U) each."""
    seen = components(place, values)
    found = {name: seen[name] for name in ("delta", "write") if name in seen}
    if place.of.outputs and not place.of.A.is_complex():
        scan = place.rebuild({name: value[None] for name, value in values.items()})
        chosen = chosen_units(len(place.A), units).to(scan.x.device)
        found["attention_entropy"] = attention_shape(scan_attention(scan, chosen))["entropy"]
    return found


def _of_recurrence(place: LayerRecurrence, seen: Mapping[str, NDArray[np.float64]], part: slice) -> dict[str, float]:
    """`OF_RECURRENCE` of a part of a text, as far as this kind of recurrence has them."""
    found: dict[str, float] = {}
    for name, values in seen.items():
        here = values[part]
        known = here[np.isfinite(here)]
        if len(known):
            found[name] = float(known.mean())
    slowest = place.rate.min(1).values.numpy()
    if "delta" in seen and (slowest > 0).all() and (pace := seen["delta"][part].mean(0)).all():
        found["horizon"] = float(-np.log(pace * slowest).mean())
    return found
