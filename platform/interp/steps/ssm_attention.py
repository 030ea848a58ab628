"""A recurrence's own quantities against the attention that it amounts to: what Delta, B, C, decay and write say of it.

The attention is the exact one of `methods.hidden_attention`: the weights with which the scan's output at a token reads
what each earlier one wrote. Their shape (`methods.attention_shape`) is taken for each token of a text and each unit,
then correlated over the text's tokens with the sizes of `methods.components`: rank correlations, alone and with the
token's position held fixed, since later tokens have more to read. Means over units make a text's value.

Beside them the same with the component's tokens in another order, one draw a text. `p` is of sign flips of the prompts'
partial correlations, after Holm over everything in the table. That Delta and decay go with the attention is so by the
formula: what the table tells is how much of each measure each quantity accounts for, and where it does not.

All pairs of tokens meet for every unit, so that `texts` prompts, spread evenly, and `units` units are looked at.

Parts: `attention`, the measures; `vectors`, the mean attention by distance; `over_time`, measures along the text;
`correlations`.
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

from ...runtime.plan import digest_of
from ...scoring.statistics import Resampling, holm, sign_flip_p
from ..engine.batches import Batch, spread
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.along_texts import along_texts, finite
from ..methods.attention_shape import MEASURES, attention_shape, by_distance, shares
from ..methods.components import COMPONENTS, components
from ..methods.hidden_attention import BLOCK_BYTES, scan_attention
from ..methods.over_texts import STATUS, Rows, averaged, interval_columns, number_or_none
from ..methods.recurrences import LayerRecurrence, Scan, scans_of
from ..methods.token_correlation import TOKENS_EACH, of_ranks, ranked

if TYPE_CHECKING:
    from ...models import LanguageModel

NO_SCAN = "the block has no selective scan of its own states alone"
CONSTANT = "it does not vary in this recurrence"
TOO_SHORT = "the text is too short, or nothing varies in it"
#: distances in tokens, first and last
DISTANCES = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 10**9))
#: parts of a text in which measures are averaged for `over_time`
STRETCHES = 8
#: random signs behind a p-value for each resample of an interval: it has to stay small times the number of rows
FLIPS = 20
_R = ("r", "partial", "shuffled")


class Settings(StepSettings):
    small = {"resamples": 100, "texts": 4, "units": 6}

    texts: int = Field(32, ge=1)
    """prompts that are looked at, spread evenly over the questions"""
    units: int = Field(32, ge=1)
    """channels or heads of each recurrence that are looked at, at equal steps"""
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
]
_MEASURE = column("measure", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items()))
_VALUE = interval_columns("value", "mean over units and tokens")
ATTENTION_SCHEMA = pa.schema([*_PLACE, _MEASURE, *_VALUE, *STATUS])
VECTORS_SCHEMA = pa.schema([
    *_PLACE,
    column("distance", pa.int32(), "tokens back, at least; the next row says up to where"),
    *interval_columns("share", "share of what a token reads at these distances, mean over units and tokens, of "
                      "prompts that are longer"),
    *STATUS,
])  # fmt: skip
OVER_TIME_SCHEMA = pa.schema([
    *_PLACE, _MEASURE,
    column("stretch", pa.int32(), f"part of the text, of {STRETCHES} as long ones, from 0"),
    *_VALUE, *STATUS,
])  # fmt: skip
CORRELATIONS_SCHEMA = pa.schema([
    *_PLACE,
    column("component", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in COMPONENTS.items())),
    _MEASURE,
    *interval_columns("r", "rank correlation over tokens, mean over units"),
    *interval_columns("partial", "the same with the token's position held fixed"),
    *interval_columns("shuffled", "the partial one with the component's tokens in another order"),
    column("p", pa.float64(), "two-sided sign-flip p-value over prompts of the partial one"),
    column("p_holm", pa.float64(), "corrected for all rows of this table"),
    *STATUS,
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("part", pa.string()), ("layer", pa.int32()), ("site", pa.string()),
    ("component", pa.string()), ("measure", pa.string()), ("distance", pa.int32()), ("stretch", pa.int32()),
    *((name, pa.float64()) for name in ("value", "share", *_R)), ("status", pa.string()), ("reason", pa.string()),
])  # fmt: skip

VIEW = View(
    "Delta, B, C and decay against hidden attention",
    "The scan of each block written as attention, exactly, and rank correlations over tokens of its shape with the "
    "recurrence's own quantities, token positions held fixed. Intervals are over prompts. Some of it holds by the "
    "formula; none of it says what the answer needs.",
    (
        MapPart(
            part="correlations", rows="component", columns="layer", value="partial", only={"status": "ok"},
            each=("measure", "site"), scale="signed", title="{measure} of attention, {site}",
            label="partial correlation",
        ),
        LinePart(
            part="vectors", x="distance", y="share", low="share_low", high="share_high", group="layer",
            only={"status": "ok"}, each=("site",), title="Attention by distance, {site}", x_label="tokens back",
            label="share of what is read",
        ),
        LinePart(
            part="over_time", x="stretch", y="value", low="value_low", high="value_high", group="layer",
            only={"status": "ok", "measure": ("entropy", "reach", "change")}, each=("measure", "site"),
            title="{measure} along the text, {site}", x_label="eighth of the text",
        ),
        TablePart(
            part="attention", title="Shape of the attention", only={"status": "ok"},
            columns=(Column("layer"), Column("site"), Column("measure"),
                     Column("value", "mean", "value_low", "value_high"), Column("n_prompts", "prompts")),
        ),
        TablePart(
            part="correlations", title="Correlations", only={"status": "ok"}, sort=("p_holm", "-partial"), top=40,
            columns=(
                Column("layer"), Column("site"), Column("component"), Column("measure"),
                Column("r", "plain", "r_low", "r_high", form="signed"),
                Column("partial", "at a fixed position", "partial_low", "partial_high", form="signed"),
                Column("shuffled", "shuffled", form="signed"), Column("p_holm", "p", form="p"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Every pair of tokens of the chosen texts meets in every unit and coordinate."""
    settings: Settings = asked.settings
    few = spread_lengths(lengths, settings.texts)
    cells = sum(
        min(settings.units, len(p.A)) * (p.A.shape[1] + 12) for layer in asked.layers
        for p in scans_of(asked.model, layer)
    )  # fmt: skip
    pairs = float(sum(length**2 for length in few))
    return Effort(1.5 * sum(few), of_files(4) + 16_000 * len(asked.layers), 7e-9 * cells * pairs + 0.1)


