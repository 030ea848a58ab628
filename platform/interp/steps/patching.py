"""Patching: whether what `circuits` ranked first is necessary and sufficient for the answer, beside random controls.

Of every kind of candidate the first ones, and those that are named, are replaced on questions that did not rank them
(`methods.replacement_runs`): zero, mean and resampled values and those of a prompt that states another answer say
whether they are necessary; their clean values in that prompt, and corrupted values in everything else of their sites,
whether they are sufficient. The same is done to random controls of equal size; p-values are corrected after Holm over
the candidates tested in the same way.

Latents of autoencoders are read by those of the step `sae`, which it gets where `circuits` does.

Parts: `effects`; `horizons`, by how far back the fact stands; `classes`, by kind of question; `pairs`, two candidates
at once, by which redundant ones show; `prompts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ...core.errors import UsageError
from ...scoring.statistics import Difference, holm, paired_difference
from ..engine.effort import mean_length, of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..methods.against_random import against_random, verdicts
from ..methods.candidates import Candidate, named, together
from ..methods.contrast_runs import Chosen, chosen_contrasts
from ..methods.contrasts import Judged
from ..methods.controls import complement, controls, overlap
from ..methods.faithfulness import faithfulness
from ..methods.feature_candidates import readable_of
from ..methods.latents import Latents
from ..methods.patching_schema import CLASSES_SCHEMA, EFFECTS_SCHEMA, HORIZONS_SCHEMA, PAIRS_SCHEMA, VIEW
from ..methods.replacement_runs import HOW, Replacements

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]
_CONTROLLED = ("mean", "corrupted", "patched")
_PAIRED = ("zero", "mean", "corrupted")
_THREE = ("first", "second", "both")
_REDUNDANT = 0.5  # of what both cost: more than that shows only where both are replaced


class Settings(StepSettings):
    small = {
        "test": 2,
        "per_kind": 1,
        "kinds": 2,
        "draws": 1,
        "controls": 2,
        "paired": 2,
        "horizons": 1,
        "resamples": 100,
    }

    test: int = Field(24, ge=1)
    """questions at most on which candidates are measured, of the test questions of `circuits`"""
    judged: Judged = "logit_diff"
    """metric, as in `circuits`"""
    per_kind: int = Field(1, ge=1)
    """candidates of each kind, the first of the ranking"""
    kinds: int = Field(8, ge=1)
    """kinds at most, those whose first candidate is ranked first"""
    named: tuple[str, ...] = ()
    """further candidates: selections of sites, such as blocks.0.mixer_out[3,4] or blocks.1.mixer.h, and edges through
    the stream, such as blocks.0.mixer_out > blocks.1.mixer_in, each one or several joined by +"""
    draws: int = Field(5, ge=1)
    """resampled prompts for each question"""
    controls: int = Field(5, ge=1)
    """random controls of equal size for each candidate"""
    paired: int = Field(4, ge=1)
    """of the candidates that share nothing, those that are replaced two at once; named ones are always among them"""
    horizons: int = Field(3, ge=1)
    """bins of distance, with equally many questions"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """random signs"""
    confidence: float = Field(0.95, gt=0, lt=1)


def check(asked: Asked) -> None:
    """`Step.check`: the model has what is named, and the metric is the one that ranked the candidates."""
    upstream = asked.upstream.get("circuits")
    if upstream is not None and upstream.judged != asked.settings.judged:
        raise UsageError(f"judged is {asked.settings.judged!r}, and {upstream.judged!r} in circuits: set both alike")
    for text in asked.settings.named:
        named(asked.model, text)


def also(settings: Settings, upstream: Mapping[str, Any]) -> list[str]:
    """`Step.also`: the step whose autoencoders the candidates' latents are of."""
    return ["sae"] if "latents" in upstream["circuits"].candidates else []


