"""Is the model's inside in order: position, selection, states, gates, paraphrases, anomalies, and how far it sees.

Parts, each with its own definition in `methods`:

- `positions`, `selectivity` (`position_content`): the same tokens probed at different places behind random contexts,
  and how much of each site, of Delta, B, C and the state is position, token or context. The source correlates
  activations with the index of a token in running text, where words and places go together; here they are crossed;
- `states`, `gates` (`state_statistics`, `anomalies`): effective rank and growth of the state; share of values in the
  flat part of softplus and sigmoid;
- `consistency` (`paraphrases`): do two wordings of a fact, and a sentence after them, leave states nearer than
  those of other facts?
- `sinks`, `massive`, `dead` (`anomalies`): tokens that all others read, values far above the median (Sun et al., arXiv
  2402.17762), channels that never move. The thresholds are conventions, named in the settings; the shares and ratios
  beside them are measurements;
- `receptive_field` (`receptive_field`): from how far back the last prediction comes, at once, twice and four times the
  training length. No file says how long the training's texts were: `training_length` does, else the longest prompt
  stands for it, and the row says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from ...core.errors import InputError, UsageError
from ...scoring.statistics import Resampling, holm
from ..engine.batches import spread
from ..engine.effort import mean_length, of_files
from ..engine.places import SITE_WORDS, check_sites
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import BarPart, Column, LinePart, TablePart, View
from ..methods.diagnostics_rows import (
    NO_RECURRENCE,
    NOT_SELECTIVE,
    consistency_rows,
    field_rows,
    gate_rows,
    nothing,
    position_rows,
    sink_rows,
    state_rows,
    value_rows,
    without,
)
from ..methods.diagnostics_schema import SCHEMAS
from ..methods.paraphrases import BATCH_SCHEMA as STATES
from ..methods.paraphrases import batch_states, paraphrases
from ..methods.position_content import BATCH_SCHEMA as PROBED
from ..methods.position_content import batch_probed
from ..methods.receptive_field import BATCH_SCHEMA as FIELDS
from ..methods.receptive_field import batch_fields, long_text
from ..methods.recurrences import recurrences_of
from ..methods.state_statistics import BATCH_SCHEMA as SEEN
from ..methods.state_statistics import batch_seen


class Settings(StepSettings):
    small = {
        "prompts": 2, "positions": (1, 3), "tokens": 2, "facts": 2, "texts": 2, "lengths": (1, 2), "draws": 19,
        "resamples": 100,
    }  # fmt: skip

    sites: Sites = ("resid_post", "mixer_out", "mixer.x?", "mixer.gated?")
    """sites (with ?: where the model has it) with one value per token and channel; Delta, B, C and states come along"""
    prompts: int = Field(16, ge=1)
    """how many prompts are looked at, spread over all"""
    positions: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """where tokens are probed and sizes of states read, from 0"""
    tokens: int = Field(6, ge=2)
    """tokens that are probed, drawn from the prompts' own"""
    flat: float = Field(0.05, gt=0, lt=0.5)
    """slope of softplus or sigmoid below which a gate is closed"""
    sink_share: float = Field(0.3, gt=0, le=1)
    """share of the read weights that makes a token a sink"""
    massive_least: float = Field(100.0, gt=0)
    massive_ratio: float = Field(1000.0, gt=1)
    """a massive activation: at least so large, and so many times the median (Sun et al.)"""
    facts: int = Field(6, ge=2, le=16)
    """facts of each relation that are said in two wordings"""
    texts: int = Field(6, ge=1)
    """long texts, of prompts one after the other"""
    training_length: int | None = Field(None, ge=2)
    """tokens of the texts of the training; None: the longest prompt's"""
    lengths: tuple[int, ...] = (1, 2, 4)
    """lengths of the long texts, in training lengths"""
    draws: int = Field(1999, ge=19, le=100_000)
    """deals of the positions; the smallest possible p-value is 1 / (draws + 1)"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    confidence: float = Field(0.95, gt=0, lt=1)

    @field_validator("positions", "lengths")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values, default=1) < 1:
            raise ValueError("positions and lengths begin at 1: there is no context before the first token")
        return tuple(sorted(named_once(values)))


_SHARES = {"position": "position", "content": "the token", "context": "context"}
VIEW = View(
    "Diagnostics: is the inside in order",
    "Measurements beside conventions: shares, ratios and ranks are measured, with intervals over prompts; what counts "
    "as a sink or as massive is a threshold of the settings.",
    (
        BarPart(part="positions", x="site", y="position", low="position_low", high="position_high", group="layer",
                only={"status": "ok"}, title="How much of a site is absolute position", label="share of the variance",
                words=SITE_WORDS),
        TablePart(
            part="positions", title="Position, token, context", only={"status": "ok"}, sort=("-position",), top=40,
            words=SITE_WORDS, explains="p: positions dealt anew in each prompt, after Holm over all sites.",
            columns=(
                Column("layer"), Column("site"),
                *(Column(name, words, f"{name}_low", f"{name}_high") for name, words in _SHARES.items()),
                Column("p_holm", "p", form="p"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="selectivity", title="What Delta, B and C depend on", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("variation", "varies by", "variation_low", "variation_high"),
                Column("token", "share of the token", "token_low", "token_high"),
                Column("context", "of the context", "context_low", "context_high"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="states", title="States", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("rank", "effective rank", "rank_low", "rank_high"),
                Column("full_rank", "at most"), Column("growth", "growth", "growth_low", "growth_high", form="signed"),
                Column("n_prompts", "prompts"),
            ),
        ),
        BarPart(part="gates", x="site", y="closed", low="closed_low", high="closed_high", group="layer",
                only={"status": "ok"}, title="Gates in the flat part", label="share of values", words=SITE_WORDS),
        LinePart(part="consistency", x="layer", y="agreement", low="agreement_low", high="agreement_high", group="site",
                 only={"status": "ok"}, title="A fact in two wordings",
                 explains="How many times nearer the same fact is than another one: 1 where nothing of it is kept.",
                 label="ratio", words=SITE_WORDS),
        TablePart(
            part="sinks", title="The most read token of the first half", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("share", "share of the weights", "share_low", "share_high"),
                Column("uniform", "if all were read alike"),
                Column("prompts_with", "prompts with a sink", "prompts_with_low", "prompts_with_high"),
                Column("position", "most often at"), Column("token"),
            ),
        ),
        TablePart(
            part="massive", title="Largest values", only={"status": "ok"}, sort=("-ratio",), top=24, words=SITE_WORDS,
            columns=(
                Column("layer"), Column("site"), Column("ratio", "over the median", "ratio_low", "ratio_high"),
                Column("largest"), Column("prompts_with", "prompts with massive ones", "prompts_with_low",
                                          "prompts_with_high"),
                Column("channel"), Column("position", "most often at"), Column("token"),
            ),
        ),
        TablePart(
            part="dead", title="Channels that never move", only={"status": "ok"}, words=SITE_WORDS,
            columns=(
                Column("layer"), Column("site"), Column("dead"), Column("channels", "of"),
                Column("moves_at_most", "may move in at most"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="receptive_field", title="From how far back the prediction comes",
            columns=(
                Column("times", "times"), Column("length", "tokens"), Column("base_from", "training length by"),
                Column("mean_distance", "mean distance", "mean_distance_low", "mean_distance_high", absent="–"),
                Column("d50", "half within", "d50_low", "d50_high", absent="–"),
                Column("d90", "nine tenths within", "d90_low", "d90_high", absent="–"),
                Column("beyond", "share beyond", "beyond_low", "beyond_high", absent="–"),
                Column("grown", "farther than at once", "grown_low", "grown_high", form="signed", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Probes, single prompts, short facts and long texts, whose gradients count two more."""
    s = asked.settings
    count, mean = min(s.prompts, len(lengths)), mean_length(lengths)
    base = s.training_length or max(lengths, default=0)
    probed = count * s.tokens * sum(position + 1 for position in s.positions)
    long = 3 * min(s.texts, len(lengths)) * base * sum(s.lengths)
    layers = len(asked.layers)
    seconds = 0.03 * count * layers + 1e-4 * s.draws * layers
    return Effort(
        1.5 * probed + 6 * count * mean + 500 * s.facts + long, of_files(len(SCHEMAS)) + 4000 * layers, seconds
    )


