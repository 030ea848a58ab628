"""Ablations of groups of channels, and what the most attributed ones cost beside random ones; for `bottlenecks`.

A group is *mean-ablated*: at every token its channels are replaced by their means. The effect is the paired change of
the answer's log-probability and of teacher-forced accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ...models.access.edits import Replace
from ...runtime.plan import digest_of
from ...scoring.statistics import bootstrap_mean, holm
from ..engine.answers import score_answers
from ..engine.batches import Batch, halves
from ..engine.columns import ranks
from ..engine.places import Place, rows_at
from ..engine.step import Job
from .against_random import AgainstRandom, against_random, verdicts
from .typed_tensors import nested

if TYPE_CHECKING:
    from ...models import LanguageModel

#: the source work calls channels a bottleneck when their ablation costs more than 2 %; kept as its convention, by name
CONVENTION_COST = 0.02

BATCH_SCHEMA = pa.schema(
    [("id", pa.string()), ("group", pa.int32()), ("logprob", pa.float64()), ("correct", pa.bool_())]
)


class Group(NamedTuple):
    """Channels to ablate together. channels is None where they cannot be chosen, mean where they cannot be replaced."""

    place: Place
    kind: str
    draw: int | None
    size: int
    channels: list[int] | None
    mean: list[float] | None
    attribution: float | None
    half: int | None = None  # of the prompts on which it was chosen; None: on all, or without looking

    @property
    def usable(self) -> bool:
        return self.channels is not None and self.mean is not None


Set = tuple[str, tuple[int, ...]]


def _set(group: Group) -> Set:
    """What is ablated, whatever it was chosen for."""
    return group.place.name, tuple(group.channels or ())


def ablation_rows(job: Job, asked: Sequence[Place]) -> list[dict[str, Any]]:
    """Rows of channels and of groups, as the table of `bottlenecks` has them; settings and upstream are that step's."""
    attributed = job.upstream["attribution"][""].to_pylist()
    moments = job.upstream["delta_sensitivity"][""].to_pylist()
    rows: list[dict[str, Any]] = []
    groups: list[Group] = []
    for place in asked:
        here = _rows_of(attributed, place)
        means = [row["mean"] for row in _rows_of(moments, place)]
        rows += [_channel_row(row) for row in here]
        groups += _groups(place, here, means, job.settings, job.seed)
    # sets that occur twice, such as the choices of both halves, are ablated once
    usable = list({_set(group): group for group in groups if group.usable}.values())
    numbers = {_set(group): number for number, group in enumerate(usable)}
    arguments = {"groups": [{"site": g.place.name, "channels": g.channels, "mean": g.mean} for g in usable]}
    answers = _Answers(job.map(batch_ablations, BATCH_SCHEMA, arguments), [item.id for item in job.items], len(usable))
    group_rows = [_group_row(g, answers, numbers.get(_set(g)), job) for g in groups if g.half is None]
    _rank(group_rows)
    _compare(group_rows, groups, answers, numbers, job)
    return rows + group_rows


def _rows_of(rows: Sequence[dict[str, Any]], place: Place) -> list[dict[str, Any]]:
    here = rows_at(rows, place.layer, place.site)
    assert len(here) == place.channels, f"{place.name}: `check` lets only sites pass that the steps before looked at"
    return here


def _groups(
    place: Place, here: list[dict[str, Any]], means: list[float | None], settings: Any, seed: int
) -> list[Group]:
    """All channels, then for every share the top ones and their random controls."""
    scores = [row["attribution"] for row in here]
    ranked = [row["rank"] for row in here]

    def group(
        kind: str, size: int, channels: list[int] | None, draw: int | None = None, half: int | None = None
    ) -> Group:
        if channels is None:
            return Group(place, kind, draw, size, None, None, None, half)
        chosen = sorted(channels)
        attributions = _complete([scores[c] for c in chosen])
        total = None if attributions is None else sum(attributions)
        return Group(place, kind, draw, size, chosen, _complete([means[c] for c in chosen]), total, half)

    result = [group("all", place.channels, list(range(place.channels)))]
    for share in settings.top_shares:
        k = max(1, round(share * place.channels))
        if k >= place.channels:
            continue  # the group of all channels says it
        top = None if None in ranked else [c for c in range(place.channels) if ranked[c] <= k]
        result.append(group("top", k, top))
        chosen = set(top or ())
        for half, name in enumerate(("attribution_first", "attribution_second")):
            of_half = _complete([row[name] for row in here])
            best = None if of_half is None else np.flatnonzero(ranks(np.abs(of_half)) <= k).tolist()
            result.append(group("top", k, best, half=half))
            chosen |= set(best or ())
        # a control that holds the very channels in question is none
        others = [c for c in range(place.channels) if c not in chosen]
        pool = others if len(others) >= 2 * k else list(range(place.channels))
        for draw in range(settings.random_draws):
            stream = int(digest_of([seed, place.name, k, draw])[:16], 16)  # so that no set depends on the other groups
            picked = np.random.default_rng(stream).choice(pool, k, replace=False)
            result.append(group("random", k, [int(c) for c in picked], draw))
    return result


