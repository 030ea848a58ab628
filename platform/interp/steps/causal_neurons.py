"""Causal neurons: what the outputs lose when a single channel is replaced, and how blocks influence each other.

Every channel of the sites has the effect of its replacement (zero, its mean, or values of other prompts) on the
log-probability of the right answer to first order: one backward pass gives all of them. The slope is not the effect, so
the channels with the largest estimates, and as many drawn at random, are replaced one by one, many as the rows of one
pass (`methods.channel_ablation`). They are chosen on one half of the questions and measured on the other, with
bootstrap intervals over questions.

- `channels`: estimates of all, and of the chosen ones the exact effect and the KL divergence of the next-token
  distribution.
- `agreement`: how well the estimates tell the exact effects, over the channels that have both; and whether the chosen
  ones do more than random ones (`methods.against_random`).
- `neuron_layers`: how far each chosen channel moves the outputs of the mixers above, as a share of their size.
- `influence`: the same of replacing a block's whole mixer output, from each block to each above it; beside it a move of
  equal length in random directions, token by token: the level of any disturbance of that size.
- `layers`: what replacing it does to the answers.

The source work ablates by zero and takes the change of the outputs' norm; zero, mean and resampling are offered here
because a zero may lie far from what the channel ever holds. What a channel does alone leaves out what several do
together: `bottlenecks` ablates sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from pydantic import Field

from ...runtime.plan import digest_of
from ...scoring.statistics import bootstrap_columns, correlations, holm
from ..engine.batches import spread
from ..engine.columns import bounded, column, number, ranks, tied_ranks
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, Place, check_sites, places, rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.against_random import AgainstRandom, against_random, verdicts
from ..methods.causal_passes import (
    EXACT_SCHEMA,
    FIRST_ORDER_SCHEMA,
    INFLUENCE_SCHEMA,
    batch_exact,
    batch_first_order,
    batch_influence,
    first_watched,
)
from ..methods.channel_ablation import OUTPUT, Ablation
from ..methods.moments import merge_rows
from ..methods.question_halves import group_of, halves_by_group
from .delta_sensitivity import BATCH_SCHEMA as MOMENTS_SCHEMA
from .delta_sensitivity import batch_moments


class Settings(StepSettings):
    small = {"resamples": 100, "top": 2, "random": 2, "draws": 2}

    sites: Sites = ("mixer.x?", "mixer_out")
    """sites of each block (with ?: where the model has it) whose channels are neurons"""
    ablation: Ablation = "mean"
    """what a channel is replaced by: zero, its mean over all tokens, or (resample) other prompts' values"""
    draws: int = Field(5, ge=1, le=100)
    """other prompts, for resample"""
    top: int = Field(6, ge=1)
    """channels of each site that are measured exactly, those of the largest estimates"""
    random: int = Field(6, ge=2)
    """others drawn at random that are, too"""
    prompts: int = Field(32, ge=1)
    """questions at most on which they are"""
    rows_at_once: int = Field(64, ge=1)
    """rows of a pass: questions times ablations"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of the bootstrap, and random signs"""
    confidence: float = Field(0.95, gt=0, lt=1)