class _Ranked(NamedTuple):
    candidate: Candidate
    rank: int | None


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: pairs of prompts, once for each candidate and control and each way to replace them."""
    settings: Settings = asked.settings
    pairs = min(settings.test, len(lengths)) * mean_length(lengths)
    return Effort(4.5 * settings.kinds * settings.per_kind * (settings.draws + settings.controls) * pairs, of_files(4))


@step("patching", needs=("circuits",), settings=Settings, seeded=True, check=check, view=VIEW, cost=cost, also=also)
def patching(job: Job) -> Tables:
    """Whether the candidates ranked first are necessary and sufficient for the answer, beside random controls."""
    settings: Settings = job.settings
    upstream = job.upstream["circuits"]
    chosen = _test_questions(job, upstream["prompts"])
    candidates = _candidates(job, upstream["candidates"].to_pylist())
    clean, corrupted = chosen.ends(chosen.test)
    if not chosen.usable or not candidates or faithfulness(clean, clean, corrupted) is None:
        return _tables(chosen.prompts)
    measured = _Measured(job, chosen, candidates, settings)
    return _tables(
        chosen.prompts, measured.effects(), measured.horizons(), measured.classes(), measured.pairs()
    )  # fmt: skip


def _test_questions(job: Job, prompts: pa.Table) -> Chosen:
    """The halves that `circuits` chose, the test questions thinned to as many as are asked for."""
    rows = [row for row in prompts.to_pylist() if row["half"] is not None]
    halves = {name: {row["question_id"] for row in rows if row["half"] == name} for name in ("development", "test")}
    everything = chosen_contrasts(
        job, development=len(job.items), test=len(job.items), answered_only=False, judged=job.settings.judged
    )
    both = {c.id: c for c in (*everything.development, *everything.test)}
    test = [both[row["question_id"]] for row in rows if row["half"] == "test"]
    count = min(job.settings.test, len(test))
    kept = [test[i * len(test) // count] for i in range(count)]
    development = [both[id_] for id_ in both if id_ in halves["development"]]
    return everything._replace(development=development, test=kept, prompts=prompts)


def _candidates(job: Job, rows: Sequence[dict[str, Any]]) -> list[_Ranked]:
    """The first ones of each kind in the order of the ranking, then those that are named."""
    settings: Settings = job.settings
    found: dict[str, list[_Ranked]] = {}
    for row in sorted((r for r in rows if r["status"] == "ok"), key=lambda r: r["rank"]):
        of_kind = found.setdefault(row["kind"], [])
        if len(of_kind) < settings.per_kind:
            of_kind.append(_Ranked(Candidate.from_json(json.loads(row["parts"])), row["rank"]))
    first = [one for kind in list(found)[: settings.kinds] for one in found[kind]]
    return first + [_Ranked(named(job.model, text), None) for text in settings.named]


def _tables(
    prompts: pa.Table, effects: Rows | None = None, horizons: Rows | None = None, classes: Rows | None = None,
    pairs: Rows | None = None,
) -> Tables:  # fmt: skip
    none: Rows = [{"status": NOT_APPLICABLE}]
    parts = {
        "effects": (effects, EFFECTS_SCHEMA), "horizons": (horizons, HORIZONS_SCHEMA),
        "classes": (classes, CLASSES_SCHEMA), "pairs": (pairs, PAIRS_SCHEMA),
    }  # fmt: skip
    tables = {
        name: pa.Table.from_pylist([{"status": "ok"} | row for row in (rows or none)], schema=schema)
        for name, (rows, schema) in parts.items()
    }
    return tables | {"prompts": prompts}


class _Measured:
    """Everything that is replaced, measured at once, and the rows that are made of it."""

    def __init__(self, job: Job, chosen: Chosen, candidates: Sequence[_Ranked], settings: Settings) -> None:
        self.job, self.chosen, self.candidates, self.settings = job, chosen, candidates, settings
        readable = readable_of(job)
        autoencoders = {name: one.of for name, one in readable.items()}
        for part in (part for one in candidates for part in one.candidate.parts if isinstance(part, Latents)):
            part.dictionary(job.model, autoencoders)  # one that is missing is refused now
        self.runs = Replacements(job, settings.draws, autoencoders)
        living = {name: one.living for name, one in readable.items()}
        self.controls = {
            one.candidate.name: controls(job.model, one.candidate, job.layers, settings.controls, job.seed, living)
            for one in candidates
        }
        self.rest = {one.candidate.name: complement(one.candidate) for one in candidates}
        for candidate, _ in candidates:
            for how in HOW:
                self.runs.ask(candidate, how)
            for control in self.controls[candidate.name]:
                for how in _CONTROLLED:
                    self.runs.ask(control, how)
            if (rest := self.rest[candidate.name]) is not None:
                self.runs.ask(rest, "corrupted")
        self.paired = self._paired()
        for a, b in self.paired:
            for how in _PAIRED:
                self.runs.ask(together([a, b], f"{a.name} and {b.name}", "pair"), how)
        self.runs.measure(chosen.development, chosen.test, settings.judged)
        self.total = float((self.runs.clean - self.runs.corrupted).mean())

    def _paired(self) -> list[tuple[Candidate, Candidate]]:
        own = [one.candidate for one in self.candidates if one.rank is None]
        ranked = [one.candidate for one in self.candidates if one.rank is not None][: self.settings.paired]
        return [(a, b) for a, b in combinations([*ranked, *own], 2) if not overlap(a, b)]

    def _difference(self, a: Floats, b: Floats) -> Difference:
        return paired_difference(
            a, b, seed=self.job.seed, confidence=self.settings.confidence, n_resamples=self.settings.resamples,
            shares=False,
        )  # fmt: skip

    def _change(self, candidate: Candidate, how: str) -> Floats:
        """Change of the metric (n,) against the prompt that was changed."""
        return self.runs.values(candidate, how) - (self.runs.corrupted if how == "patched" else self.runs.clean)

    # -- rows ---------------------------------------------------------------------------------------------------

    def effects(self) -> Rows:
        rows: Rows = []
        for how in (*HOW, "rest"):
            family: list[tuple[dict[str, Any], Any]] = []
            for one in self.candidates:
                row = self._about(one) | {"how": how}
                rest = self.rest[one.candidate.name]
                if how == "rest" and rest is None:
                    rows.append(row | {"status": NOT_APPLICABLE})
                    continue
                changed = rest if how == "rest" and rest is not None else one.candidate
                change = self._change(changed, "corrupted" if how == "rest" else how)
                row |= self._effect(change, how)
                if how in _CONTROLLED:
                    tested = self._against_controls(one.candidate, how, change)
                    row |= tested[0]
                    family.append((row, tested[1]))
                rows.append(row)
            corrected = holm([test.p if test is not None else None for _, test in family])
            tests = [test for _, test in family if test is not None]
            of_tests = [p for p, (_, test) in zip(corrected, family, strict=True) if test is not None]
            words = iter(verdicts(tests, of_tests, self.settings.confidence))
            for (row, test), p in zip(family, corrected, strict=True):
                if test is not None:
                    row |= {"p_holm": p, "verdict": next(words)}
        return rows

    def _about(self, one: _Ranked) -> dict[str, Any]:
        candidate = one.candidate
        return {"candidate": candidate.name, "kind": candidate.kind, "layer": candidate.layer, "rank": one.rank,
                "size": candidate.size(self.job.model)}  # fmt: skip

    def _effect(self, change: Floats, how: str) -> dict[str, Any]:
        tested = self._difference(change, np.zeros_like(change))
        mean = float(change.mean())
        share = {"patched": mean / self.total, "rest": 1 + mean / self.total}.get(how, -mean / self.total)
        return {"effect": mean, "low": tested.low, "high": tested.high, "p_prompts": tested.p, "share": share,
                "n_prompts": len(change)}  # fmt: skip

    def _against_controls(self, candidate: Candidate, how: str, change: Floats) -> tuple[dict[str, Any], Any]:
        drawn = [self._change(control, how) for control in self.controls[candidate.name]]
        if not drawn:
            return {"n_controls": 0}, None
        sign = -1.0 if how == "patched" else 1.0  # `against_random` counts losses
        test = against_random(
            sign * change, sign * np.stack(drawn), seed=self.job.seed, confidence=self.settings.confidence,
            n_resamples=self.settings.resamples,
        )  # fmt: skip
        shares = -sign * np.array([d.mean() for d in drawn]) / self.total
        low, high = (test.low, test.high) if sign > 0 else (_minus(test.high), _minus(test.low))
        return {
            "control_share": float(shares.mean()), "control_sd": float(shares.std(ddof=1)) if len(drawn) > 1 else None,
            "n_controls": len(drawn), "difference": test.difference if sign > 0 else _minus(test.difference),
            "difference_low": low, "difference_high": high, "p": test.p,
        }, test  # fmt: skip

    def horizons(self) -> Rows:
        distance = np.array([c.distance if c.distance is not None else -1 for c in self.chosen.test])
        order = np.argsort(distance, kind="stable")
        bins = [part for part in np.array_split(order, min(self.settings.horizons, len(order))) if len(part)]
        rows: Rows = []
        for one in self.candidates:
            for how in ("corrupted", "patched"):
                change = self._change(one.candidate, how) * (1 if how == "patched" else -1)
                for part in bins:
                    total = float((self.runs.clean - self.runs.corrupted)[part].mean())
                    about = {
                        "candidate": one.candidate.name, "kind": one.candidate.kind, "how": how,
                        "horizon": f"{distance[part].min()} - {distance[part].max()}",
                    }  # fmt: skip
                    if abs(total) < 1e-12:
                        rows.append(about | {"status": NOT_APPLICABLE})
                        continue
                    test = self._difference(change[part], np.zeros(len(part)))
                    bounds = [None if v is None else v / total for v in (test.low, test.high)]
                    low, high = bounds if total > 0 else bounds[::-1]
                    rows.append(about | {
                        "distance": float(distance[part].mean()), "share": float(change[part].mean()) / total,
                        "low": low, "high": high, "n_prompts": len(part),
                    })  # fmt: skip
        return rows

    def classes(self) -> Rows:
        """What taking the first of each ranking away does to each kind of question, beside as many others."""
        kinds = [c.kind for c in self.chosen.test]
        rows: Rows = []
        for one in self.candidates:
            drawn = self.controls[one.candidate.name]
            right = self.runs.values(one.candidate, "mean", right=True)
            change = self._change(one.candidate, "mean")
            other = np.mean([self._change(control, "mean") for control in drawn], 0) if drawn else None
            said = np.mean([self.runs.values(c, "mean", right=True) for c in drawn], 0) if drawn else None
            for kind in (None, *dict.fromkeys(k for k in kinds if k is not None)):
                here = np.array([kind is None or k == kind for k in kinds])
                test = self._difference(change[here], np.zeros(int(here.sum())))
                row = {
                    "candidate": one.candidate.name, "kind": one.candidate.kind, "of_kind": kind,
                    "change": test.mean, "low": test.low, "high": test.high, "n_prompts": int(here.sum()),
                    "accuracy": float(right[here].mean()), "accuracy_clean": float(self.runs.right[-1][here].mean()),
                }  # fmt: skip
                if other is not None and said is not None:
                    beside = self._difference(change[here], other[here])
                    row |= {"control_change": float(other[here].mean()), "difference": beside.mean, "p": beside.p,
                            "accuracy_controls": float(said[here].mean())}  # fmt: skip
                rows.append(row)
        for kind in dict.fromkeys(row["of_kind"] for row in rows):
            family = [row for row in rows if row["of_kind"] == kind]
            for row, p in zip(family, holm([row.get("p") for row in family]), strict=True):
                row["p_holm"] = p
        return rows

    def pairs(self) -> Rows:
        """What two candidates cost at once beside the sum of what each costs, in the metric and in answers."""
        rows: Rows = []
        for how in _PAIRED:
            family: Rows = []
            for a, b in self.paired:
                three = [a, b, together([a, b], "", "pair")]
                lost = [-self._change(one, how) for one in three]
                answers = [self.runs.right[-1] - self.runs.values(one, how, right=True) for one in three]
                row = {"first": a.name, "second": b.name, "how": how, "n_prompts": len(lost[0])}
                family.append(
                    row | self._interaction(lost, self.total, "share") | self._interaction(answers, 1.0, "lost")
                )
            for part in ("share", "lost"):
                for row, p in zip(family, holm([row[f"p_{part}"] for row in family]), strict=True):
                    row[f"p_{part}"] = p
            rows += [row | {"verdict": self._verdict(row)} for row in family]
        return rows

    def _interaction(self, of_three: Sequence[Floats], unit: float, part: str) -> dict[str, Any]:
        first, second, both = of_three
        test = self._difference(both, first + second)
        bounds = [None if value is None else value / unit for value in (test.low, test.high)]
        values = {f"{name}_{part}": float(x.mean()) / unit for name, x in zip(_THREE, of_three, strict=True)}
        return values | {
            f"interaction_{part}": None if test.mean is None else test.mean / unit, f"p_{part}": test.p,
            f"low_{part}": bounds[unit < 0], f"high_{part}": bounds[unit > 0],
        }  # fmt: skip

    def _verdict(self, row: dict[str, Any]) -> str | None:
        """By the answers where these show something, else by the metric."""
        if row["p_lost"] is None:
            return None
        for part in ("lost", "share"):
            if row[f"p_{part}"] <= 1 - self.settings.confidence:
                more = row[f"interaction_{part}"]
                if more < 0:
                    return "in series"
                return "redundant" if more > _REDUNDANT * row[f"both_{part}"] else "partly redundant"
        return "no interaction shown"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
