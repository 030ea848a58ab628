"""Which channels the right answer passes through: taken away beside random ones, and as detectors see them.

A group of channels is *mean-ablated*: at every token its values are replaced by their means over the tokens of all
prompts (from `delta_sensitivity`). Groups, for each layer and site: all channels; the share of channels with the
largest |attribution|; and, as controls, as many of the other channels drawn at random (of all channels, where the top
ones leave too few). The effect is the paired change of the
answer's log-probability and of teacher-forced accuracy, with a percentile bootstrap interval over prompts.

Any channels cost something. Whether the top ones cost more than random ones is tested: on each half of the prompts
with the channels that attribution chose on the other half, in pairs with the mean of the random sets, and against their
spread (`against_random`); p-values are corrected after Holm over all layers, sites and shares, and `verdict` says what
follows. The effect of the top group itself is measured on the prompts on which it was chosen: it says where to look;
what steering gains from it has to be shown on other prompts.
Attribution is the slope against zero and ablation a step to the mean: a channel with a large constant value can rank
high and cost nothing.

The table without a name: rows of kind "channel" hold the attribution of each channel (they repeat the step
`attribution`), rows of kind "group" the ablations. A failure is a row with a status and nulls.

Further parts, of one pass forwards and one backwards: `detectors`, the channels that each detector of steering puts
first, with intervals over texts and p-values against shuffled channels (`detector_statistics`; `mean_ablation` among
them is to first order, and what the rows above measure is not); `agreement`, whether detectors name the same channels;
`layers`, spikes of effective rank, entropy and gradient from layer to layer (`layer_signals`); `planted`, what each of
them found on models whose damaged channels are known. Detectors say where to look. None of them is an effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pydantic import Field, field_validator

from ...core.errors import UsageError
from ...steering.detectors import DETECTORS, detector_names
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, places, relative_names
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import BarPart, Beside, Column, LinePart, TablePart, View
from ..methods.bottleneck_schema import ABLATIONS, AGREEMENT, DETECTORS_FOUND, LAYERS, PLANTED
from ..methods.channel_groups import ablation_rows
from ..methods.detector_runs import detector_tables

SCHEMAS = {
    "": ABLATIONS, "detectors": DETECTORS_FOUND, "agreement": AGREEMENT, "layers": LAYERS, "planted": PLANTED,
}  # fmt: skip


class Settings(StepSettings):
    small = {"resamples": 100, "random_draws": 1, "detector_resamples": 20, "detector_draws": 19, "layer_draws": 19}

    sites: Sites = ("mixer_out", "mixer.delta?")
    """sites to ablate (with ?: where the model has it); attribution and delta_sensitivity must cover them"""
    top_shares: tuple[float, ...] = (0.05,)
    """shares of a site's channels to ablate together, those of largest |attribution|; at least one channel"""
    random_draws: int = Field(8, ge=1, le=1000)
    """random channel sets of equal size for every top group; the fewer, the more it has to stand out"""
    detector_share: float = Field(0.05, gt=0, lt=1)
    """share of a site's channels that each detector puts first; at least one channel"""
    detector_resamples: int = Field(100, ge=20, le=100_000)
    """of the texts, for the intervals of detectors"""
    detector_draws: int = Field(99, ge=19, le=100_000)
    """shuffles of the channels, for the p-values of detectors; the smallest possible one is 1 / (draws + 1)"""
    layer_draws: int = Field(199, ge=19, le=100_000)
    """deals of the channels to the layers, for the p-values of spikes: more than 20 times the layers for one of .05"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """of the bootstrap, and random signs"""
    confidence: float = Field(0.95, gt=0, lt=1)

    @field_validator("top_shares")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share < 1 for share in values):
            raise ValueError("a share lies between 0 and 1")
        return named_once(values)


def check(asked: Asked) -> None:
    """`Step.check`: the sites exist, and the steps before this one look at them too."""
    sites = relative_names(asked.model, asked.settings.sites)
    places(asked.model, asked.layers, asked.settings.sites)
    for need, settings in asked.upstream.items():
        covered = set(relative_names(asked.model, settings.sites))
        for site in sites:
            if site not in covered:
                raise UsageError(f"its sites name {site!r}, which {need}.sites does not; add it there")


_MEASURES = {"effective_rank": "effective rank", "entropy": "entropy of the energy", "gradient": "ln of the gradient"}
_DRAWS = Beside({"kind": "group", "group": "random"}, same=("layer", "site", "n_channels"))
VIEW = View(
    "Bottlenecks: what taking channels away costs",
    "Channels are replaced by their means at every token. The channels were chosen on the same prompts, so an effect "
    "says where to look and is no evidence for steering. Beside each effect: that of as many random channels, one "
    "number for each draw, and the difference from their mean, for which each half of the prompts has the channels "
    "chosen on the other. Only where the verdict is a stronger effect are the channels more than random ones; p is "
    "corrected for all rows.",
    (
        TablePart(
            only={"kind": "group", "draw": None},
            columns=(
                Column("layer"), Column("site"), Column("group", "ablated"), Column("n_channels", "channels"),
                Column("effect_logprob", "log-probability, nats", "effect_low", "effect_high", form="signed"),
                Column("effect_logprob", "random channels", beside=_DRAWS, form="signed", absent=""),
                Column("difference", "difference", "difference_low", "difference_high", form="signed", absent=""),
                Column("p_holm", "p", form="p", absent=""), Column("verdict", absent=""),
                Column("accuracy_change", "accuracy", "accuracy_low", "accuracy_high", form="signed"),
                Column("accuracy_change", "random channels", beside=_DRAWS, form="signed", absent=""),
                Column("n_prompts", "prompts"),
            ),
            words={"all": "all channels", "top": "most attributed"},
        ),
        TablePart(
            part="detectors",
            title="What each detector puts first",
            explains="Scores are in the detector's own unit. p: as large among channels shuffled in every group of "
            "prompts, corrected for the site's channels; it says that a channel stands out in text after text, not "
            "that it matters.",
            only={"status": "ok", "rank": 1},
            columns=(
                Column("layer"), Column("site"), Column("detector"), Column("channel"),
                Column("score", "score", "low", "high", absent="–"), Column("in_top", "first in resamples", absent="–"),
                Column("p", form="p"), Column("n_found", "channels with small p"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="planted",
            title="What they found where the truth is known",
            explains="On the planted benchmark, models whose damaged channels are known, not on this model: a detector "
            "that misses them there is no witness here.",
            columns=(
                Column("detector"), Column("kind", "planted"), Column("plants"), Column("chance"), Column("precision"),
                Column("recall", absent="–"), Column("right_sign", "right sign", absent="–"),
                Column("undamaged", "before the damage", absent="–"), Column("found"), Column("source"),
            ),
        ),
        BarPart(
            part="agreement", x="second", y="rho", low="low", high="high", group="first", each=("layer", "site"),
            only={"status": "ok"}, most=8, title="Agreement of detectors, block {layer}, {site}",
            x_label="with", label="Spearman's rho", words=SITE_WORDS,
        ),
        TablePart(
            part="agreement",
            title="Channels in common",
            only={"status": "ok"},
            folded=True,
            columns=(
                Column("layer"), Column("site"), Column("first"), Column("second"),
                Column("rho", "rank correlation", "low", "high", absent="–"), Column("top", "channels each"),
                Column("overlap", "in common"), Column("expected", "by chance"), Column("p", form="p"),
            ),
        ),
        LinePart(
            part="layers", x="layer", y="value", low="low", high="high", each=("measure", "site"),
            only={"status": "ok"}, title="{measure} of {site}", words=SITE_WORDS | _MEASURES,
        ),
        TablePart(
            part="layers",
            title="Spikes from layer to layer",
            explains="The value less the mean of the neighbouring layers'; p where every channel's values are dealt "
            "anew to the layers, after Holm over the layers.",
            only={"status": "ok"},
            words=_MEASURES,
            columns=(
                Column("site"), Column("measure"), Column("layer"), Column("value", "value", "low", "high"),
                Column("spike", "spike", "spike_low", "spike_high", form="signed"), Column("p_holm", "p", form="p"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Every set of channels is a pass: all of a site, and for each share the top ones, those of each half of the
    prompts where they differ, and the random ones. Detectors take one more, backwards too, and their resamples."""
    settings = asked.settings
    found = places(asked.model, asked.layers, settings.sites)
    sets = len(found) * (1 + len(settings.top_shares) * (settings.random_draws + 3.6))
    channels = sum(place.channels for place in found)
    written = of_files(5) + 21 * channels + 60 * sets + 25 * len(found) * 40 + 30 * settings.detector_share * channels
    again = settings.detector_resamples + settings.detector_draws
    return Effort((1.04 * sets + 3.5) * sum(lengths), written, 2e-7 * again * channels * len(lengths))


def detector_modules(settings: Settings) -> list[str]:
    """Where the detectors are defined, which are found by name."""
    return [DETECTORS.module(name) for name in detector_names()]


@step(
    "bottlenecks",
    version=3,
    needs=("attribution", "delta_sensitivity"),
    settings=Settings,
    seeded=True,
    check=check,
    view=VIEW,
    cost=cost,
    code=detector_modules,
)
def bottlenecks(job: Job) -> Tables:
    """Which channels the answer passes through: ablations beside random ones, and what detectors say, with nulls."""
    asked = places(job.model, job.layers, job.settings.sites)
    tables = {"": ablation_rows(job, asked)} | detector_tables(job, asked)
    return {name: pa.Table.from_pylist(rows, schema=SCHEMAS[name]) for name, rows in tables.items()}
