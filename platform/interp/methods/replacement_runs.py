"""Batch functions that replace candidates by other values, and what a model says then.

What is put in a candidate's place, at the same positions (`HOW`):

- zero, and mean: over all tokens of the development questions;
- resample: what another question's prompt has there, several draws; a shorter prompt is repeated;
- corrupted: what the prompt with the other answer has there;
- patched: in the corrupted prompt, what the clean one has there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.plan import digest_of
from ..engine.batches import Batch
from ..engine.step import Job
from .candidates import Candidate, Coordinates
from .circuit_runs import ROWS
from .contrast_runs import of_batch
from .contrasts import Contrast, Pairs, pairs_of
from .donor import Donor, SiteDictionary
from .latents import Latents, packed_all, unpacked_all
from .recurrences import scans_of
from .typed_tensors import floats, nested
from .unit_attribution import summed_states

if TYPE_CHECKING:
    from ...models import LanguageModel

HOW = ("zero", "mean", "resample", "corrupted", "patched")
MEANS = pa.schema([("site", pa.string()), ("tokens", pa.int64()), ("total", pa.list_(pa.float64()))])
RESULTS = pa.schema([("id", pa.string()), ("run", pa.int32()), ("metric", pa.float64()), ("right", pa.bool_())])


class Asked(NamedTuple):
    """candidate: its number. how: see the module. draw: of a resample, else 0."""

    candidate: int
    how: str
    draw: int = 0


@torch.no_grad()
def batch_means(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Sums over the real tokens of one batch's clean prompts, of sites, of latents and of states (`h` of a scan)."""
    chosen = of_batch(batch, arguments)
    if not chosen:
        return MEANS.empty_table()
    pairs, latents = pairs_of(chosen, batch.device), [Latents(site, name, ()) for site, name in arguments["latents"]]
    sites = list(dict.fromkeys([*arguments["sites"], *(part.site for part in latents)]))
    autoencoders = unpacked_all(arguments["autoencoders"])
    wanted = set(arguments["states"])
    scans = [scan for layer in range(model.n_layers) for scan in scans_of(model, layer) if scan.prefix in wanted]
    names = list(dict.fromkeys([*sites, *(name for scan in scans for name in scan.inputs)]))
    with model.capture(*names) as acts:
        model(pairs.clean, pairs.mask, last_only=True)
    totals = {name: acts[name][pairs.mask].double().sum(0) for name in sites}
    for part in latents:
        values = acts[part.site][pairs.mask].double()
        totals[part.held] = part.dictionary(model, autoencoders).latents(values).sum(0)
    totals |= {scan.prefix + "h": summed_states(scan.rebuild(acts), pairs.mask) for scan in scans}
    count = int(pairs.mask.sum())
    rows: list[dict[str, Any]] = [
        {"site": n, "tokens": count, "total": floats(total.flatten())} for n, total in totals.items()
    ]
    return pa.Table.from_pylist(rows, schema=MEANS)


