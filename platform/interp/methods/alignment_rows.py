"""What alignment found, as rows: accuracies with intervals by group, tests against random subspaces, and how far seeds
agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from ...scoring.statistics import holm, mean_interval, paired_difference, rank_p
from ..engine.columns import column
from ..engine.statuses import GOOD, NOT_APPLICABLE
from .alignment import principal_cosines
from .alignment_controls import DAS, KINDS, RANDOM, Dormant, Found
from .interchange import Region

Row = dict[str, Any]

PLACE = [
    column(
        "variable", pa.string(), "of the question: entity and relation (asked about), hop1 (the first hop's answer)"
    ),
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "what is exchanged, relative to the block"),
    column("channels", pa.string(), "those of its first axis that are exchanged, start:stop; null where all are"),
    column(
        "position", pa.string(), "last: the last token; entity: the name in the question; fact: the end of its sentence"
    ),
]
STATUS = [
    column("status", pa.string(), f"{GOOD}; {NOT_APPLICABLE}: the block has no such site, nothing reads it there, the "
           "variable is not known there yet, or no subspace of this size is smaller; model_wrong: too few pairs of "
           "which the model answers all prompts right; model_nonfinite"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
]  # fmt: skip
ACCURACY_SCHEMA = pa.schema([
    *PLACE,
    column("k", pa.int32(), "dimensions that are exchanged"),
    column("kind", pa.string(), f"which subspace: {', '.join(KINDS)}; see methods.alignment_controls"),
    column("fits", pa.int32(), "how many: seeds of what is learned, draws of random ones"),
    column("accuracy", pa.float64(), "interchange accuracy: share of the test pairs whose output is the counterfactual "
           "answer, mean over fits"),
    column("low", pa.float64(), "lower end of its 95 % interval over groups of pairs"),
    column("high", pa.float64(), "upper end"),
    column("least", pa.float64(), "of the worst fit"),
    column("most", pa.float64(), "of the best fit"),
    column("said_base", pa.float64(), "share of the test pairs whose output stays the base's answer"),
    column("said_source", pa.float64(), "share whose output is the source's answer, which is copied and not computed"),
    column("loss", pa.float64(), "mean over test pairs and fits of -ln p(counterfactual answer)"),
    column("learned", pa.float64(), "share right on the pairs that it was learned or chosen on; das_shuffled: of the "
           "shuffled answers; null for random"),
    column("difference", pa.float64(), "accuracy less that of the mean random subspace of this size, pair by pair"),
    column("difference_low", pa.float64(), "lower end of its 95 % interval over groups of pairs"),
    column("difference_high", pa.float64(), "upper end"),
    column("p", pa.float64(), "that the difference is zero, of the same test"),
    column("p_holm", pa.float64(), "corrected for the number of das rows; null for other kinds"),
    column("p_draws", pa.float64(), "rank of the worst fit among the random subspaces: (1 + those at least as good) / "
           "(1 + draws)"),
    column("cosine_mean", pa.float64(), "das: mean cosine of the principal angles between the subspaces of two seeds"),
    column("cosine_least", pa.float64(), "das: the least of them, of the two seeds that agree least"),
    column("pairs", pa.int32(), "test pairs"),
    column("groups", pa.int32(), "of them: pairs with one head entity count as one"),
    column("learned_on", pa.int32(), "pairs that subspaces were learned or chosen on"),
    *STATUS,
])  # fmt: skip
SUBSPACE_SCHEMA = pa.schema([
    *PLACE,
    column("k", pa.int32(), "dimensions"),
    column("fit", pa.int32(), "number of the seed, from 0"),
    column("tensor", pa.string(), "name of its basis among the tensors of the part bases: orthonormal rows, (k, "
           "channels, ...)"),
    column("accuracy", pa.float64(), "interchange accuracy on the test pairs"),
    column("learned", pa.float64(), "on the pairs that it was learned on"),
    column("loss_first", pa.float64(), "mean loss of the first ten steps of learning"),
    column("loss_last", pa.float64(), "of the last ten"),
    column("natural", pa.float64(), "share of the subspace in the span of what the site holds in the training pairs"),
    column("accuracy_natural", pa.float64(), "accuracy of that part alone; null where it is empty"),
    column("accuracy_unnatural", pa.float64(), "accuracy of the part outside; above random, what never varies works"),
    column("read", pa.float64(), "share of the subspace in the span of what the answer depends on, to first order"),
    column("accuracy_read", pa.float64(), "accuracy of that part alone"),
    column("accuracy_unread", pa.float64(), "accuracy of the part outside"),
    *STATUS,
])  # fmt: skip


def place_of(variable: str, region: Region, position: str) -> Row:
    """The first columns of a row."""
    channels = None if region.whole else f"{region.start}:{region.stop}"
    place = region.place
    return {"variable": variable, "layer": place.layer, "site": place.site, "channels": channels, "position": position}


def accuracy_rows(found: Sequence[Found], groups: Sequence[str], learned_on: int, seed: int) -> list[Row]:
    """A row for each of what was found at one region, without its place. `p_holm` is for the whole table."""
    random = {one.k: one for one in found if one.kind == RANDOM}
    return [_row(one, random.get(one.k), groups, seed) | {"learned_on": learned_on} for one in found]


def _row(found: Found, random: Found | None, groups: Sequence[str], seed: int) -> Row:
    right = np.array([one.target for one in found.outcomes])
    each, by_pair = right.mean(1), right.mean(0)
    interval = mean_interval(by_pair, seed=seed, groups=groups, shares=True)
    row: Row = {
        "k": found.k, "kind": found.kind, "fits": len(right), "accuracy": float(each.mean()), "low": interval.low,
        "high": interval.high, "least": float(each.min()), "most": float(each.max()),
        "loss": float(np.mean([one.loss for one in found.outcomes])), "pairs": right.shape[1],
        "groups": len(set(groups)), "learned": float(np.mean(found.learned)) if found.learned else None,
        "said_base": float(np.mean([one.base for one in found.outcomes])),
        "said_source": float(np.mean([one.source for one in found.outcomes])), "status": GOOD,
    }  # fmt: skip
    if random is not None and random is not found:
        draws = np.array([one.target for one in random.outcomes])
        test = paired_difference(by_pair, draws.mean(0), seed=seed, groups=groups, shares=True)
        row |= {"difference": test.mean, "difference_low": test.low, "difference_high": test.high, "p": test.p,
                "p_draws": rank_p(float(each.min()), draws.mean(1))}  # fmt: skip
    if found.kind == DAS and len(found.subspaces) > 1:
        cosines = [principal_cosines(a, b) for a, b in combinations(found.subspaces, 2)]
        row |= {"cosine_mean": float(np.mean(cosines)), "cosine_least": min(map(min, cosines))}
    return row


def correct_for_number(rows: Sequence[Row]) -> None:
    """Set `p_holm` of the rows of what was learned."""
    family = [row for row in rows if row.get("kind") == DAS and row["status"] == GOOD]
    for row, corrected in zip(family, holm([row.get("p") for row in family]), strict=True):
        row["p_holm"] = corrected


def subspace_rows(found: Found, names: Sequence[str]) -> list[Row]:
    """A row for each learned subspace at one region, without its place; names: of the tensors."""
    rows: list[Row] = []
    for number, name in enumerate(names):
        said: Dormant = found.dormant[number]
        first, last = found.losses[number]
        rows.append(
            {"k": found.k, "fit": number, "tensor": name, "learned": found.learned[number], "status": GOOD,
             "accuracy": float(found.outcomes[number].target.mean()), "loss_first": first, "loss_last": last}
            | said._asdict()
        )  # fmt: skip
    return rows
