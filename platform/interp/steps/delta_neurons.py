"""Delta-sensitive neurons: channels whose state or output changes much from token to token, and Delta's part in it.

The source work takes the variance of h_t - h_{t-1} over tokens and calls the neurons of the top percentile sensitive,
with h the residual stream after a layer. Here (`methods.state_changes`) it is that of three quantities, around the
mean of each prompt and from the second token on: `state`, a channel's N coordinates of the recurrent state together;
`y`, its read-out with skip; and `mixer_out`, the mixer's output. Beside the variance of a channel stands how much of it
goes with the channel's own step size Delta:

- `explained`: share that a line in Delta fits, and `shifted`, the same with Delta moved in time: the level of chance;
- `held_share`: what is gone when Delta is held at the prompt's mean, one minus the ratio of the variances. It may be
  below 0, where Delta's changes undo others. For `mixer_out` all Deltas of the block are held, in a pass of its own.

Intervals are of a bootstrap over prompts. Beside them stands the variance of Delta itself, from `delta_sensitivity`,
and in `layers` whether the channels whose Delta varies most are those that change most: the correlation of the two
ranks, with a p-value from shuffled channels, and the overlap of the two top sets. A channel that changes much need not
matter: `causal_neurons` takes channels away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import Tensor

from ...models.access.edits import Replace
from ...runtime.plan import digest_of
from ...scoring.statistics import Columns, bootstrap_columns, correlations, holm
from ..engine.batches import Batch, spread
from ..engine.columns import bounded, column, number, ranks, tied_ranks
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.fact_runs import NO_SCAN
from ..methods.question_halves import group_of
from ..methods.recurrences import LayerRecurrence, recurrences_of, scans_of
from ..methods.state_changes import held_delta, squares_of, state_changes
from ..methods.taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

OF_SCANS = ("state", "y")
OUTPUT = "mixer_out"
SUMS = ("squares", "explained", "shifted", "held")


class Settings(StepSettings):
    small = {"resamples": 100, "draws": 100}

    top: float = Field(0.05, gt=0, lt=1)
    """share of a layer's channels that are called sensitive, those of largest variance"""
    prompts: int = Field(60, ge=1)
    """questions at most, evenly spread; the states of all their tokens are computed twice"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of the bootstrap over prompts"""
    draws: int = Field(2000, ge=100, le=1_000_000)
    """random pairings of channels behind each p-value"""
    confidence: float = Field(0.95, gt=0, lt=1)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; of mixer_out: mixer"),
    column("quantity", pa.string(), "state, y or mixer_out"),
]
_STATUS = [
    column("status", pa.string(), "ok; model_nonfinite: no prompt was left; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value; null where there is one"),
]


