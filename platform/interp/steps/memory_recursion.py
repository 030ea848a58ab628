"""Whether Delta modulates what a neuron remembers and says, beyond how large its input is.

Delta stands in h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t itself, and a token with a large input can have a large
Delta too: then state and output move with Delta even where Delta decides nothing. So for each unit (channel or head)
that has a Delta of its own, over the tokens of a text, the rank correlation of Delta with

- `state_change`, the length of the change of the unit's state at this token, and
- `activation`, the size of the unit's output y,

stands beside the partial one, with the length of the unit's input |x_t| held fixed (`given`, also |B_t|). Beside both,
the partial one with Delta's tokens in another order, the same for all units, once for each text.

Some correlation with the state's change is there by the formula alone; its sign says which of Delta's two roles is the
louder, writing more (positive) or, where the state is near its input, nothing. A correlation is no effect:
`delta_sensitivity`, `bottlenecks` and tracing intervene.

Parts: `layers`, means over units; `units`. The unit of intervals is the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from ...runtime.plan import digest_of
from ...scoring.statistics import Resampling
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.along_texts import along_texts, finite
from ..methods.averages import bootstrap_means
from ..methods.components import components
from ..methods.over_texts import STATUS, Rows, averaged, interval_columns, number_or_none
from ..methods.recurrences import LayerRecurrence, recurrences_of
from ..methods.token_correlation import TOKENS_EACH, of_ranks, ranked

if TYPE_CHECKING:
    from ...models import LanguageModel

NO_DELTA = "the block has no recurrence whose Delta is chosen by the token"
NO_OUTCOME = "the recurrence's {} cannot be seen"
TOO_SHORT = "the text is too short, or nothing varies in it"
OUTCOMES = {"state_change": "length of the change of the unit's state", "activation": "size of the unit's output y"}
KINDS = ("plain", "partial", "shuffled")


class Settings(StepSettings):
    small = {"resamples": 100}

    given: Annotated[tuple[Literal["input", "B"], ...], AfterValidator(named_once)] = ("input",)
    """what is held fixed: the length of the unit's input, and of B"""
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
    column("outcome", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in OUTCOMES.items())),
]
LAYERS_SCHEMA = pa.schema([
    *_PLACE,
    *interval_columns("plain", "rank correlation of Delta and outcome over tokens, mean over units"),
    *interval_columns("partial", "the same with what is given held fixed"),
    *interval_columns("shuffled", "the partial one with Delta's tokens in another order"),
    *interval_columns("explained", "what the input takes away: plain less partial"),
    column("units", pa.int32(), "units"),
    column("beyond", pa.float64(), "share of the units whose partial one, mean over prompts, is larger in size than "
           "19 of 20 shuffled ones are; .05 by chance"),
    *STATUS,
])  # fmt: skip
UNITS_SCHEMA = pa.schema([
    *_PLACE,
    column("unit", pa.int32(), "channel (Mamba) or head (Mamba-2, Stable-Mamba)"),
    column("plain", pa.float64(), "rank correlation over tokens, mean over prompts; null where nothing varies"),
    column("partial", pa.float64(), "with what is given held fixed, mean over prompts"),
    column("partial_low", pa.float64(), "lower end of its interval over prompts"),
    column("partial_high", pa.float64(), "upper end"),
    column("shuffled", pa.float64(), "the partial one with Delta's tokens in another order, mean over prompts"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable"),
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("outcome", pa.string()),
    *((name, pa.float64()) for name in (*KINDS, "explained")),
    *((f"{name}_units", pa.list_(pa.float64())) for name in KINDS),
    ("status", pa.string()), ("reason", pa.string()),
])  # fmt: skip

_WORDS = {"state_change": "change of the state", "activation": "size of the output"}
VIEW = View(
    "Delta as a modulator of memory",
    "Rank correlations over the tokens of a text of Delta with what happens to state and output, with the input's "
    "length held fixed. Where the plain one is large and the partial one is not, it was the input. Shuffled: Delta's "
    "tokens in another order. Intervals are over prompts; a correlation is no effect.",
    (
        LinePart(
            part="layers", x="layer", y="partial", low="partial_low", high="partial_high", group="outcome",
            only={"status": "ok"}, each=("site",), title="Partial correlation with Delta, {site}",
            label="rank correlation", words=_WORDS,
        ),
        TablePart(
            part="layers", title="By layer", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("outcome"),
                Column("plain", "plain", "plain_low", "plain_high", form="signed"),
                Column("partial", "partial", "partial_low", "partial_high", form="signed"),
                Column("shuffled", "shuffled", "shuffled_low", "shuffled_high", form="signed"),
                Column("beyond", "units beyond chance"), Column("units"), Column("n_prompts", "prompts"),
            ),
            words=_WORDS,
        ),
        MapPart(
            part="units", rows="layer", columns="unit", value="partial", each=("outcome", "site"), scale="signed",
            title="Units: {outcome}, {site}", label="partial correlation", words=_WORDS,
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Passes whose states are kept, and ranks of every unit's tokens."""
    units = sum(len(p.A) for layer in asked.layers for p in _selective(asked.model, layer))
    return Effort(3.0 * sum(lengths), of_files(2) + 90 * units, 5e-7 * units * sum(lengths) + 0.05)


@step("memory_recursion", settings=Settings, seeded=True, view=VIEW, cost=cost)
def memory_recursion(job: Job) -> Tables:
    """Correlation of Delta with changes of state and output, with the input held fixed, by layer and unit."""
    settings: Settings = job.settings
    how = Resampling(job.seed, settings.confidence, settings.resamples)
    arguments = {"layers": list(job.layers), "given": list(settings.given), "seed": job.seed}
    rows = job.map(batch_modulation, BATCH_SCHEMA, arguments).to_pylist()
    order = list(OUTCOMES)
    rows.sort(key=lambda row: (row["layer"], row["site"], order.index(row["outcome"])))
    layers: Rows = []
    units: Rows = []
    for cell in averaged(rows, ("layer", "site", "outcome"), (*KINDS, "explained"), how):
        at = {name: cell[name] for name in ("layer", "site", "outcome")}
        if cell["status"] != GOOD:
            layers.append(cell)
            units.append(at | {"status": cell["status"]})
            continue
        of_units = _units([row for row in rows if row["status"] == GOOD and at.items() <= row.items()], how)
        layers.append(cell | {"units": len(of_units), "beyond": _beyond(of_units)})
        units += [at | row for row in of_units]
    for layer in (layer for layer in job.layers if not _selective(job.model, layer)):
        layers.append({"layer": layer, "n_prompts": 0, "status": NOT_APPLICABLE, "reason": NO_DELTA})
        units.append({"layer": layer, "status": NOT_APPLICABLE})
    return {
        "layers": pa.Table.from_pylist(layers, schema=LAYERS_SCHEMA),
        "units": pa.Table.from_pylist(units, schema=UNITS_SCHEMA),
    }


def _selective(model: LanguageModel, layer: int) -> list[LayerRecurrence]:
    return [place for place in recurrences_of(model, layer) if place.of.delta is not None]


def _units(rows: Sequence[Mapping[str, Any]], how: Resampling) -> Rows:
    """A row for each unit from the rows of the texts."""
    grids = {kind: np.array([row[f"{kind}_units"] for row in rows], np.float64) for kind in KINDS}
    found = {kind: bootstrap_means(grids[kind][:, known], how.confidence, how.resamples, how.seed)
             for kind in KINDS for known in [np.isfinite(grids[kind]).any(0)]}  # fmt: skip
    made: Rows = [{"unit": unit, "status": GOOD} for unit in range(grids["plain"].shape[1])]
    for kind in KINDS:
        for place, unit in enumerate(np.flatnonzero(np.isfinite(grids[kind]).any(0))):
            made[unit][kind] = float(found[kind].mean[place])
            if kind == "partial":
                ends = (found[kind].low[place], found[kind].high[place])
                made[unit] |= dict(zip(("partial_low", "partial_high"), map(number_or_none, ends), strict=True))
    return made


def _beyond(units: Rows) -> float | None:
    real, shuffled = ([abs(u[kind]) for u in units if kind in u] for kind in ("partial", "shuffled"))
    return float((np.array(real) > np.quantile(shuffled, 0.95)).mean()) if real and shuffled else None


def batch_modulation(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each text, recurrence with a Delta, and outcome."""
    found = [place for layer in arguments["layers"] for place in _selective(model, layer)]
    shown = {site.name for site in model.sites()}
    wanted = [
        [*place.inputs, *(site for site in (f"{place.prefix}h", *place.outputs) if site in shown)] for place in found
    ]
    rows: Rows = []
    for number, item, values in along_texts(model, batch, wanted):
        place = found[number]
        at = {"id": item.id, "layer": place.layer, "site": place.site}
        good = finite(values)
        outcomes = _outcomes(place, {name: value.double().cpu() for name, value in values.items()}) if good else {}
        rng = np.random.default_rng(int(digest_of([arguments["seed"], item.id, place.prefix])[:16], 16))
        seen = components(place, values) if outcomes else {}
        for outcome in OUTCOMES:
            row = at | {"outcome": outcome}
            if not good:
                rows.append(row | {"status": "model_nonfinite", "reason": "a value is not finite"})
            elif outcome not in outcomes:
                rows.append(row | {"status": NOT_APPLICABLE, "reason": NO_OUTCOME.format(outcome.replace("_", " "))})
            else:
                given = [seen[name] for name in arguments["given"] if name in seen]
                rows.append(row | modulation(seen["delta"], outcomes[outcome], given, rng))
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _outcomes(place: LayerRecurrence, values: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
    """`OUTCOMES` (T, U) as far as they can be seen, from all values of one text."""
    units = len(place.A)
    found: dict[str, torch.Tensor] = {}
    states = values.get(f"{place.prefix}h")
    if states is not None:
        moved = torch.diff(states, dim=0, prepend=torch.zeros_like(states[:1]))  # the state before the text is zero
        found["state_change"] = moved.unflatten(1, (units, -1)).flatten(2).norm(dim=-1)
    if place.outputs:
        y = torch.cat([values[name] for name in place.outputs], -1)
        found["activation"] = y.unflatten(-1, (units, -1)).norm(dim=-1)
    return {name: value.numpy() for name, value in found.items()}


def modulation(
    delta: NDArray[np.float64], outcome: NDArray[np.float64], given: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """The correlations of one text's delta and outcome, all (T, U), by unit and their means."""
    if len(delta) < TOKENS_EACH * (2 + len(given)):
        return {"status": NOT_APPLICABLE, "reason": TOO_SHORT}
    x, y, held = ranked(delta), ranked(outcome), [ranked(each) for each in given]
    by_unit = {
        "plain": of_ranks(x, y), "partial": of_ranks(x, y, held),
        "shuffled": of_ranks(x[rng.permutation(len(x))], y, held),
    }  # fmt: skip
    known = np.all([np.isfinite(r) for r in by_unit.values()], axis=0)
    if not known.any():
        return {"status": NOT_APPLICABLE, "reason": TOO_SHORT}
    means = {name: float(r[known].mean()) for name, r in by_unit.items()}
    lists = {f"{name}_units": [number_or_none(v) for v in r] for name, r in by_unit.items()}
    return means | lists | {"explained": means["plain"] - means["partial"], "status": GOOD}
