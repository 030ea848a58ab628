"""Which tokens influence which later ones, how that falls with distance, and how much of it comes from far.

Influence is the size of a Jacobian of the residual stream, |d x'_t / d x_s|_F, to first order at the prompt given: of
one block (x enters it, x' leaves it), and onwards, from what enters a block to what leaves the last one; see
`methods.jacobians`, also for how it is estimated where the stream is wide. What a token has from itself (s = t) is left
out.

- `profile`: root of the mean square over pairs of tokens at a distance; `decay`: whether it falls like an exponential
  or like a power law, beyond the distances that convolutions bridge (`methods.decay_fits`).
- `long_range`: share of the squared influence of earlier tokens that comes from farther than the convolutions of the
  span reach, which is what only a recurrence, attention or a long filter can carry.
- `connections`: the strongest of these, by their share of the long-range influence on a token; `tokens`: which words
  have more of it than the even share, with intervals over prompts.

A large derivative is no proof of use: a model can depend steeply on what it has no need of, and `memory_horizon` and
patching replace tokens. A hidden state's size says less still, and is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from ...scoring.statistics import bootstrap_mean, holm, paired_difference
from ..engine.batches import spread
from ..engine.columns import column
from ..engine.effort import mean_length, of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.decay_fits import EXPONENTIAL, FEWEST, POWER_LAW, UNDECIDED
from ..methods.influence import InfluenceMap, Profile, connections, fitted, long_range_share, profile, token_weights
from ..methods.influence_runs import BATCH_SCHEMA, BLOCK, ONWARDS, SPANS, batch_influence, map_of
from ..methods.recurrence_cut import conv_reach, reach_above
from ..methods.table import token_labels

Rows = list[dict[str, Any]]
#: (span, layer) -> question -> its map
Maps = dict[tuple[str, int], dict[str, InfluenceMap]]


class Settings(StepSettings):
    small = {"prompts": 3, "positions": 4, "directions": 2, "fewest_prompts": 2, "resamples": 100}

    prompts: int = Field(12, ge=1)
    """prompts, equally spread, whose Jacobians are computed"""
    positions: int = Field(10, ge=1)
    """tokens t of each prompt, equally spread, the last one among them"""
    directions: int = Field(4, ge=1)
    """random directions for the size of a Jacobian of a wide stream"""
    exact_up_to: int = Field(32, ge=0)
    """width up to which all directions are taken, so that sizes are exact"""
    beyond: int | None = Field(None, ge=0)
    """distance beyond which influence is long-range; default: what the convolutions of the span reach"""
    maps: int = Field(3, ge=0)
    """prompts whose maps are kept"""
    top: int = Field(10, ge=1)
    """connections kept of each span and block"""
    fewest_prompts: int = Field(6, ge=2)
    """prompts that a word has to stand in to be compared: fewer cannot differ at 5 % by sign flips"""
    resamples: int = Field(1000, ge=100, le=1_000_000)
    """of the bootstrap"""
    confidence: float = Field(0.95, gt=0, lt=1)


_SPAN = [
    column("span", pa.string(), "block: from what enters a block to what leaves it; onwards: to what leaves the last"),
    column("layer", pa.int32(), "block that is entered"),
]  # fmt: skip
_BEYOND = column("beyond", pa.int32(), "distance in tokens beyond which influence is long-range")
_N = column("n_prompts", pa.int32(), "prompts counted")
_END = [
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason"),
    column("reason", pa.string(), "why there is nothing; null where it is ok"),
]
PROFILE_SCHEMA = pa.schema([
    *_SPAN,
    column("distance", pa.int32(), "t - s, tokens"),
    column("influence", pa.float64(), "|J(t, s)|_F, root of the mean square over pairs of tokens at this distance"),
    column("low", pa.float64(), "lower end of its bootstrap interval over prompts; null for fewer than two groups"),
    column("high", pa.float64(), "upper end"),
    _N, *_END,
])  # fmt: skip
DECAY_SCHEMA = pa.schema([
    *_SPAN,
    column("distance_from", pa.int32(), "first distance that is fitted"),
    column("distance_to", pa.int32(), "last one"),
    *(column(f"{name}{end}", pa.float64(), meaning) for name, meaning in
      (("tau", "decay length of the exponential, tokens, with its interval; null where nothing falls"),
       ("beta", "exponent of the power law, with its interval"),
       ("difference", "AIC of the power law less that of the exponential, with its interval"))
      for end in ("", "_low", "_high")),
    column("aic_exponential", pa.float64(), "AIC of the exponential"),
    column("aic_power", pa.float64(), "AIC of the power law"),
    column("better", pa.string(), f"{EXPONENTIAL} or {POWER_LAW} where the whole interval of difference says so, else "
           f"{UNDECIDED}"),
    _N, *_END,
])  # fmt: skip
LONG_RANGE_SCHEMA = pa.schema([
    *_SPAN, _BEYOND,
    column("share", pa.float64(), "share of the squared influence of earlier tokens from farther, mean over prompts"),
    column("low", pa.float64(), "lower end of its bootstrap interval; null for fewer than two groups"),
    column("high", pa.float64(), "upper end"),
    column("directions", pa.int32(), "directions that a Jacobian's size was taken from"),
    column("exact", pa.bool_(), "whether these are all: else it is an estimate"),
    _N, *_END,
])  # fmt: skip
CONNECTIONS_SCHEMA = pa.schema([
    *_SPAN,
    column("rank", pa.int32(), "1 is the largest share at this span and block; one connection for each t"),
    column("question_id", pa.string(), "of the prompt"),
    column("t", pa.int32(), "position of the token that is influenced"),
    column("s", pa.int32(), "position of the one that influences it"),
    column("distance", pa.int32(), "t - s"),
    column("token_t", pa.string(), "what stands at t"),
    column("token_s", pa.string(), "what stands at s"),
    column("influence", pa.float64(), "|J(t, s)|_F"),
    column("share", pa.float64(), "of the squared long-range influence on t"),
    column("times_even", pa.float64(), "that share over one in as many as there are tokens so far"),
    *_END,
])  # fmt: skip
TOKENS_SCHEMA = pa.schema([
    *_SPAN,
    column("token", pa.int32(), "token id"),
    column("text", pa.string(), "what it says"),
    column("weight", pa.float64(), "its share of the long-range influence on later tokens over the even share: 1 is "
           "none; mean over prompts"),
    column("low", pa.float64(), "lower end of its interval"),
    column("high", pa.float64(), "upper end"),
    column("p", pa.float64(), "two-sided sign-flip p-value of a weight of 1"),
    column("p_holm", pa.float64(), "corrected for all tokens"),
    _N, *_END,
])  # fmt: skip
MAP_SCHEMA = pa.schema([
    column("question_id", pa.string(), "of the prompt"),
    *_SPAN,
    column("t", pa.int32(), "token that is influenced"),
    column("s", pa.int32(), "earlier token that influences it"),
    column("influence", pa.float64(), "|J(t, s)|_F; null where it is 0"),
    *_END,
])  # fmt: skip

_WORDS = {BLOCK: "one block", ONWARDS: "from the block to the end"}
VIEW = View(
    "Which tokens influence which later ones",
    "Sizes of derivatives of the residual stream at a token by that at an earlier one: first order, and no proof of "
    "use. Long-range is what the convolutions cannot reach.",
    (
        MapPart(part="map", rows="t", columns="s", value="influence", each=("question_id", "span", "layer"), most=6,
                only={"span": ONWARDS}, title="{question_id}, from block {layer} to the end", label="influence",
                scale="log", words=_WORDS),
        LinePart(part="profile", x="distance", y="influence", low="low", high="high", group="layer", each=("span",),
                 title="Influence over distance, {span}", x_label="tokens", label="influence", log_y=True,
                 words=_WORDS),
        LinePart(part="long_range", x="layer", y="share", low="low", high="high", group="span",
                 title="Share of influence beyond the convolutions", label="share of squares", words=_WORDS),
        TablePart(part="decay", title="Exponential or power law?", only={"status": "ok"},
                  columns=(Column("span"), Column("layer"), Column("tau", "decay length", "tau_low", "tau_high"),
                           Column("beta", "exponent", "beta_low", "beta_high"),
                           Column("difference", "AIC difference", "difference_low", "difference_high", form="signed"),
                           Column("better", "better"), Column("distance_to", "up to"), Column("n_prompts", "prompts")),
                  words=_WORDS),
        TablePart(part="connections", title="The strongest long-range connections", top=20, folded=True,
                  only={"status": "ok"}, sort=("-times_even",),
                  columns=(Column("span"), Column("layer"), Column("question_id", "prompt"), Column("token_s", "from"),
                           Column("token_t", "to"), Column("distance"), Column("share"),
                           Column("times_even", "times the even share")), words=_WORDS),
        TablePart(part="tokens", title="Words of long-range influence", top=15, only={"status": "ok"},
                  sort=("p_holm", "-weight"),
                  columns=(Column("text", "word"), Column("weight", "times the even share", "low", "high"),
                           Column("p_holm", "p", form="p"), Column("n_prompts", "prompts"))),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass forwards and two backwards for each prompt, direction and position, over what stands up to it."""
    settings, width, length = asked.settings, asked.model.config.d_model, mean_length(lengths)
    prompts = min(settings.prompts, len(lengths))
    directions = width if width <= settings.exact_up_to else settings.directions
    positions = min(settings.positions, max(1.0, length - 1))
    spans, maps = 2 * len(asked.layers), min(settings.maps, len(lengths))
    written = of_files(6) + spans * (6 * length + 8 * maps * positions * length / 2 + 1000)
    return Effort(3.2 * prompts * directions * positions * length, written, 1.0)


