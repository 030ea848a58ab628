"""Latents of autoencoders and directions of probes as candidates, ranked by first-order estimates on questions.

    latent i:      sum over t of (f_i(x_t) of the clean run - of the corrupted one) D_i . dm / dx_t
    directions V:  sum over t of V (x_t of the clean run - of the corrupted one) . V dm / dx_t

with derivatives in the clean run, as `unit_attribution` has them for channels. Of every autoencoder the latents with
the largest estimates are candidates, together and the first of them alone; of the seeds it was trained with, the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.parts.norms import wide
from ..engine.batches import Batch
from .candidate_search import UNITS, Ranked, largest_of
from .candidates import Candidate, Direction, together
from .contrast_runs import of_batch
from .contrasts import pairs_of
from .donor import SiteDictionary
from .latents import Latents, unpacked_all
from .sae.material import autoencoders_of
from .typed_tensors import nested
from .unit_attribution import both_runs, over_tokens

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.step import Job

Floats = NDArray[np.float64]
_ALONE = 8  # latents of each autoencoder that are candidates by themselves


class Readable(NamedTuple):
    """An autoencoder as a source of candidates. kind: of autoencoder. living: latents that a token activates."""

    kind: str
    layer: int
    of: SiteDictionary
    living: tuple[int, ...]


def readable_of(job: Job) -> dict[str, Readable]:
    """By the name of its tensors each autoencoder of the step `sae`, the first seed of each; empty without that step.

    Raises InputError for one that does not fit the model.
    """
    if "sae" not in job.upstream:
        return {}
    alive: dict[tuple[Any, ...], list[int]] = {}
    for row in job.upstream["sae"]["features"].to_pylist():
        if row["alive"]:
            alive.setdefault((row["layer"], row["site"], row["kind"], row["seed"]), []).append(row["latent"])
    names = [row["tensors"] for row in job.upstream["sae"]["saes"].to_pylist() if row["status"] == "ok"]
    found: dict[str, Readable] = {}
    for name, one in zip(names, autoencoders_of(job), strict=True):
        if one.number == 0:
            of = SiteDictionary(f"blocks.{one.layer}.{one.site}", one.dictionary)
            Latents(of.site, name, ()).dictionary(job.model, {name: of})
            living = tuple(sorted(alive.get((one.layer, one.site, one.kind, one.number), [])))
            found[name] = Readable(one.kind, one.layer, of, living)
    return found


def directions_of(job: Job) -> list[Candidate]:
    """The directions of the step `probes`, each a candidate; none without that step."""
    stored = job.upstream_tensors.get("probes", {}).get("directions", {})
    found: list[Candidate] = []
    for name in sorted(stored):
        site, _, target = name.rpartition("/")
        basis: list[list[float]] = np.linalg.qr(stored[name].double().T.numpy())[0].T.tolist()
        part = Direction(site, tuple(tuple(row) for row in basis))
        found.append(Candidate(f"{target} as read at {site}", "probe", (part,), int(site.split(".")[1])))
    return found


def batch_features(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """First-order estimates of one batch, by question: of every latent by autoencoder, of every direction by number.

    Arguments: judged, contrasts; autoencoders (`latents.packed_all`), directions as candidates in JSON.
    """
    chosen = of_batch(batch, arguments)
    if not chosen:
        return UNITS.empty_table()
    autoencoders = unpacked_all(arguments["autoencoders"])
    directions = [part for value in arguments["directions"] for part in Candidate.from_json(value).parts]
    pairs = pairs_of(chosen, batch.device)
    sites = list(dict.fromkeys([*(a.site for a in autoencoders.values()), *(d.site for d in _only(directions))]))
    clean, corrupted, slope = both_runs(model, pairs, sites, judged=arguments["judged"])
    rows: list[dict[str, Any]] = []

    def add(what: str, moved: Tensor, slopes: Tensor) -> None:
        values = nested(over_tokens(moved.double() * slopes.double(), pairs.mask))
        rows.extend({"what": what, "id": c.id, "values": v} for c, v in zip(chosen, values, strict=True))

    with torch.no_grad():
        for name, (site, dictionary) in autoencoders.items():
            here, there = (dictionary.latents(run[site].to(wide(run[site].dtype))) for run in (clean, corrupted))
            add(name, here - there, slope[site].to(here) @ dictionary.W_dec.to(here).T)
        for number, part in enumerate(_only(directions)):
            basis = torch.tensor(part.vectors, dtype=torch.float64, device=pairs.clean.device)
            moved = (clean[part.site] - corrupted[part.site]).double() @ basis.T
            along = (moved * (slope[part.site].double() @ basis.T)).sum(-1, keepdim=True)
            add(str(number), along, torch.ones_like(along))
    return pa.Table.from_pylist(rows, schema=UNITS)


def feature_candidates(
    readable: Mapping[str, Readable], directions: Sequence[Candidate], rows: pa.Table, order: Sequence[str],
    share: float,
) -> list[Ranked]:  # fmt: skip
    """Candidates from the rows of `batch_features`; order: ids of the questions; share: of an autoencoder's latents."""
    place = {id_: i for i, id_ in enumerate(order)}
    each: dict[str, Floats] = {}
    for row in rows.to_pylist():
        values = np.array(row["values"], np.float64)
        each.setdefault(row["what"], np.zeros((len(order), len(values))))[place[row["id"]]] = values
    found: list[Ranked] = []
    tops: dict[str, list[Ranked]] = {}
    for name, one in readable.items():
        mean: Floats = each[name].mean(0)
        best = largest_of(mean, share)
        part = Latents(one.of.site, name, tuple(best))
        top = Ranked(
            Candidate(f"{name}, largest {len(best)}", "latents", (part,), one.layer), float(mean[best].sum())
        )  # fmt: skip
        tops.setdefault(one.kind, []).append(top)
        first: list[int] = np.argsort(-np.abs(mean), kind="stable")[:_ALONE].tolist()
        for i in first:
            alone = Candidate(f"{name}, latent {i}", "latent", (Latents(one.of.site, name, (i,)),), one.layer)
            if mean[i] != 0:
                found.append(Ranked(alone, float(mean[i])))
    for kind, of_kind in tops.items():
        found += of_kind
        if len(of_kind) > 1:
            every = together([one.candidate for one in of_kind], f"latents of all {kind}", "latents, together")
            found.append(Ranked(every, sum(one.score for one in of_kind)))
    return found + [Ranked(one, float(each[str(number)].mean())) for number, one in enumerate(directions)]


def _only(parts: Sequence[Any]) -> list[Direction]:
    return [part for part in parts if isinstance(part, Direction)]