def spread_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """Those of the items that `spread` chooses."""
    count = min(count, len(lengths))
    return [lengths[i * len(lengths) // count] for i in range(count)]


@step("ssm_attention", settings=Settings, seeded=True, view=VIEW, cost=cost)
def ssm_attention(job: Job) -> Tables:
    """Shape of each block's hidden attention, and how Delta, B, C, decay and write go with it over tokens."""
    settings: Settings = job.settings
    how = Resampling(job.seed, settings.confidence, settings.resamples)
    chosen = [item.id for item in spread(job.items, settings.texts)]
    arguments = {"ids": chosen, "layers": list(job.layers), "units": settings.units, "seed": job.seed}
    rows = job.map(batch_attention, BATCH_SCHEMA, arguments).to_pylist()
    rows.sort(key=lambda row: (row["layer"], row["site"]))
    without: Rows = [
        {"layer": layer, "n_prompts": 0, "status": NOT_APPLICABLE, "reason": NO_SCAN} for layer in job.layers
        if not scans_of(job.model, layer)
    ]  # fmt: skip
    kinds = {
        "attention": (("measure",), ("value",), ATTENTION_SCHEMA),
        "vectors": (("distance",), ("share",), VECTORS_SCHEMA),
        "over_time": (("measure", "stretch"), ("value",), OVER_TIME_SCHEMA),
        "correlations": (("component", "measure"), _R, CORRELATIONS_SCHEMA),
    }
    tables: dict[str, pa.Table] = {}
    for part, (keys, values, schema) in kinds.items():
        here = [row for row in rows if row["part"] == part]
        made = averaged(here, ("layer", "site", *keys), values, how)
        if part == "correlations":
            _test(made, here, how)
        tables[part] = pa.Table.from_pylist(made + without, schema=schema)
    return tables


def _test(made: Rows, rows: Rows, how: Resampling) -> None:
    keys = ("layer", "site", "component", "measure")
    by_cell: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if row["partial"] is not None:
            by_cell.setdefault(tuple(row[key] for key in keys), []).append(row["partial"])
    for cell in made:
        known = by_cell.get(tuple(cell[key] for key in keys), [])
        cell["p"] = sign_flip_p(known, seed=how.seed, n_draws=FLIPS * how.resamples)
    for cell, p in zip(made, holm([cell["p"] for cell in made]), strict=True):
        cell["p_holm"] = p


@torch.no_grad()
def batch_attention(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of each chosen text and scan, of all parts."""
    found = [place for layer in arguments["layers"] for place in scans_of(model, layer)]
    rows: Rows = []
    for number, item, values in along_texts(model, batch, [p.inputs for p in found], arguments["ids"]):
        place = found[number]
        at = {"id": item.id, "layer": place.layer, "site": place.site}
        if not finite(values):
            rows += [at | {"part": part, "status": "model_nonfinite", "reason": "a value is not finite"}
                     for part in ("attention", "vectors", "over_time", "correlations")]  # fmt: skip
            continue
        units = chosen_units(len(place.A), arguments["units"])
        scan = place.rebuild({name: value[None] for name, value in values.items()})
        shape, distances = shape_of(scan, units)
        rows += [
            at | {"part": "vectors", "distance": first, "share": number_or_none(share), "status": GOOD}
            for (first, _), share in zip(DISTANCES, distances, strict=True)
            if first < len(item.prompt)
        ]
        rows += _measures(at, shape)
        rng = np.random.default_rng(int(digest_of([arguments["seed"], item.id, place.prefix])[:16], 16))
        rows += _correlations(at, place, values, units, shape, rng)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def chosen_units(units: int, most: int) -> Tensor:
    """At most so many of the units, at equal steps from the first."""
    count = min(units, most)
    return torch.tensor([i * units // count for i in range(count)])


def shape_of(scan: Scan, units: Tensor) -> tuple[dict[str, NDArray[np.float64]], list[float]]:
    """Measures (T, U) of the hidden attention of these units, and its mean share at `DISTANCES`."""
    length = scan.x.shape[1]
    blocks = units.to(scan.x.device).split(max(1, BLOCK_BYTES // (8 * length**2)))
    shapes: list[dict[str, NDArray[np.float64]]] = []
    distances = np.zeros(len(DISTANCES))
    for block in blocks:
        weights = scan_attention(scan, block)
        shapes.append(attention_shape(weights))
        distances += np.array(by_distance(shares(weights), DISTANCES)) * len(block) / len(units)
    return {name: np.concatenate([one[name] for one in shapes], 1) for name in MEASURES}, distances.tolist()


def _measures(at: dict[str, Any], shape: Mapping[str, NDArray[np.float64]]) -> Rows:
    rows: Rows = []
    for name, values in shape.items():
        here = at | {"measure": name, "status": GOOD}
        rows.append(here | {"part": "attention", "value": _mean(values)})
        if len(values) >= STRETCHES:
            parts = np.array_split(values, STRETCHES)
            rows += [here | {"part": "over_time", "stretch": i, "value": _mean(p)} for i, p in enumerate(parts)]
    return rows


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _correlations(
    at: dict[str, Any], place: LayerRecurrence, values: Mapping[str, Tensor], units: Tensor,
    shape: Mapping[str, NDArray[np.float64]], rng: np.random.Generator,
) -> Rows:  # fmt: skip
    """A row for each component and measure; the first token, of which some measures say nothing, is left out."""
    length = len(shape["strength"]) - 1
    at = at | {"part": "correlations"}
    seen = {name: ranked(value[1:, units.numpy()]) for name, value in components(place, values).items()}
    measures = {name: ranked(value[1:]) for name, value in shape.items()}
    position = ranked(np.arange(length, dtype=np.float64)[:, None])
    other = rng.permutation(length)
    rows: Rows = []
    for component in COMPONENTS:
        for measure in MEASURES:
            row = at | {"component": component, "measure": measure}
            if component not in seen:
                rows.append(row | {"status": NOT_APPLICABLE, "reason": CONSTANT})
                continue
            x, y = seen[component], measures[measure]
            both = (of_ranks(x, y), of_ranks(x, y, [position]), of_ranks(x[other], y, [position]))
            known = np.isfinite(both).all(0)
            if length < 3 * TOKENS_EACH or not known.any():
                rows.append(row | {"status": NOT_APPLICABLE, "reason": TOO_SHORT})
                continue
            means = {name: float(r[known].mean()) for name, r in zip(_R, both, strict=True)}
            rows.append(row | means | {"status": GOOD})
    return rows