_PLACE = [column("layer", pa.int32(), "block"), column("site", pa.string(), "site, relative to the block")]
_STATUS = [
    column("status", pa.string(), "ok; model_nonfinite: no question was left; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value; null where there is one"),
]
_EFFECTS = [
    *bounded("effect", "change of the right answer's log-probability by the replacement, nats", "questions"),
    *bounded("kl", "KL divergence of the next-token distribution at the prompt's last token, nats", "questions"),
]
CHANNELS_SCHEMA = pa.schema([
    *_PLACE,
    column("channel", pa.int32(), "channel of the site"),
    *bounded("first_order", "change of the right answer's log-probability to first order, nats", "questions"),
    column("rank", pa.int32(), "1 is the channel of largest |first_order| at this layer and site; ties by channel"),
    column("chosen", pa.string(), "top, by the estimates on one half of the questions, or random; null: not measured"),
    *_EFFECTS,
    column("effect_rank", pa.int32(), "1 is the measured channel of largest |effect| at this layer and site"),
    column("n_prompts", pa.int32(), "questions behind first_order"),
    column("n_measured", pa.int32(), "questions behind effect and kl, of the other half"),
    column("n_nonfinite", pa.int32(), "questions left out because the answer or the gradient was not finite"),
    *_STATUS,
])  # fmt: skip
AGREEMENT_SCHEMA = pa.schema([
    *_PLACE,
    column("channels", pa.int32(), "channels with both"),
    column("pearson", pa.float64(), "correlation of estimate and effect, both over the measured questions"),
    column("spearman", pa.float64(), "of their ranks"),
    column("same_sign", pa.float64(), "share of the channels where both have one sign"),
    column("top_effect", pa.float64(), "mean effect of the chosen channels, nats"),
    column("random_effect", pa.float64(), "mean effect of the random ones"),
    column("difference", pa.float64(), "the first less the second; below 0: the chosen ones cost more"),
    column("difference_low", pa.float64(), "lower bound of its interval over questions"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p_prompts", pa.float64(), "two-sided sign-flip p-value over questions"),
    column("p_draws", pa.float64(), "two-sided p-value of the chosen ones' mean being one more random channel"),
    column("p_holm", pa.float64(), "the larger of the two, corrected for all rows"),
    column("verdict", pa.string(), "by p_holm: stronger than random, weaker than random, or no difference shown"),
    *_STATUS,
])  # fmt: skip
NEURON_LAYERS_SCHEMA = pa.schema([
    *_PLACE,
    column("channel", pa.int32(), "a chosen channel"),
    column("target", pa.int32(), "block whose mixer's output is looked at"),
    *bounded("moved", "how far its replacement moves that output, as a share of the output's size", "questions"),
    *_STATUS,
])  # fmt: skip
INFLUENCE_SCHEMA_OUT = pa.schema([
    column("layer", pa.int32(), "block whose mixer's output is replaced"),
    column("target", pa.int32(), "block above whose mixer's output is looked at"),
    *bounded("moved", "how far it moves, as a share of its size", "questions"),
    *bounded("control", "the same of a random move of equal length", "questions"),
    *_STATUS,
])  # fmt: skip
LAYERS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block whose mixer's output is replaced"),
    *_EFFECTS,
    *bounded("control_effect", "change of log-probability by a random move of equal length, nats", "questions"),
    *bounded("control_kl", "KL divergence by it, nats", "questions"),
    column("n_measured", pa.int32(), "questions counted"),
    *_STATUS,
])  # fmt: skip