@step("temporal_causality", version=1, settings=Settings, seeded=True, view=VIEW, cost=cost)
def temporal_causality(job: Job) -> Tables:
    """Which tokens influence which later ones, how that falls with distance, and what share comes from far."""
    settings = job.settings
    ids = [item.id for item in spread(job.items, settings.prompts)]
    arguments = {
        "ids": ids, "layers": list(job.layers), "seed": job.seed,
        **settings.model_dump(include={"positions", "directions", "exact_up_to"}),
    }  # fmt: skip
    rows = job.map(batch_influence, BATCH_SCHEMA, arguments).to_pylist()
    order = {id_: number for number, id_ in enumerate(ids)}
    rows.sort(key=lambda row: order[row["question_id"]])
    maps: Maps = {(span, layer): {} for span in SPANS for layer in job.layers}
    for row in rows:
        if row["status"] == "ok":
            maps[row["span"], row["layer"]][row["question_id"]] = map_of(row)
    failed = any(row["status"] == "model_nonfinite" for row in rows)
    nothing = _nothing("model_nonfinite" if failed else NOT_APPLICABLE, "no prompt has a derivative")
    profiles = {
        key: profile(list(of.values()), seed=job.seed, n_resamples=settings.resamples) for key, of in maps.items() if of
    }
    beyond = {key: settings.beyond if settings.beyond is not None else _reach(job, *key) for key in maps}
    how = next((row for row in rows if row["status"] == "ok"), {})
    absent: Rows = [_place(key) | nothing for key, of in maps.items() if not of]
    tables = {
        "profile": ([r for key, of in profiles.items() for r in _profile(key, of, job)] + absent, PROFILE_SCHEMA),
        "decay": ([_decay(key, of, beyond[key], job) for key, of in profiles.items()] + absent, DECAY_SCHEMA),
        "long_range": ([_long_range(k, of, beyond[k], how, job) for k, of in maps.items() if of] + absent,
                       LONG_RANGE_SCHEMA),
        "connections": ([r for k, of in maps.items() for r in _connections(k, of, beyond[k], job)] or [nothing],
                        CONNECTIONS_SCHEMA),
        "tokens": (_tokens((ONWARDS, job.layers[0]), maps, beyond, job) or [nothing], TOKENS_SCHEMA),
        "map": ([r for key, of in maps.items() for r in _map(key, of, ids[: settings.maps])] or [nothing], MAP_SCHEMA),
    }  # fmt: skip
    return {name: pa.Table.from_pylist(found, schema=schema) for name, (found, schema) in tables.items()}