@step("diagnostics", settings=Settings, seeded=True, check=check_sites, view=VIEW, cost=cost)
def diagnostics(job: Job) -> Tables:
    """Positional mechanisms, selection, states, saturated gates, paraphrases, sinks, massive and dead channels."""
    s = job.settings
    how = Resampling(job.seed, s.confidence, s.resamples)
    chosen = spread(job.items, s.prompts)
    common = {"layers": list(job.layers), "sites": list(s.sites), "ids": [item.id for item in chosen],
              "positions": list(s.positions)}  # fmt: skip
    decays = [decay for layer in job.layers for decay in recurrences_of(job.model, layer)]
    probed = job.map(batch_probed, PROBED, common | {"tokens": _probed_tokens(job)})
    positions, selectivity = position_rows(probed, decays, len(s.positions), s.draws, how)
    names = ("flat", "massive_least", "massive_ratio")
    seen = job.map(batch_seen, SEEN, common | {name: getattr(s, name) for name in names}).to_pylist()
    shapes = {site.name: site.axes for site in job.model.sites()}
    full = {
        (d.layer, d.site): min(int(axis) for axis in shapes[f"{d.prefix}h"]) for d in decays if f"{d.prefix}h" in shapes
    }
    massive, dead = value_rows(seen, how)
    rows = {
        "positions": positions,
        "selectivity": without(selectivity, job.layers, NOT_SELECTIVE),
        "states": without(state_rows(seen, full, how), job.layers, NO_RECURRENCE),
        "gates": without(gate_rows(seen, how), job.layers, NO_RECURRENCE),
        "consistency": _consistency(job, how),
        "sinks": without(sink_rows(seen, s.sink_share, how), job.layers, NOT_SELECTIVE),
        "massive": massive,
        "dead": dead,
        "receptive_field": _fields(job, how),
    }
    for part in ("positions", "consistency"):
        for row, corrected in zip(rows[part], holm([row.get("p") for row in rows[part]]), strict=True):
            row["p_holm"] = corrected
    return {name: pa.Table.from_pylist(found, schema=SCHEMAS[name]) for name, found in rows.items()}