def _complete(values: list[float | None]) -> list[float] | None:
    """The values, or None where one of them is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


@torch.no_grad()
def batch_ablations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Answer scores of one batch: group -1 as the model is, group g with the channels of group g at their means."""
    answered = batch.answered()
    rows: list[dict[str, Any]] = []

    def score(group: int) -> None:
        scores = score_answers(model(answered.tokens, answered.mask), answered)
        values = zip(batch.items, *(nested(of) for of in (scores.logprob, scores.correct, scores.finite)), strict=True)
        for item, logprob, correct, finite in values:
            row: dict[str, Any] = {"logprob": logprob, "correct": correct} if finite else {}
            rows.append({"id": item.id, "group": group} | row)

    score(-1)
    for number, group in enumerate(arguments["groups"]):
        with model.edit(Replace(group["site"], group["mean"], channels=group["channels"])):
            score(number)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


class _Answers:
    """Answer scores by group and prompt, in the order of the questions; NaN where the model's were not finite."""

    def __init__(self, table: pa.Table, ids: list[str], n_groups: int) -> None:
        place = {id_: i for i, id_ in enumerate(ids)}
        self.logprob = np.full((n_groups + 1, len(ids)), np.nan)
        self.correct = np.full((n_groups + 1, len(ids)), np.nan)
        for row in table.to_pylist():
            if row["logprob"] is not None:
                self.logprob[row["group"] + 1, place[row["id"]]] = row["logprob"]
                self.correct[row["group"] + 1, place[row["id"]]] = row["correct"]

    def change(self, number: int) -> np.ndarray:
        """Change of the log-probability by ablating group `number`, prompt by prompt."""
        return self.logprob[number + 1] - self.logprob[0]


def _channel_row(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("layer", "site", "channel", "attribution", "rank", "n_prompts", "n_nonfinite", "status")
    return {name: row.get(name) for name in kept} | {"kind": "channel", "n_channels": 1, "control": False}


def _group_row(group: Group, answers: _Answers, number: int | None, job: Job) -> dict[str, Any]:
    row = {
        "kind": "group", "layer": group.place.layer, "site": group.place.site, "channels": group.channels,
        "n_channels": group.size, "group": group.kind, "draw": group.draw, "control": group.kind == "random",
        "attribution": group.attribution,
    }  # fmt: skip
    n = answers.logprob.shape[1]
    finite = np.zeros(n, bool) if number is None else np.isfinite(answers.logprob[[0, number + 1]]).all(0)
    row |= {"n_prompts": int(finite.sum()), "n_nonfinite": int(n - finite.sum())}
    if number is None or not finite.any():
        return row | {"status": "model_nonfinite"}
    change = {
        name: bootstrap_mean(
            (values[number + 1] - values[0])[finite],
            seed=job.seed,
            confidence=job.settings.confidence,
            n_resamples=job.settings.resamples,
        )
        for name, values in (("logprob", answers.logprob), ("correct", answers.correct))
    }
    accuracy = change["correct"]
    assert accuracy.mean is not None
    return row | {
        "clean_logprob": float(answers.logprob[0][finite].mean()),
        "clean_accuracy": float(answers.correct[0][finite].mean()),
        "effect_logprob": change["logprob"].mean,
        "effect_low": change["logprob"].low,
        "effect_high": change["logprob"].high,
        "accuracy_change": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "is_bottleneck": -accuracy.mean > CONVENTION_COST,
        "status": "ok",
    }


def _compare(
    rows: list[dict[str, Any]], groups: Sequence[Group], answers: _Answers, numbers: Mapping[Set, int], job: Job
) -> None:
    """Set difference, p-values and verdict of the rows of top groups."""
    tested: list[tuple[dict[str, Any], AgainstRandom]] = []
    for row in rows:
        if row["group"] != "top" or row["status"] != "ok":
            continue
        family = [
            g for g in groups if (g.place.layer, g.place.site, g.size) == (row["layer"], row["site"], row["n_channels"])
        ]
        random = [answers.change(numbers[_set(g)]) for g in family if g.kind == "random" and g.usable]
        chosen = [g for g in family if g.half is not None]
        if len(random) < job.settings.random_draws or not all(g.usable for g in chosen):
            continue
        effects = np.full(len(job.items), np.nan)
        for group in chosen:
            assert group.half is not None
            others = halves(job.items)[1 - group.half]
            asked = np.array([item.id in others for item in job.items])
            effects[asked] = answers.change(numbers[_set(group)])[asked]
        finite = np.isfinite([effects, *random]).all(0)
        test = against_random(
            effects[finite], np.stack(random)[:, finite], seed=job.seed, confidence=job.settings.confidence,
            n_resamples=job.settings.resamples,
        )  # fmt: skip
        tested.append((row, test))
    corrected = holm([test.p for _, test in tested])
    words = verdicts([test for _, test in tested], corrected, job.settings.confidence)
    for (row, test), p_holm, verdict in zip(tested, corrected, words, strict=True):
        row |= {
            "difference": test.difference, "difference_low": test.low, "difference_high": test.high,
            "p_prompts": test.p_prompts, "p_draws": test.p_draws, "p_holm": p_holm, "verdict": verdict,
        }  # fmt: skip


def _rank(rows: list[dict[str, Any]]) -> None:
    """Set `rank` in group rows that are no controls and have an effect: 1 is the most harmful of its family."""
    families: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if not row["control"] and row["status"] == "ok":
            families.setdefault((row["site"], row["group"], row["n_channels"]), []).append(row)
    for family in families.values():
        for row, rank in zip(family, ranks([-row["effect_logprob"] for row in family]), strict=True):
            row["rank"] = int(rank)
