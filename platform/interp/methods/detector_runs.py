"""What the detectors of `mplat.steering` say of a model's channels and layers, as rows; for `bottlenecks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ...runtime.plan import digest_of
from ...scoring.statistics import Resampling, holm
from ...steering.detectors import Tap, detector_names, find_detector, sums_of
from ..engine.answers import score_answers
from ..engine.batches import Batch
from ..engine.columns import ranks
from ..engine.places import Place, places
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job
from .detector_statistics import compare_detectors
from .layer_signals import Signal, signals
from .planted_figures import FIGURES, SOURCE

if TYPE_CHECKING:
    from ...models import LanguageModel

SUMS = 6  # of `sums_of`
BATCH_SCHEMA = pa.schema(
    [("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("sums", pa.list_(pa.float64())),
     ("vector", pa.list_(pa.float64()))]
)  # fmt: skip
Rows = list[dict[str, Any]]


class Seen(NamedTuple):
    """Of n texts at one place: sums (n, 6, C), vectors (n, C) of one token each, ids and groups (n,); nonfinite: left
    out."""

    place: Place
    ids: list[str]
    sums: NDArray[np.float64]
    vectors: NDArray[np.float64]
    groups: list[str]
    nonfinite: int


@torch.enable_grad()
def batch_sums(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each text and place: the sums of `sums_of` over the tokens, and the vector of one token of the prompt,
    drawn by a digest of the text's id. Both null where the answer, the vector or a derivative is not finite."""
    asked, answered = places(model, arguments["layers"], arguments["sites"]), batch.answered()
    taps = [Tap(p.name, torch.ones(1, device=model.device, requires_grad=True), []) for p in asked]
    with model.edit(*taps):
        scores = score_answers(model(answered.tokens, answered.mask), answered)
    gradients = torch.autograd.grad(scores.logprob.sum(), [tap.seen[0][0] for tap in taps])
    at = torch.tensor([int(digest_of(item.id)[:15], 16) % len(item.prompt) for item in batch.items])
    rows: Rows = []
    for place, tap, gradient in zip(asked, taps, gradients, strict=True):
        x, real = tap.seen[0]
        sums = sums_of(x, gradient, real).cpu()
        vectors = x.detach()[torch.arange(len(x)), at].double().cpu()
        finite = scores.finite.cpu() & torch.isfinite(sums).flatten(1).all(1) & torch.isfinite(vectors).all(1)
        for i, item in enumerate(batch.items):
            row = {"id": item.id, "layer": place.layer, "site": place.site}
            if finite[i]:
                row |= {"sums": sums[i].flatten().numpy(), "vector": vectors[i].numpy()}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def detector_tables(job: Job, asked: Sequence[Place]) -> dict[str, Rows]:
    """The rows of the parts `detectors`, `agreement`, `layers` and `planted`; settings are those of `bottlenecks`."""
    settings = job.settings
    arguments = {"layers": list(job.layers), "sites": list(settings.sites)}
    table = job.map(batch_sums, BATCH_SCHEMA, arguments)
    groups = {item.id: item.group for item in job.items}
    how = Resampling(job.seed, settings.confidence, settings.detector_resamples)
    detected: Rows = []
    agreements: Rows = []
    by_site: dict[tuple[str, int], list[Seen]] = {}
    for place in asked:
        seen = _seen(table, place, groups)
        by_site.setdefault((place.site, place.channels), []).append(seen)
        found, agreed = _place_rows(seen, settings, how)
        detected += found
        agreements += agreed
    layers = [row for seen in by_site.values() for row in _layer_rows(seen, settings, how)]
    return {"detectors": detected, "agreement": agreements, "layers": layers, "planted": planted_rows()}