VIEW = View(
    "Causal neurons: what single channels and blocks do to the outputs",
    "Estimates of all channels are slopes; the chosen ones were replaced one by one on questions on which they were "
    "not chosen. Influence is how far a replacement moves the outputs above, beside a random move of equal length.",
    (
        MapPart(part="channels", rows="layer", columns="channel", value="first_order", each=("site",), scale="signed",
                title="First-order effect of replacing a channel: {site}", label="nats", words=SITE_WORDS),
        TablePart(
            part="channels", title="Channels that were replaced", only={"status": "ok", "chosen": "top"},
            sort=("effect",), top=24,
            columns=(
                Column("layer"), Column("site"), Column("channel"),
                Column("effect", "log-probability, nats", "effect_low", "effect_high", form="signed"),
                Column("first_order", "to first order", form="signed"), Column("kl", "KL, nats", "kl_low", "kl_high"),
                Column("n_measured", "questions"),
            ),
        ),
        TablePart(
            part="agreement", title="Do the estimates tell the effects?", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("channels"), Column("pearson", form="signed", absent="–"),
                Column("spearman", form="signed", absent="–"), Column("same_sign", "same sign"),
                Column("top_effect", "chosen", form="signed"), Column("random_effect", "random", form="signed"),
                Column("difference", "difference", "difference_low", "difference_high", form="signed", absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("verdict", absent="–"),
            ),
        ),
        MapPart(part="influence", rows="layer", columns="target", value="moved", only={"status": "ok"},
                title="Influence of a block (row) on the blocks above", label="share of the output's size"),
        MapPart(part="influence", rows="layer", columns="target", value="control", only={"status": "ok"},
                title="The same of a random move of equal length", label="share of the output's size"),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Moments, a pass forwards and backwards, and for each measured channel and block part of a pass of some."""
    settings = asked.settings
    found = places(asked.model, asked.layers, settings.sites)
    share = min(settings.prompts, len(lengths) / 2) / max(1, len(lengths))
    draws = settings.draws if settings.ablation == "resample" else 1
    ablations = draws * (len(found) * (settings.top + settings.random) + 2 * len(asked.layers))
    channels = sum(place.channels for place in found)
    written = of_files(5) + 60 * channels + 400 * ablations
    return Effort((4.5 + 1.0 * share * ablations) * sum(lengths), written, 1.0 + 2e-3 * ablations)


@step("causal_neurons", settings=Settings, seeded=True, check=check_sites, view=VIEW, cost=cost)
def causal_neurons(job: Job) -> Tables:
    """Effect of replacing single channels on the answers, estimated for all and measured for some, and of blocks."""
    return _Found(job).tables()


class _Found:
    """Runs the passes of a job and puts their rows together."""

    def __init__(self, job: Job) -> None:
        self.job, settings = job, job.settings
        self.places = places(job.model, job.layers, settings.sites)
        outputs = places(job.model, job.layers, [OUTPUT])
        sites = list(dict.fromkeys([*settings.sites, OUTPUT]))
        moments = job.map(batch_moments, MOMENTS_SCHEMA, {"layers": list(job.layers), "sites": sites}).to_pylist()
        means = {p.name: merge_rows(rows_at(moments, p.layer, p.site), p.channels).mean.tolist()
                 for p in (*self.places, *outputs)}  # fmt: skip
        choosing, measuring = halves_by_group(job.items, job.seed)
        self.groups = {item.id: group_of(item) for item in job.items}
        self.asked = [i.id for i in spread([i for i in job.items if i.id in measuring], settings.prompts)]
        how = settings.model_dump(include={"sites", "ablation", "draws", "rows_at_once"}, mode="json")
        arguments = how | {"layers": list(job.layers), "means": means, "asked": self.asked, "seed": job.seed}
        estimates = job.map(batch_first_order, FIRST_ORDER_SCHEMA, arguments).to_pylist()
        self.estimates = {p.name: {r["id"]: r["effects"] for r in rows_at(estimates, p.layer, p.site) if r["effects"]}
                          for p in self.places}  # fmt: skip
        self.alone = any(row["alone"] for row in estimates)
        self.chosen = {p.name: self._choose(p, choosing) for p in self.places}
        channels = {name: sorted(of) for name, of in self.chosen.items() if of}
        self.exact: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
        for row in job.map(batch_exact, EXACT_SCHEMA, arguments | {"channels": channels}).to_pylist():
            if row["effect"] is not None:
                self.exact.setdefault((row["layer"], row["site"], row["channel"]), []).append(row)
        self.moves = job.map(batch_influence, INFLUENCE_SCHEMA, arguments).to_pylist()

    def tables(self) -> Tables:
        schemas = {
            "channels": CHANNELS_SCHEMA, "agreement": AGREEMENT_SCHEMA, "neuron_layers": NEURON_LAYERS_SCHEMA,
            "influence": INFLUENCE_SCHEMA_OUT, "layers": LAYERS_SCHEMA,
        }  # fmt: skip
        rows = {
            "channels": [row for place in self.places for row in self._channels(place)],
            "agreement": self._agreements(),
            "neuron_layers": [row for place in self.places for row in self._neuron_layers(place)],
            **self._layers(),
        }
        return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in schemas.items()}

    def _choose(self, place: Place, choosing: frozenset[str]) -> dict[int, str]:
        """Channel -> top or random; none where no question of the half has an estimate."""
        own = [effects for id_, effects in self.estimates[place.name].items() if id_ in choosing]
        if not own:
            return {}
        rank, settings = ranks(np.abs(np.mean(own, 0))), self.job.settings
        top = np.flatnonzero(rank <= settings.top).tolist()
        others = [c for c in range(place.channels) if c not in set(top)]
        stream = int(digest_of([self.job.seed, place.name, "random"])[:16], 16)
        drawn = np.random.default_rng(stream).permutation(others)[: settings.random].tolist()
        return dict.fromkeys(top, "top") | dict.fromkeys(drawn, "random")

    def _estimate(self, values: ArrayLike, ids: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        """Means with intervals of values (questions, columns), by the columns' names."""
        settings = self.job.settings
        found = bootstrap_columns(
            values, seed=self.job.seed, confidence=settings.confidence, n_resamples=settings.resamples,
            groups=[self.groups[id_] for id_ in ids],
        )  # fmt: skip
        row: dict[str, Any] = {}
        for name, *bounds in zip(names, *found, strict=True):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(number, bounds), strict=True))
        return row

    def _channels(self, place: Place) -> list[dict[str, Any]]:
        of = self.estimates[place.name]
        about = {"layer": place.layer, "site": place.site, "n_prompts": len(of),
                 "n_nonfinite": len(self.job.items) - len(of)}  # fmt: skip
        if not of:
            return [about | self._nothing()]
        names = [str(c) for c in range(place.channels)]
        estimates = self._estimate(list(of.values()), list(of), names)
        rank = ranks([abs(estimates[name]) for name in names])
        rows: list[dict[str, Any]] = []
        for c, name in enumerate(names):
            row = about | {"channel": c, "rank": int(rank[c]), "chosen": self.chosen[place.name].get(c), "status": "ok"}
            row |= {f"first_order{end}": estimates[f"{name}{end}"] for end in ("", "_low", "_high")}
            rows.append(row | self._effects(self.exact.get((place.layer, place.site, c), [])))
        measured = [row for row in rows if row.get("effect") is not None]
        for row, at in zip(measured, ranks([abs(row["effect"]) for row in measured]), strict=True):
            row["effect_rank"] = int(at)
        return rows

    def _effects(self, rows: Sequence[Mapping[str, Any]], prefix: str = "") -> dict[str, Any]:
        if not rows:
            return {}
        values = [(row["effect"], row["kl"]) for row in rows]
        names = (f"{prefix}effect", f"{prefix}kl")
        return self._estimate(values, [row["id"] for row in rows], names) | {"n_measured": len(rows)}

    def _nothing(self) -> dict[str, Any]:
        """The status where nothing was measured."""
        if any(self.estimates.values()):
            return {"status": NOT_APPLICABLE, "reason": "no question was left to measure on"}
        if self.alone:
            return {"status": NOT_APPLICABLE, "reason": "a batch of one question has no other one to resample from"}
        return {"status": "model_nonfinite", "reason": "no question with finite scores was left"}

    def _agreements(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        tests: list[AgainstRandom | None] = []
        for place in self.places:
            row, test = self._agreement(place)
            rows.append(row)
            tests.append(test)
        corrected = holm([None if test is None else test.p for test in tests])
        for row, test, p_holm in zip(rows, tests, corrected, strict=True):
            if test is not None:
                (verdict,) = verdicts([test], [p_holm], self.job.settings.confidence)
                row |= {"p_prompts": test.p_prompts, "p_draws": test.p_draws, "p_holm": p_holm, "verdict": verdict,
                        "difference": test.difference, "difference_low": test.low,
                        "difference_high": test.high}  # fmt: skip
        return rows

    def _agreement(self, place: Place) -> tuple[dict[str, Any], AgainstRandom | None]:
        about: dict[str, Any] = {"layer": place.layer, "site": place.site}
        kinds = self.chosen[place.name]
        effects = {c: {r["id"]: r["effect"] for r in self.exact.get((place.layer, place.site, c), [])} for c in kinds}
        of = self.estimates[place.name]
        ids = [id_ for id_ in self.asked if id_ in of and all(id_ in each for each in effects.values())]
        if not ids or not kinds:
            return about | {"status": NOT_APPLICABLE, "reason": "no question was left to measure on"}, None
        exact = np.array([[effects[c][id_] for id_ in ids] for c in kinds])  # (channels, questions)
        estimate = np.array([[of[id_][c] for id_ in ids] for c in kinds]).mean(1)
        mean = exact.mean(1)
        plain, ranked = (correlations([a], b, seed=self.job.seed, n_draws=100)[0].r
                         for a, b in ((estimate, mean), (tied_ranks(estimate), tied_ranks(mean))))  # fmt: skip
        top = np.array([kind == "top" for kind in kinds.values()])
        row = about | {"channels": len(kinds), "pearson": plain, "spearman": ranked, "status": "ok",
                       "same_sign": float((np.sign(estimate) == np.sign(mean)).mean()),
                       "top_effect": float(mean[top].mean())}  # fmt: skip
        if top.all():
            return row, None
        settings = self.job.settings
        test = against_random(
            exact[top].mean(0), exact[~top], seed=self.job.seed, confidence=settings.confidence,
            n_resamples=settings.resamples,
        )  # fmt: skip
        return row | {"random_effect": float(mean[~top].mean())}, test

    def _neuron_layers(self, place: Place) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for channel, kind in sorted(self.chosen[place.name].items()):
            measured = self.exact.get((place.layer, place.site, channel), [])
            if kind == "top":
                about = {"layer": place.layer, "site": place.site, "channel": channel}
                rows += [about | row for row in self._moved(measured, first_watched(place), ("moved",))]
        return rows

    def _moved(self, rows: Sequence[Mapping[str, Any]], first: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """By target; rows of several kinds of a question stand next to each other, in the order of `names`."""
        found: list[dict[str, Any]] = []
        for target in range(first, self.job.model.n_layers):
            values = np.array([row["moved"][target - first] for row in rows]).reshape(-1, len(names))
            ids = [row["id"] for row in rows[:: len(names)]]
            about: dict[str, Any] = {"target": target}
            if not len(values):
                found.append(about | self._nothing())
            elif not np.isfinite(values).all():
                found.append(about | {"status": NOT_APPLICABLE, "reason": "the output is zero"})
            else:
                found.append(about | self._estimate(values, ids, names) | {"status": "ok"})
        return found

    def _layers(self) -> dict[str, list[dict[str, Any]]]:
        layers: list[dict[str, Any]] = []
        influence: list[dict[str, Any]] = []
        for layer in self.job.layers:
            here = [row for row in self.moves if row["layer"] == layer and row["effect"] is not None]
            plain, control = ([r for r in here if r["control"] == kind] for kind in (False, True))
            known = {row["id"] for row in plain} & {row["id"] for row in control}
            plain, control = ([row for row in part if row["id"] in known] for part in (plain, control))
            about = {"layer": layer, "n_measured": len(plain)}
            effects = self._effects(plain) | self._effects(control, "control_")
            status = {"status": "ok"} if plain else self._nothing()
            layers.append(about | effects | status)
            pairs = [row for both in zip(plain, control, strict=True) for row in both]
            influence += [{"layer": layer} | row for row in self._moved(pairs, layer + 1, ("moved", "control"))]
        top = [{"layer": layer, "status": NOT_APPLICABLE, "reason": "there is no block above"}
               for layer in self.job.layers if layer == self.job.model.n_layers - 1]  # fmt: skip
        return {"layers": layers, "influence": influence + top}
