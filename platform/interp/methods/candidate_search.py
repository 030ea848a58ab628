"""Candidates for what carries an answer, units of the model itself, ranked by first-order estimates on questions.

For every block: the channels of its output with the largest estimates, Delta, B and C as a whole, the convolution's
window, the state as a whole and its coordinates with the largest estimates. Over all blocks: clusters of channels whose
estimates rise and fall together over questions, and all blocks' best coordinates and channels at once. What an
estimate is worth is for `patching` to measure, on other questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...core.errors import InputError
from ..engine.batches import Batch
from .candidates import Candidate, Channels, Coordinates, Window, state_shape, together
from .clustering import cluster
from .contrast_runs import of_batch
from .contrasts import pairs_of
from .recurrences import LayerRecurrence, scans_of
from .typed_tensors import floats, nested
from .unit_attribution import unit_attributions

if TYPE_CHECKING:
    from ...models import LanguageModel

Floats = NDArray[np.float64]
OUTPUT = "mixer_out"
UNITS = pa.schema([("what", pa.string()), ("id", pa.string()), ("values", pa.list_(pa.float64()))])
_CLUSTERED = 64  # channels of largest estimates that are clustered


class Ranked(NamedTuple):
    """score: estimated loss of the metric by putting the corrupted run's values in the candidate's place."""

    candidate: Candidate
    score: float


class Sites(NamedTuple):
    """Where candidates are looked for."""

    outputs: list[str]
    parameters: list[str]
    windows: list[str]
    scans: list[LayerRecurrence]

    @staticmethod
    def of(model: LanguageModel, layers: Sequence[int]) -> Sites:
        known = {site.name: site for site in model.sites()}
        scans = [scan for layer in layers for scan in scans_of(model, layer) if scan.prefix + "h" in known]
        parameters = [
            scan.prefix + name for scan in scans for name in (scan.of.delta, scan.of.B, scan.of.C)
            if isinstance(name, str)
        ]  # fmt: skip
        outputs = [f"blocks.{layer}.{OUTPUT}" for layer in layers if f"blocks.{layer}.{OUTPUT}" in known]
        windows = [
            name for name, site in known.items()
            if name.endswith(".conv_state") and site.editable and int(name.split(".")[1]) in layers
        ]  # fmt: skip
        return Sites(outputs, parameters, windows, scans)


def batch_units(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """First-order estimates of one batch: of channels and windows by question, of states summed over questions."""
    chosen = of_batch(batch, arguments)
    if not chosen:
        return UNITS.empty_table()
    where, pairs = Sites.of(model, arguments["layers"]), pairs_of(chosen, batch.device)
    found = unit_attributions(
        model, pairs, [*where.outputs, *where.parameters], where.windows, where.scans, arguments["judged"]
    )
    rows: list[dict[str, Any]] = []
    for name, values in {**found.channels, **{n: v[:, None] for n, v in found.windows.items()}}.items():
        rows += [{"what": name, "id": c.id, "values": v} for c, v in zip(chosen, nested(values), strict=True)]
    rows += [{"what": prefix, "values": floats(values.flatten())} for prefix, values in found.states.items()]
    return pa.Table.from_pylist(rows, schema=UNITS)


def candidates_of(
    model: LanguageModel, layers: Sequence[int], rows: pa.Table, order: Sequence[str], *, share: float, clusters: int,
    seed: int,
) -> list[Ranked]:  # fmt: skip
    """Candidates from the rows of `batch_units`, the largest |score| first within the order of kinds.

    order: ids of the questions. share: of a site's channels, or a state's coordinates, taken together; at least one.
    clusters: how many of channels to try at most.
    """
    where, n = Sites.of(model, layers), len(order)
    place = {id_: i for i, id_ in enumerate(order)}
    each: dict[str, Floats] = {}
    summed: dict[str, Floats] = {}
    for row in rows.to_pylist():
        values = np.array(row["values"], np.float64)
        if row["id"] is None:
            summed[row["what"]] = summed.get(row["what"], 0.0) + values / n
        else:
            each.setdefault(row["what"], np.zeros((n, len(values))))[place[row["id"]]] = values
    found: list[Ranked] = []
    tops: dict[str, list[Ranked]] = {"channels": [], "coordinates": []}
    for name in where.outputs:
        mean = each[name].mean(0)
        best = largest_of(mean, share)
        layer = _layer(name)
        top = Ranked(Candidate(f"{name}, largest {len(best)}", "channels", (Channels(name, tuple(best)),), layer),
                     float(mean[best].sum()))  # fmt: skip
        tops["channels"].append(top)
    for name in where.parameters:
        kind = name.rpartition(".")[2]
        found.append(Ranked(Candidate(name, f"parameter {kind}", (Channels(name),), _layer(name)),
                            float(each[name].mean(0).sum())))  # fmt: skip
    for name in where.windows:
        found.append(Ranked(Candidate(name, "window", (Window(name),), _layer(name)), float(each[name].mean())))
    for scan in where.scans:
        mean, N = summed[scan.prefix], state_shape(model, scan)[1]
        whole = Candidate(scan.prefix + "h", "state", (Coordinates(scan.prefix),), scan.layer)
        found.append(Ranked(whole, float(mean.sum())))
        best = largest_of(mean, share)
        pairs = tuple(sorted((i // N, i % N) for i in best))
        top = Candidate(
            f"{scan.prefix}h, largest {len(best)}", "coordinates", (Coordinates(scan.prefix, pairs),), scan.layer
        )
        tops["coordinates"].append(Ranked(top, float(mean[best].sum())))
    for kind, each_block in tops.items():
        found += each_block
        if len(each_block) > 1:
            every = together([one.candidate for one in each_block], f"{kind} of all blocks", f"{kind}, together")
            found.append(Ranked(every, sum(one.score for one in each_block)))
    found += _clusters(where.outputs, each, largest=clusters, seed=seed)
    return sorted(found, key=lambda one: -abs(one.score))


def largest_of(scores: Floats, share: float) -> list[int]:
    """Numbers of this share of the scores, the largest in size, at least one; ascending."""
    count = max(1, round(share * len(scores)))
    return sorted(np.argsort(-np.abs(scores), kind="stable")[:count].tolist())


def _clusters(outputs: Sequence[str], each: Mapping[str, Floats], *, largest: int, seed: int) -> list[Ranked]:
    """Clusters of the channels with the largest estimates, by their estimates over questions at unit length."""
    if not outputs or largest < 2:
        return []
    units = [(name, channel) for name in outputs for channel in range(each[name].shape[1])]
    profiles = np.concatenate([each[name].T for name in outputs])  # (units, n)
    size = np.linalg.norm(profiles, axis=1)
    top: list[int] = [i for i in np.argsort(-size, kind="stable")[:_CLUSTERED].tolist() if size[i] > 0]
    if len(top) < 3:
        return []
    try:
        clusters = cluster(profiles[top] / size[top, None], largest=largest, seed=seed % 2**32)
    except InputError:  # fewer than three different profiles
        return []
    found: list[Ranked] = []
    for number in range(clusters.k):
        labels: list[int] = clusters.labels.tolist()
        members: list[tuple[str, int]] = [units[i] for i, label in zip(top, labels, strict=True) if label == number]
        by_site = {name: tuple(sorted(c for site, c in members if site == name)) for name in outputs}
        parts = tuple(Channels(name, channels) for name, channels in by_site.items() if channels)
        layers = {_layer(name) for name, channels in by_site.items() if channels}
        score = sum(float(each[name].mean(0)[channel]) for name, channel in members)
        layer = layers.pop() if len(layers) == 1 else None
        found.append(Ranked(Candidate(f"cluster {number} of co-attributed channels", "cluster", parts, layer), score))
    return found


def _layer(site: str) -> int:
    return int(site.split(".")[1])