def _probed_tokens(job: Job) -> list[int]:
    """Different tokens of the prompts, at equal steps through all of them in their order."""
    known = sorted({token for item in job.items for token in item.prompt})
    count = min(job.settings.tokens, len(known))
    return [known[(2 * i + 1) * len(known) // (2 * count)] for i in range(count)]


def _consistency(job: Job, how: Resampling) -> list[dict[str, Any]]:
    missing = None
    texts: list[dict[str, Any]] = []
    if job.model.tokenizer is None:
        missing = "the model has no tokenizer for the facts"
    else:
        try:
            texts = paraphrases(job.model, job.settings.facts, job.seed)
        except (InputError, UsageError) as error:
            missing = str(error)
    if missing is not None:
        return [{"layer": layer} | nothing(missing) for layer in job.layers]
    given = {item.id: texts[i :: len(job.items)] for i, item in enumerate(job.items)}
    arguments = {"layers": list(job.layers), "sites": list(job.settings.sites), "texts": given}
    return consistency_rows(job.map(batch_states, STATES, arguments), how)


def _fields(job: Job, how: Resampling) -> list[dict[str, Any]]:
    s = job.settings
    base = s.training_length or max(len(item.prompt) for item in job.items)
    texts = {
        item.id: [
            {"text": i, "tokens": long_text(job.items, job.items.index(item), times * base)} for times in s.lengths
        ]
        for i, item in enumerate(spread(job.items, s.texts))
    }
    about = {"base": base, "base_from": "longest prompt" if s.training_length is None else "setting"}
    return field_rows(job.map(batch_fields, FIELDS, {"texts": texts, "base": base}).to_pylist(), about, how)