def means_of(
    job: Job, candidates: Sequence[Candidate], which: Sequence[Contrast], autoencoders: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Site -> its mean over all tokens of these contrasts' clean prompts, in one row of numbers; of latents their own.

    autoencoders: as `packed_all` gives them.
    """
    states = {part.prefix for c in candidates for part in c.parts if isinstance(part, Coordinates)}
    sites = {
        name for c in candidates for part in c.parts if not isinstance(part, Coordinates)
        for name in part.sites(job.model)
    }  # fmt: skip
    latents = {(part.site, part.autoencoder) for c in candidates for part in c.parts if isinstance(part, Latents)}
    arguments = {
        "contrasts": {c.id: c.to_json() for c in which}, "sites": sorted(sites), "states": sorted(states),
        "latents": sorted(latents), "autoencoders": autoencoders,
    }  # fmt: skip
    total: dict[str, NDArray[np.float64]] = {}
    tokens: dict[str, int] = {}
    for row in job.map(batch_means, MEANS, arguments).to_pylist():
        total[row["site"]] = total.get(row["site"], 0.0) + np.array(row["total"])
        tokens[row["site"]] = tokens.get(row["site"], 0) + row["tokens"]
    return {site: (total[site] / tokens[site]).tolist() for site in sorted(total)}


def donors_of(which: Sequence[Contrast], pool: Sequence[Contrast], draws: int, seed: int) -> dict[str, list[list[int]]]:
    """Question id -> tokens of the prompts whose values it gets, one for each draw, as long as its own.

    Others of at least its length come first, in an order drawn by digests.
    """
    found: dict[str, list[list[int]]] = {}
    for own in which:
        n = len(own.clean)
        others = [c for c in pool if c.id != own.id]
        others.sort(key=lambda c: (len(c.clean) < n, digest_of([seed, own.id, c.id])))
        found[own.id] = [_of_length(others[i % len(others)].clean, n) for i in range(draws)] if others else []
    return found


def _of_length(tokens: Sequence[int], n: int) -> list[int]:
    return (list(tokens) * -(-n // len(tokens)))[:n]


@torch.no_grad()
def batch_replacements(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Metric and answer of one batch's questions for each run asked for; run -1 is the clean prompt, -2 the corrupted.

    Arguments: candidates and runs (`Asked`); means by site, donors by question; autoencoders (`packed_all`).
    """
    chosen = of_batch(batch, arguments)
    if not chosen:
        return RESULTS.empty_table()
    pairs = pairs_of(chosen, batch.device)
    candidates = [Candidate.from_json(value) for value in arguments["candidates"]]
    runs, autoencoders = [Asked(*run) for run in arguments["runs"]], unpacked_all(arguments["autoencoders"])
    sites = list(dict.fromkeys(name for candidate in candidates for name in candidate.sites(model)))
    rows: list[dict[str, Any]] = []

    def note(number: int, logits: Tensor) -> None:
        metrics, rights = floats(pairs.judge(logits, arguments["judged"])), nested(pairs.right(logits))
        values = zip(chosen, metrics, rights, strict=True)
        rows.extend({"id": c.id, "run": number, "metric": metric, "right": right} for c, metric, right in values)

    def held(tokens: Tensor, number: int | None = None) -> dict[str, Tensor]:
        with model.capture(*sites) as acts:
            logits = model(tokens, pairs.mask, last_only=True)[:, 0]
        if number is not None:
            note(number, logits)
        return {name: acts[name] for name in sites}

    clean, corrupted = held(pairs.clean, -1), held(pairs.corrupted, -2)
    for how, draw in dict.fromkeys((run.how, run.draw) for run in runs):
        if how == "resample":
            donors = [arguments["donors"][c.id] for c in chosen]
            if not all(len(tokens) > draw for tokens in donors):
                continue
            values: Mapping[str, Tensor] | None = held(_as_wide(pairs, [tokens[draw] for tokens in donors]))
        elif how == "mean":
            values = _means(model, arguments["means"], batch.device)
        else:
            values = {"zero": None, "corrupted": corrupted, "patched": clean}[how]
        base = pairs.corrupted if how == "patched" else pairs.clean
        numbers = [i for i, run in enumerate(runs) if (run.how, run.draw) == (how, draw)]
        at_once = max(1, ROWS // pairs.rows)
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            these = [candidates[runs[i].candidate] for i in part]
            for number, logits in zip(
                part, _replaced(model, pairs, base, these, values, autoencoders), strict=True
            ):  # fmt: skip
                note(number, logits)
    return pa.Table.from_pylist(rows, schema=RESULTS)


def _replaced(
    model: LanguageModel,
    pairs: Pairs,
    base: Tensor,
    candidates: Sequence[Candidate],
    values: Mapping[str, Tensor] | None,
    autoencoders: Mapping[str, SiteDictionary],
) -> Tensor:
    """Final logits (K, B, V) with each of the candidates replaced in its own rows."""
    n, K = pairs.rows, len(candidates)
    index = torch.arange(n, device=base.device).repeat(K)
    which = torch.arange(K, device=base.device).repeat_interleave(n)
    edits = [
        edit for k, candidate in enumerate(candidates)
        for edit in candidate.edits(model, Donor(values, index, which == k, autoencoders))
    ]  # fmt: skip
    with model.edit(*edits):
        logits = model(base.repeat(K, 1), pairs.mask.repeat(K, 1), last_only=True)[:, 0]
    return logits.unflatten(0, (K, n))


def _as_wide(pairs: Pairs, rows: Sequence[Sequence[int]]) -> Tensor:
    tokens = torch.zeros_like(pairs.clean)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids, device=tokens.device)
    return tokens


def _means(model: LanguageModel, means: Mapping[str, Sequence[float]], device: torch.device) -> dict[str, Tensor]:
    """By site (1, 1, ...)."""
    shapes = {site.name: [int(axis) for axis in site.axes] for site in model.sites() if not site.constant}
    return {name: torch.tensor(v, dtype=torch.float64, device=device).view(1, 1, *shapes.get(name, [len(v)]))
            for name, v in means.items()}  # fmt: skip


class Replacements:
    """Runs that are asked for by candidate and how, then measured at once."""

    def __init__(self, job: Job, draws: int, autoencoders: Mapping[str, SiteDictionary] | None = None) -> None:
        self._job, self._draws, self._autoencoders = job, draws, packed_all(autoencoders or {})
        self._candidates: dict[str, int] = {}
        self._all: list[Candidate] = []
        self._runs: dict[Asked, int] = {}
        self.metric: NDArray[np.float64] = np.zeros((0, 0))
        self.right: NDArray[np.float64] = np.zeros((0, 0))

    def ask(self, candidate: Candidate, how: str) -> None:
        """All draws of it."""
        for draw in range(self._draws if how == "resample" else 1):
            self._runs.setdefault(Asked(self._number(candidate), how, draw), len(self._runs))

    def _number(self, candidate: Candidate) -> int:
        key = str(candidate.parts)
        if key not in self._candidates:
            self._candidates[key] = len(self._all)
            self._all.append(candidate)
        return self._candidates[key]

    def measure(self, development: Sequence[Contrast], test: Sequence[Contrast], judged: str) -> None:
        """Run everything on the contrasts of `test`; means are those of `development`."""
        averaged = [self._all[run.candidate] for run in self._runs if run.how == "mean"]
        pool = sorted({c.id: c for c in (*development, *test)}.values(), key=lambda c: c.id)
        arguments = {
            "contrasts": {c.id: c.to_json() for c in test}, "judged": judged,
            "candidates": [candidate.to_json() for candidate in self._all], "runs": [list(run) for run in self._runs],
            "means": means_of(self._job, averaged, development, self._autoencoders) if averaged else {},
            "donors": donors_of(test, pool, self._draws, self._job.seed), "autoencoders": self._autoencoders,
        }  # fmt: skip
        place = {c.id: i for i, c in enumerate(test)}
        self.metric = np.full((len(self._runs) + 2, len(test)), np.nan)
        self.right = np.full_like(self.metric, np.nan)
        for row in self._job.map(batch_replacements, RESULTS, arguments).to_pylist():
            self.metric[row["run"], place[row["id"]]] = row["metric"]  # -1 and -2 are the last two
            self.right[row["run"], place[row["id"]]] = row["right"]

    @property
    def clean(self) -> NDArray[np.float64]:
        """Metric (n,) of the clean prompts."""
        return self.metric[-1]

    @property
    def corrupted(self) -> NDArray[np.float64]:
        """Of the corrupted ones."""
        return self.metric[-2]

    def values(self, candidate: Candidate, how: str, *, right: bool = False) -> NDArray[np.float64]:
        """Metric (n,) with the candidate replaced, mean over draws; right: whether the answer is said, 0 or 1."""
        number = self._candidates[str(candidate.parts)]
        runs = [i for run, i in self._runs.items() if (run.candidate, run.how) == (number, how)]
        return (self.right if right else self.metric)[runs].mean(0)