def _nothing(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def _place(key: tuple[str, int]) -> dict[str, Any]:
    return {"span": key[0], "layer": key[1]}


def _reach(job: Job, span: str, layer: int) -> int:
    reach = conv_reach(job.model)
    return reach[layer] if span == BLOCK else reach_above(reach, layer)


def _bounds(values: np.ndarray[Any, Any], job: Job) -> tuple[float | None, float | None]:
    """Ends of the percentile interval of resampled values; None for none, and where one is infinite."""
    known = values[~np.isnan(values)]
    tail = (1 - job.settings.confidence) / 2
    if len(known) < 2:
        return None, None
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return _finite(low), _finite(high)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _profile(key: tuple[str, int], of: Profile, job: Job) -> Rows:
    result: Rows = []
    for i, distance in enumerate(of.distances.tolist()):
        low, high = _bounds(of.influence[1:, i], job) if of.n[i] > 1 else (None, None)
        row = {"distance": distance, "influence": float(of.influence[0, i]), "low": low, "high": high}
        result.append(_place(key) | row | {"n_prompts": int(of.n[i]), "status": "ok"})
    return result


def _decay(key: tuple[str, int], of: Profile, beyond: int, job: Job) -> dict[str, Any]:
    row: dict[str, Any] = _place(key) | {"n_prompts": int(of.n.max(initial=0))}
    found = fitted(of, beyond)
    if found is None:
        reason = f"fewer than {FEWEST} distances beyond {beyond} at which there is any influence"
        return row | _nothing(NOT_APPLICABLE, reason)
    distances, fits = found
    row |= {"distance_from": int(distances[0]), "distance_to": int(distances[-1]), "better": UNDECIDED, "status": "ok"}
    for name, values in (("tau", fits.tau), ("beta", fits.beta), ("difference", fits.difference)):
        row[name] = _finite(values[0])
        if row["n_prompts"] > 1:
            row[f"{name}_low"], row[f"{name}_high"] = _bounds(values[1:], job)
    row |= {"aic_exponential": float(fits.aic_exponential[0]), "aic_power": float(fits.aic_power[0])}
    low, high = row.get("difference_low"), row.get("difference_high")
    if low is not None and low > 0:
        row["better"] = EXPONENTIAL
    elif high is not None and high < 0:
        row["better"] = POWER_LAW
    return row


def _long_range(
    key: tuple[str, int], of: Mapping[str, InfluenceMap], beyond: int, how: Mapping[str, Any], job: Job
) -> dict[str, Any]:
    shares = {id_: long_range_share(each, beyond) for id_, each in of.items()}
    known = {id_: share for id_, share in shares.items() if share is not None}
    row = _place(key) | {"beyond": beyond, "n_prompts": len(known)}
    row |= {name: how[name] for name in ("directions", "exact")}
    if not known:
        reason = f"no token is more than {beyond} tokens after another, or none has any influence"
        return row | _nothing(NOT_APPLICABLE, reason)
    groups, settings = [of[id_].group for id_ in known], job.settings
    found = bootstrap_mean(
        list(known.values()), seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples,
        groups=groups,
    )  # fmt: skip
    return row | {"share": found.mean, "low": found.low, "high": found.high, "status": "ok"}


def _connections(key: tuple[str, int], of: Mapping[str, InfluenceMap], beyond: int, job: Job) -> Rows:
    prompts = {item.id: item.prompt for item in job.items}
    found = [(id_, one) for id_, each in of.items() for one in connections(each, beyond)]
    found.sort(key=lambda pair: -pair[1].share)
    result: Rows = []
    for rank, (id_, one) in enumerate(found[: job.settings.top], 1):
        token_t, token_s = token_labels(job.model, [prompts[id_][one.t], prompts[id_][one.s]])
        row = one._asdict() | {"distance": one.t - one.s, "token_t": token_t, "token_s": token_s}
        result.append(_place(key) | row | {"rank": rank, "question_id": id_, "status": "ok"})
    return result


def _tokens(key: tuple[str, int], maps: Maps, beyond: Mapping[tuple[str, int], int], job: Job) -> Rows:
    """Of one span: what each word that enough prompts have weighs in them, on average over where it stands."""
    prompts = {item.id: item.prompt for item in job.items}
    weights: dict[int, dict[str, list[float]]] = {}
    for id_, of in maps[key].items():
        for token, weight in zip(prompts[id_], token_weights(of, beyond[key]).tolist(), strict=True):
            if np.isfinite(weight):
                weights.setdefault(token, {}).setdefault(id_, []).append(weight)
    compared = {token: by for token, by in sorted(weights.items()) if len(by) >= job.settings.fewest_prompts}
    result: Rows = []
    for token, by in compared.items():
        values = [float(np.mean(each)) for each in by.values()]
        found = paired_difference(
            values, np.ones(len(values)), seed=job.seed, confidence=job.settings.confidence,
            n_resamples=job.settings.resamples, groups=[maps[key][id_].group for id_ in by], shares=False,
        )  # fmt: skip
        low, high = (None if bound is None else 1 + bound for bound in (found.low, found.high))
        row = {"token": token, "text": token_labels(job.model, [token])[0], "weight": float(np.mean(values))}
        row |= {"low": low, "high": high, "p": found.p, "n_prompts": len(values), "status": "ok"}
        result.append(_place(key) | row)
    for row, corrected in zip(result, holm([row["p"] for row in result]), strict=True):
        row["p_holm"] = corrected
    return sorted(result, key=lambda row: (-row["weight"], row["token"]))


def _map(key: tuple[str, int], of: Mapping[str, InfluenceMap], ids: Sequence[str]) -> Rows:
    result: Rows = []
    for id_ in (id_ for id_ in ids if id_ in of):
        for t, squares in zip(of[id_].positions.tolist(), of[id_].squares.tolist(), strict=True):
            result += [
                {"question_id": id_} | _place(key) | {"t": t, "s": s, "influence": square**0.5 or None, "status": "ok"}
                for s, square in enumerate(squares[:t])
            ]
    return result
