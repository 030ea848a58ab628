"""The rows of `diagnostics` from those of its passes: means over prompts with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike

from ...scoring.statistics import Estimate, Resampling, bootstrap_mean, bootstrap_ratio, wilson
from ..engine.places import rows_at
from ..engine.statuses import NOT_APPLICABLE
from .anomalies import dead_channels
from .paraphrases import agreement
from .position_content import Share, shares
from .receptive_field import MEASURES
from .recurrences import LayerRecurrence
from .watched_sites import selective_sites

Rows = list[dict[str, Any]]
NO_RECURRENCE = "the block has no recurrence"
NOT_SELECTIVE = "no recurrence of the block chooses Delta, B and C by its tokens"
NO_DISTANCE = "fewer than two facts, or nothing of them is left to differ"
ALONE = "fewer than two prompts, or nothing varies"


def fields(name: str, found: Estimate | Share) -> dict[str, Any]:
    """The columns of a value with its interval."""
    value = found.value if isinstance(found, Share) else found.mean
    return {name: value, f"{name}_low": found.low, f"{name}_high": found.high}


def mean_of(name: str, values: ArrayLike, how: Resampling) -> dict[str, Any]:
    """The columns of a mean with its bootstrap interval."""
    found = bootstrap_mean(values, seed=how.seed, confidence=how.confidence, n_resamples=how.resamples)
    return fields(name, found)


def groups_of(rows: Rows) -> Iterator[tuple[dict[str, Any], Rows, dict[str, Any]]]:
    """(layer and site; its rows that are ok; counts and status) in the order of the blocks."""
    keys = sorted({(row["layer"], row["site"]) for row in rows}, key=lambda key: key[0])
    order = list(dict.fromkeys((row["layer"], row["site"]) for row in rows))
    for layer, site in sorted(keys, key=lambda key: (key[0], order.index(key))):
        here = rows_at(rows, layer, site)
        good = [row for row in here if row["status"] == "ok"]
        lost = sum(row["status"] == "model_nonfinite" for row in here)
        counts = {"n_prompts": len(good), "n_nonfinite": lost, "status": "ok"}
        if not good:
            counts = {"status": "model_nonfinite", "n_nonfinite": lost} if lost else nothing(ALONE)
        yield {"layer": layer, "site": site}, good, counts


def nothing(reason: str) -> dict[str, Any]:
    """The end of a row without a value."""
    return {"status": NOT_APPLICABLE, "reason": reason}


def without(rows: Rows, layers: Sequence[int], reason: str) -> Rows:
    """`rows` with one more for each block that has none, in the order of the blocks."""
    missing = [{"layer": layer} | nothing(reason) for layer in layers if layer not in {row["layer"] for row in rows}]
    return sorted([*rows, *missing], key=lambda row: row["layer"])


def position_rows(probed: pa.Table, decays: Sequence[LayerRecurrence], places: int, draws: int, how: Resampling) -> (
    tuple[Rows, Rows]
):  # fmt: skip
    """The rows of `positions` and of `selectivity`; places: how many positions were probed."""
    named = {tuple(name.split(".", 2)[1:]): quantity for d in decays for quantity, name in selective_sites(d).items()}
    rows = [row | {"status": "ok" if row["total"] is not None else "model_nonfinite"} for row in probed.to_pylist()]
    positions: Rows = []
    selective: Rows = []
    for about, good, counts in groups_of(rows):
        quantity = named.get((str(about["layer"]), about["site"]))
        found = None
        if len(good) > 1:
            profiles = [np.array([row[name] for row in good]) for name in ("position", "content")]
            width = profiles[0].shape[1] // places
            by_place, by_token = (of.reshape(len(good), -1, width) for of in profiles)
            totals = np.array([row["total"] for row in good])
            found = shares(by_place, by_token, totals, how=how, draws=draws)
        if found is None:
            end = counts if counts["status"] == "model_nonfinite" else nothing(ALONE)
            positions.append(about | end)
            selective += [about | {"quantity": quantity} | end] if quantity else []
            continue
        columns = {name: fields(name, getattr(found, name)) for name in ("position", "content", "context")}
        positions.append(
            about | columns["position"] | columns["content"] | columns["context"] | {"p": found.p} | counts
        )
        if quantity:
            size = np.sqrt([row["total"] / row["size"] if row["size"] else 0.0 for row in good])
            token = fields("token", found.content)
            selective.append(
                about | {"quantity": quantity} | mean_of("variation", size, how) | token | columns["context"] | counts
            )
    return positions, selective


def state_rows(seen: Rows, full: Mapping[tuple[int, str], int], how: Resampling) -> Rows:
    """The rows of `states`; full: the largest rank of each."""
    result: Rows = []
    for about, good, counts in groups_of([row for row in seen if row["what"] == "state"]):
        row = about | counts
        for name in ("rank", "growth") if good else ():
            row |= mean_of(name, [r[name] for r in good if r[name] is not None], how)
        result.append(row | ({"full_rank": full[about["layer"], about["site"]]} if good else {}))
    return result


def gate_rows(seen: Rows, how: Resampling) -> Rows:
    """The rows of `gates`."""
    result: Rows = []
    for about, good, counts in groups_of([row for row in seen if row["what"] == "gate"]):
        row = about | counts
        totals = [r["total"] for r in good]
        for name in ("closed", "open") if good else ():
            options: dict[str, Any] = {"seed": how.seed, "confidence": how.confidence, "n_resamples": how.resamples}
            row |= fields(name, bootstrap_ratio([r[name] for r in good], totals, **options))
            row |= {f"{name}_values": sum(r[name] for r in good)}
        result.append(row | ({"kind": good[0]["kind"], "values": sum(totals)} if good else {}))
    return result


def sink_rows(seen: Rows, least: float, how: Resampling) -> Rows:
    """The rows of `sinks`; least: the share that makes a token one."""
    result: Rows = []
    for about, good, counts in groups_of([row for row in seen if row["what"] == "sink"]):
        if not good:
            result.append(about | counts)
            continue
        share = [row["share"] for row in good]
        found = wilson([float(value >= least) for value in share], confidence=how.confidence)
        common = {name: _most_often(row[name] for row in good) for name in ("position", "token")}
        uniform = float(np.mean([row["uniform"] for row in good]))
        row = about | mean_of("share", share, how) | {"uniform": uniform}
        result.append(row | fields("prompts_with", found) | common | counts)
    return result


def value_rows(seen: Rows, how: Resampling) -> tuple[Rows, Rows]:
    """The rows of `massive` and of `dead`."""
    massive: Rows = []
    dead: Rows = []
    for about, good, counts in groups_of([row for row in seen if row["what"] == "value"]):
        if not good:
            massive.append(about | counts)
            dead.append(about | counts)
            continue
        found = wilson([float(row["massive"] > 0) for row in good], confidence=how.confidence)
        ratios = [row["value"] / row["median"] for row in good if row["median"] > 0]
        common = {name: _most_often(row[name] for row in good) for name in ("channel", "position", "token")}
        largest = {"largest": max(row["value"] for row in good), "massive_values": sum(row["massive"] for row in good)}
        massive.append(
            about | mean_of("ratio", ratios, how) | largest | fields("prompts_with", found) | common | counts
        )
        low, high = (torch.tensor([row[end] for row in good]) for end in ("low", "high"))
        which = dead_channels(low.amin(0), high.amax(0))
        bound = 1 - (1 - how.confidence) ** (1 / len(good))
        dead.append(
            about | {"dead": len(which), "channels": low.shape[1], "which": which, "moves_at_most": bound} | counts
        )
    return massive, dead


def consistency_rows(table: pa.Table, how: Resampling) -> Rows:
    """The rows of `consistency`, from the vectors of `paraphrases.batch_states`."""
    rows = [row | {"status": "model_nonfinite" if row["vector"] is None else "ok"} for row in table.to_pylist()]
    result: Rows = []
    for about, good, counts in groups_of(rows):
        by_fact: dict[str, dict[int, dict[int, Any]]] = {}
        for row in good:
            by_fact.setdefault(row["relation"], {}).setdefault(row["fact"], {})[row["wording"]] = row["vector"]
        relations = [
            np.array([[of[wording] for wording in sorted(of)] for of in facts.values() if len(of) == 2])
            for facts in by_fact.values()
        ]
        found = agreement([x for x in relations if len(x)], how=how)
        if found is None:
            result.append(about | (counts if counts["status"] == "model_nonfinite" else nothing(NO_DISTANCE)))
            continue
        ends = {"n_facts": found.ratio.n, "n_relations": len(relations), "n_nonfinite": counts["n_nonfinite"]}
        result.append(about | fields("agreement", found.ratio) | {"p": found.difference.p} | ends | {"status": "ok"})
    return result


def field_rows(rows: Rows, base: Mapping[str, Any], how: Resampling) -> Rows:
    """The rows of `receptive_field`, one for each length."""
    result: Rows = []
    shortest = {row["text"]: row["d90"] for row in rows if row["length"] == base["base"] and row["status"] == "ok"}
    estimate = partial(mean_of, how=how)
    for length in sorted({row["length"] for row in rows}):
        here = [row for row in rows if row["length"] == length]
        good = [row for row in here if row["status"] == "ok"]
        about: dict[str, Any] = {**base, "length": length, "times": length // base["base"]}
        if not good:
            lost = any(row["status"] == "model_nonfinite" for row in here)
            result.append(about | ({"status": "model_nonfinite"} if lost else nothing(here[0]["reason"])))
            continue
        for name in MEASURES:
            about |= estimate(name, [row[name] for row in good])
        grown = [row["d90"] - shortest[row["text"]] for row in good if row["text"] in shortest]
        about |= estimate("grown", grown) if length > base["base"] else {}
        lost = sum(row["status"] == "model_nonfinite" for row in here)
        result.append(about | {"n_prompts": len(good), "n_nonfinite": lost, "status": "ok"})
    return result


def _most_often(values: Iterable[int]) -> int:
    counted: Counter[int] = Counter(values)
    return counted.most_common(1)[0][0]