def _seen(table: pa.Table, place: Place, groups: Mapping[str, str]) -> Seen:
    here = table.filter(pc.and_(pc.equal(table["layer"], place.layer), pc.equal(table["site"], place.site)))
    finite = here.filter(pc.is_valid(here["sums"]))
    sums, vectors = (
        finite[name].combine_chunks().flatten().to_numpy().reshape(len(finite), *shape)
        for name, shape in (("sums", (SUMS, place.channels)), ("vector", (place.channels,)))
    )
    ids = finite["id"].to_pylist()
    return Seen(place, ids, sums, vectors, [groups[id_] for id_ in ids], len(here) - len(finite))


def _place_rows(seen: Seen, settings: Any, how: Resampling) -> tuple[Rows, Rows]:
    place, names = seen.place, detector_names()
    top = max(1, round(settings.detector_share * place.channels))
    common = {
        "layer": place.layer, "site": place.site, "n_prompts": len(seen.sums), "n_nonfinite": seen.nonfinite,
        "n_groups": len({group or i for i, group in enumerate(seen.groups)}), "status": "ok",
    }  # fmt: skip
    if not len(seen.sums):
        lost = common | {"status": "model_nonfinite"}
        return [lost | {"detector": name} for name in names], [lost]
    sums = torch.tensor(seen.sums)
    found, agreed = compare_detectors(sums, seen.groups, names, top=top, how=how, draws=settings.detector_draws)
    rows: Rows = []
    for scored in found:
        rank = ranks(scored.key)
        for c in np.argsort(rank)[:top].tolist():
            row = {"detector": scored.detector, "channel": c, "rank": int(rank[c]), "p": float(scored.p[c]),
                   "signed": find_detector(scored.detector).signed}  # fmt: skip
            values = {"score": scored.score, "low": scored.low, "high": scored.high, "in_top": scored.in_top}
            row |= {name: _finite(of, c) for name, of in values.items()}
            rows.append(common | row | {"n_found": int((scored.p <= 1 - how.confidence).sum())})
    pairs = [common | pair._asdict() | {"top": top} for pair in agreed]
    return rows, pairs


def _finite(values: NDArray[np.float64] | None, at: int) -> float | None:
    return None if values is None or not isfinite(values[at]) else float(values[at])


def _layer_rows(seen: Sequence[Seen], settings: Any, how: Resampling) -> Iterator[dict[str, Any]]:
    """Rows of one site's layers, of the texts that are finite at all of them."""
    about = {"site": seen[0].place.site}
    ids = [id_ for id_ in seen[0].ids if all(id_ in of.ids for of in seen)]
    if len(seen) < 2 or len(ids) < 2:
        lost = "model_nonfinite" if any(of.nonfinite for of in seen) else NOT_APPLICABLE
        yield from (about | {"layer": of.place.layer, "status": lost} for of in seen)
        return
    chosen = [[of.ids.index(id_) for id_ in ids] for of in seen]
    vectors, sums = (np.stack([getattr(of, name)[at] for of, at in zip(seen, chosen, strict=True)])
                     for name in ("vectors", "sums"))  # fmt: skip
    groups = [seen[0].groups[at] for at in chosen[0]]
    for signal in signals(vectors, sums[:, :, 2], sums[:, :, 3], groups, how=how, draws=settings.layer_draws):
        rows = [_signal_row(signal, i, len(ids)) for i in range(len(seen))]
        corrected = holm([row.get("p") for row in rows])
        for of, row, p_holm in zip(seen, rows, corrected, strict=True):
            yield about | {"layer": of.place.layer, "measure": signal.measure, "p_holm": p_holm} | row


def _signal_row(signal: Signal, i: int, n: int) -> dict[str, Any]:
    if not isfinite(signal.spike[i]):  # such as the gradient by a site that no answer depends on
        return {"status": NOT_APPLICABLE}
    row = {name: _finite(getattr(signal, name), i) for name in ("value", "low", "high", "spike", "spike_low",
           "spike_high", "p")}  # fmt: skip
    return row | {"n_prompts": n, "status": "ok"}


def planted_rows() -> Rows:
    """What every detector and layer measure found on the planted benchmark, as it was measured."""
    return [figure._asdict() | {"source": SOURCE, "status": "ok"} for figure in FIGURES]