CHANNELS_SCHEMA = pa.schema([
    *_PLACE,
    column("channel", pa.int32(), "channel of the quantity"),
    *bounded("variance", "of the change from one token to the next, within prompts; of a state: of all coordinates"),
    column("rank", pa.int32(), "1 is the channel of largest variance of this layer, site and quantity"),
    column("sensitive", pa.bool_(), "whether it is among the top share"),
    *bounded("explained", "share of it that a line in the channel's Delta fits; null for mixer_out"),
    column("shifted", pa.float64(), "the same with Delta moved in time: the level of chance"),
    *bounded("held_share", "one minus the ratio of the variance with Delta held at its mean; null without Delta"),
    column("delta_variance", pa.float64(), "variance of the channel's Delta, from delta_sensitivity; null for "
           "mixer_out, and where that step does not look at it"),
    column("n_tokens", pa.int64(), "changes counted"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite"),
    *_STATUS,
])  # fmt: skip
LAYERS_SCHEMA = pa.schema([
    *_PLACE,
    column("correlation", pa.float64(), "Spearman's, of the channels' variance with that of their Delta; null where "
           "either does not vary"),
    column("p", pa.float64(), "two-sided p-value, from shuffled channels"),
    column("p_holm", pa.float64(), "corrected for all rows"),
    column("overlap", pa.float64(), "share of the sensitive channels that are also the top ones by Delta's variance"),
    column("overlap_chance", pa.float64(), "the same of channels drawn at random, expected"),
    column("explained_median", pa.float64(), "median over channels of explained"),
    column("shifted_median", pa.float64(), "median over channels of shifted"),
    column("held_share_median", pa.float64(), "median over channels of held_share"),
    column("channels", pa.int32(), "how many"),
    *_STATUS,
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("quantity", pa.string()), ("n", pa.int64()),
    *((name, pa.list_(pa.float64())) for name in SUMS),
])  # fmt: skip

VIEW = View(
    "Delta-sensitive neurons: what changes from token to token",
    "Variance of the change within prompts. What a line in Delta explains is to be read against Delta moved in time; "
    "the share that goes when Delta is held at its mean may be negative. Much change is no effect on the answer.",
    (
        MapPart(part="channels", rows="layer", columns="channel", value="variance", each=("site", "quantity"),
                only={"status": "ok"}, title="Variance of the change: {quantity}, {site}", scale="log",
                words=SITE_WORDS | {"state": "state", "y": "read-out"}),
        TablePart(
            part="layers", title="Delta's part, by layer", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("quantity"),
                Column("correlation", "rank correlation with Delta's variance", form="signed", absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("overlap", "overlap of top sets", absent="–"),
                Column("overlap_chance", "by chance", absent="–"),
                Column("explained_median", "explained, median", absent="–"),
                Column("shifted_median", "Delta moved in time", absent="–"),
                Column("held_share_median", "gone with Delta held, median", absent="–"),
            ),
        ),
        TablePart(
            part="channels", title="Channels that change most", only={"status": "ok"}, sort=("rank", "layer"), top=24,
            columns=(
                Column("layer"), Column("quantity"), Column("channel"),
                Column("variance", "variance", "variance_low", "variance_high"),
                Column("explained", "explained by Delta", "explained_low", "explained_high", absent="–"),
                Column("shifted", "by chance", absent="–"),
                Column("held_share", "gone with Delta held", "held_share_low", "held_share_high", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Any) -> Effort:
    """A pass, one more for each block with a Delta, and the states of all steps twice."""
    model, count = asked.model, min(asked.settings.prompts, len(lengths))
    tokens = sum(lengths) * count / max(1, len(lengths))
    scans = [scan for layer in asked.layers for scan in scans_of(model, layer)]
    held = sum(any(one.delta for one in recurrences_of(model, layer)) for layer in asked.layers)
    E, N = model.config.inner_size, model.config.state_size
    channels = len(asked.layers) * model.config.d_model + 2 * len(scans) * E
    return Effort((1.5 + 1.1 * held) * tokens, of_files(3) + 90 * channels, 6e-8 * len(scans) * E * N * tokens + 0.5)


@step("delta_neurons", needs=("delta_sensitivity",), settings=Settings, seeded=True, view=VIEW, cost=cost)
def delta_neurons(job: Job) -> Tables:
    """Variance of each channel's change of state and output from token to token, and the share that goes with Delta."""
    asked = [item.id for item in spread(job.items, job.settings.prompts)]
    found = job.map(batch_changes, BATCH_SCHEMA, {"layers": list(job.layers), "seed": job.seed, "asked": asked})
    moments = job.upstream["delta_sensitivity"][""].to_pylist()
    channels: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for layer in job.layers:
        scans = scans_of(job.model, layer)
        for quantity in () if scans else OF_SCANS:
            row: dict[str, Any] = {"layer": layer, "site": "mixer", "quantity": quantity}
            row |= {"status": NOT_APPLICABLE, "reason": NO_SCAN}
            channels.append(row)
            layers.append(dict(row))
        for scan in scans:
            for quantity in OF_SCANS:
                _add(job, found, layer, scan.site, quantity, _delta_variances(scan, moments), channels, layers)
        _add(job, found, layer, "mixer", OUTPUT, None, channels, layers)
    for row, corrected in zip(layers, holm([row.get("p") for row in layers]), strict=True):
        row["p_holm"] = corrected
    return {
        "channels": pa.Table.from_pylist(channels, schema=CHANNELS_SCHEMA),
        "layers": pa.Table.from_pylist(layers, schema=LAYERS_SCHEMA),
    }


def _delta_variances(scan: LayerRecurrence, moments: list[dict[str, Any]]) -> np.ndarray | None:
    """Of each unit's Delta (U,); None where the step before has none."""
    if scan.delta is None:
        return None
    of_units = [row["variance"] for row in rows_at(moments, scan.layer, scan.delta)]
    return None if not of_units or None in of_units else np.array(of_units, np.float64)


def _add(
    job: Job, found: pa.Table, layer: int, site: str, quantity: str, delta: np.ndarray | None,
    channels: list[dict[str, Any]], layers: list[dict[str, Any]],
) -> None:  # fmt: skip
    """The rows of one quantity."""
    about: dict[str, Any] = {"layer": layer, "site": site, "quantity": quantity}
    here = found.filter((pc.field("layer") == layer) & (pc.field("site") == site) & (pc.field("quantity") == quantity))
    good = here.filter(pc.field("n").is_valid())
    counts = {"n_prompts": good.num_rows, "n_nonfinite": here.num_rows - good.num_rows}
    n = np.array(good["n"].to_pylist(), np.float64)
    if not n.sum():
        row = about | counts | {"status": "model_nonfinite", "reason": "no prompt of two tokens was finite"}
        channels.append(row)
        layers.append(dict(row))
        return
    sums = {name: _matrix(good, name) for name in SUMS}
    groups = {item.id: group_of(item) for item in job.items}
    how: dict[str, Any] = {
        "seed": job.seed, "confidence": job.settings.confidence, "n_resamples": job.settings.resamples,
        "groups": [groups[id_] for id_ in good["id"].to_pylist()],
    }  # fmt: skip
    squares = sums["squares"]
    assert squares is not None
    variance = bootstrap_columns(squares, n[:, None], **how)
    explained, shifted, held = (
        None if part is None else bootstrap_columns(part, squares, **how)
        for part in (sums["explained"], sums["shifted"], sums["held"])
    )
    if held is not None:
        held = Columns(1 - held.value, 1 - held.high, 1 - held.low)
    rank = ranks(variance.value)
    count = len(rank)
    top = max(1, round(job.settings.top * count))
    if delta is not None:
        delta = np.repeat(delta, count // len(delta))  # of each channel
    for c in range(count):
        row = about | counts | {"channel": c, "rank": int(rank[c]), "sensitive": bool(rank[c] <= top)}
        row |= {"n_tokens": int(n.sum()), "status": "ok", "delta_variance": None if delta is None else float(delta[c])}
        for name, of in (("variance", variance), ("explained", explained), ("held_share", held)):
            if of is not None:
                row |= {name: number(of.value[c]), f"{name}_low": number(of.low[c]), f"{name}_high": number(of.high[c])}
        channels.append(row | {"shifted": None if shifted is None else number(shifted.value[c])})
    row = about | {"channels": count, "status": "ok"}
    for name, of in (("explained", explained), ("shifted", shifted), ("held_share", held)):
        if of is not None and np.isfinite(of.value).any():
            row[f"{name}_median"] = float(np.nanmedian(of.value))
    if delta is not None:
        both = tied_ranks(variance.value), tied_ranks(delta)
        (link,) = correlations(both[:1], both[1], seed=job.seed, n_draws=job.settings.draws)
        row |= {"correlation": link.r, "p": link.p, "overlap_chance": top / count,
                "overlap": float((ranks(delta)[rank <= top] <= top).mean())}  # fmt: skip
    layers.append(row)


def _matrix(table: pa.Table, name: str) -> np.ndarray | None:
    """A column of lists as (prompts, channels); None where it has none."""
    lists = table[name].combine_chunks()
    if lists.null_count:
        return None
    return lists.flatten().to_numpy().reshape(table.num_rows, -1)


@torch.no_grad()
def batch_changes(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each asked prompt, layer and quantity; without n where a value is not finite."""
    asked = frozenset(arguments["asked"])
    batch = Batch([item for item in batch.items if item.id in asked], batch.device)
    if not batch.items:
        return BATCH_SCHEMA.empty_table()
    run = _Run(model, batch, arguments["seed"])
    with model.edit(*(tap for layer in arguments["layers"] for tap in run.taps(layer))):
        model(run.tokens, run.real, last_only=True)
    for layer in arguments["layers"]:
        run.hold(layer)
    return pa.Table.from_pylist(run.rows, schema=BATCH_SCHEMA)


class _Run:
    """The rows of a batch."""

    def __init__(self, model: LanguageModel, batch: Batch, seed: int) -> None:
        self.tokens, self.real = batch.prompts()
        self.rows: list[dict[str, Any]] = []
        self._model, self._items = model, batch.items
        self._counts = [len(item.prompt) - 1 for item in batch.items]
        self._shifts = [1 + int(digest_of([seed, item.id])[:8], 16) % max(1, n - 1)
                        for item, n in zip(batch.items, self._counts, strict=True)]  # fmt: skip
        self._holds: dict[int, list[Replace]] = {}
        self._outputs: dict[int, Tensor] = {}  # squares

    def taps(self, layer: int) -> list[Watch]:
        """What looks at a block in a pass; the block's values are let go when its output is seen."""
        scans = scans_of(self._model, layer)
        deltas = [one.name("delta") for one in recurrences_of(self._model, layer) if one.delta is not None]
        values: dict[str, Tensor] = {}

        def see(x: Tensor, lengths: Tensor) -> None:
            for scan in scans:
                found, held = state_changes(scan, values, self.real, self._shifts)
                for quantity, of in found.items():
                    more = {} if scan.delta is None else {"held": held[quantity]}
                    self._add(layer, scan.site, quantity, of._asdict() | more)
            means = {name: held_delta(values[name], self.real) for name in deltas}
            # an edit takes finite values alone; a prompt without them is left out for what it is without the edit
            self._holds[layer] = [Replace(name, torch.nan_to_num(mean)) for name, mean in means.items()]
            self._outputs[layer] = squares_of(x.double(), self.real)
            values.clear()

        inputs = dict.fromkeys([*deltas, *(name for scan in scans for name in scan.inputs)])
        return [*(_kept(name, values) for name in inputs), Watch(_output(layer), see)]

    def hold(self, layer: int) -> None:
        """A pass with the block's Deltas held, where it has some, and the rows of its output."""
        sums = {"squares": self._outputs[layer]}
        held: dict[str, Tensor] = {}
        if self._holds[layer]:
            with self._model.edit(*self._holds[layer], _kept(_output(layer), held)):
                self._model(self.tokens, self.real, last_only=True)
            sums["held"] = squares_of(held[_output(layer)].double(), self.real)
        self._add(layer, "mixer", OUTPUT, sums)

    def _add(self, layer: int, site: str, quantity: str, sums: Mapping[str, Tensor]) -> None:
        finite = torch.stack([torch.isfinite(part).all(1) for part in sums.values()]).all(0).tolist()
        parts = {name: part.cpu().numpy() for name, part in sums.items()}
        for i, item in enumerate(self._items):
            row = {"id": item.id, "layer": layer, "site": site, "quantity": quantity}
            known = {"n": self._counts[i]} | {name: part[i] for name, part in parts.items()}
            self.rows.append(row | (known if finite[i] else {}))


def _output(layer: int) -> str:
    return f"blocks.{layer}.{OUTPUT}"


def _kept(name: str, values: dict[str, Tensor]) -> Watch:
    """Puts what the site holds into `values`."""

    def see(x: Tensor, lengths: Tensor) -> None:
        values[name] = x

    return Watch(name, see)
