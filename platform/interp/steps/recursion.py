"""How activations and states run on from token to token, and neurons from layer to layer.

- `autocorrelation`: of what a block adds to the stream and of its recurrent state, over lags in tokens
  (`methods.autocorrelation`), beside what the same vectors in random order are expected to have.
- `changes`: from one token to the next, the Euclidean length of the state's change and of the change of the block's
  output, relative to their lengths, and their rank correlation over the tokens of a text, alone and with the token's
  position held fixed (a state grows from zero, so that position alone makes both fall). Tokens in random order have a
  correlation of 0, which `p` tests: the second of both, the prompts' signs drawn at random.
- `layers`: channels of a site from one block to the next: cosine of the two vectors of a token, beside its mean over
  all pairs of tokens, which is what random order gives; length of the vectors; stability, the correlation of a channel
  over tokens with itself a block later, mean over channels. Tokens in random order have 0 there.
- `neurons`: magnitude and stability of each channel.

The unit of all intervals is the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor

from ...scoring.statistics import Resampling, holm, sign_flip_p
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, check_sites, places
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.along_texts import along_texts
from ..methods.autocorrelation import autocorrelation, expected_of_shuffled
from ..methods.over_texts import STATUS, Rows, averaged, interval_columns, mean_of, number_or_none
from ..methods.recurrences import recurrences_of
from ..methods.token_correlation import correlation

if TYPE_CHECKING:
    from ...models import LanguageModel

OUTPUT = "mixer_out"
NO_STATE = "the block has no recurrent state that can be seen"
TOO_SHORT = "the text is too short, or nothing varies in it"


class Settings(StepSettings):
    small = {"resamples": 100, "lags": [1, 4]}

    lags: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(named_once)] = (1, 2, 4, 8, 16, 32)
    """in tokens; of a text those up to half of its length"""
    sites: Sites = ("resid_post", "mixer_out")
    """sites whose channels are followed from block to block"""
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "relative to the block; null where the block has none"),
]
AUTOCORRELATION_SCHEMA = pa.schema([
    *_PLACE,
    column("lag", pa.int32(), "in tokens"),
    *interval_columns("value", "autocorrelation over the text, channels weighted by variance"),
    *interval_columns("by_channel", "mean over channels of each one's own"),
    column("shuffled", pa.float64(), "expected of both with the tokens in random order; mean over prompts"),
    *STATUS,
])  # fmt: skip
CHANGES_SCHEMA = pa.schema([
    *_PLACE,
    *interval_columns("state_change", "length of the state's change a token, over the state's length"),
    *interval_columns("output_change", "length of the change of the block's output, over the output's length"),
    *interval_columns("r", "rank correlation over tokens of both changes"),
    *interval_columns("r_position", "the same with the token's position held fixed"),
    column("p", pa.float64(), "two-sided sign-flip p-value over prompts of r_position"),
    column("p_holm", pa.float64(), "corrected for all recurrences"),
    *STATUS,
])  # fmt: skip
LAYERS_SCHEMA = pa.schema([
    *_PLACE,
    column("next", pa.int32(), "the later block"),
    *interval_columns("magnitude", "length of a token's vector"),
    *interval_columns("growth", "length a block later over the length here"),
    *interval_columns("cosine", "of a token's vectors here and a block later"),
    column("cosine_shuffled", pa.float64(), "the same of two different orders of the text's tokens, mean over prompts"),
    *interval_columns("stability", "correlation over tokens of a channel here and a block later, mean over channels"),
    *STATUS,
])  # fmt: skip
NEURONS_SCHEMA = pa.schema([
    *_PLACE,
    column("channel", pa.int32(), "channel of the site"),
    column("magnitude", pa.float64(), "mean size over tokens, mean over prompts"),
    column("stability", pa.float64(), "correlation over tokens with itself a block later, mean over prompts; null in "
           "the last block and where the channel does not vary"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("status", pa.string(), "ok; model_nonfinite"),
])  # fmt: skip

BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("part", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("lag", pa.int32()),
    ("next", pa.int32()),
    *((name, pa.float64()) for name in ("value", "by_channel", "shuffled", "state_change", "output_change", "r",
                                        "r_position", "magnitude", "growth", "cosine", "cosine_shuffled", "stability")),
    ("magnitudes", pa.list_(pa.float64())), ("stabilities", pa.list_(pa.float64())),
    ("status", pa.string()), ("reason", pa.string()),
])  # fmt: skip

_WORDS = SITE_WORDS | {"mixer.h": "the state"}
VIEW = View(
    "How activations run on through tokens and layers",
    "Autocorrelation says how alike vectors some tokens apart are, beside the same tokens in random order; it does not "
    "say that anything is used. Changes of state and output are compared token by token. Intervals are over prompts.",
    (
        LinePart(
            part="autocorrelation", x="lag", y="value", low="value_low", high="value_high", group="layer",
            only={"status": "ok"}, each=("site",), title="Autocorrelation of {site}", x_label="tokens apart",
            label="autocorrelation", log_x=True, words=_WORDS,
        ),
        TablePart(
            part="changes", title="Changes of state and output, token by token", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"),
                Column("state_change", "state, relative", "state_change_low", "state_change_high"),
                Column("output_change", "output, relative", "output_change_low", "output_change_high"),
                Column("r", "correlation", "r_low", "r_high", form="signed"),
                Column("r_position", "at a fixed position", "r_position_low", "r_position_high", form="signed"),
                Column("p_holm", "p", form="p"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="layers", title="From block to block", only={"status": "ok"},
            columns=(
                Column("site"), Column("layer"), Column("magnitude", "length", "magnitude_low", "magnitude_high"),
                Column("cosine", "cosine with the next", "cosine_low", "cosine_high", absent="–"),
                Column("cosine_shuffled", "tokens in random order", absent="–"),
                Column("stability", "stability", "stability_low", "stability_high", absent="–"),
            ),
            words=SITE_WORDS,
        ),
        MapPart(
            part="neurons", rows="layer", columns="channel", value="magnitude", each=("site",), scale="log",
            title="Magnitude of the channels of {site}", label="mean size", words=SITE_WORDS,
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Passes whose states are kept, and arithmetic on them."""
    widths = [place.channels for place in places(asked.model, asked.layers, asked.settings.sites)]
    rows = 60 * sum(widths) + 2500 * len(asked.layers)
    return Effort(2.0 * sum(lengths), of_files(4) + rows, 0.01 * len(asked.layers))


@step("recursion", settings=Settings, seeded=True, check=check_sites, view=VIEW, cost=cost)
def recursion(job: Job) -> Tables:
    """Autocorrelation of activations and states, their changes token by token, and channels from layer to layer."""
    settings: Settings = job.settings
    how = Resampling(job.seed, settings.confidence, settings.resamples)
    arguments = {"layers": list(job.layers), "lags": list(settings.lags), "sites": list(settings.sites)}
    rows = job.map(batch_recursion, BATCH_SCHEMA, arguments).to_pylist()
    parts: dict[str, Rows] = {name: [] for name in ("autocorrelation", "changes", "layers")}
    for row in rows:
        parts[row["part"]].append(row)
    for of_part in parts.values():
        of_part.sort(key=lambda row: (row["layer"], row["site"] or "", row["lag"] or 0))
    changes = averaged(parts["changes"], ("layer", "site"), ("state_change", "output_change", "r", "r_position"), how)
    _test(changes, parts["changes"], how)
    tables = {
        "autocorrelation": (
            averaged(parts["autocorrelation"], ("layer", "site", "lag"), ("value", "by_channel"), how, ("shuffled",)),
            AUTOCORRELATION_SCHEMA,
        ),
        "changes": (changes, CHANGES_SCHEMA),
        "layers": (
            averaged(
                parts["layers"], ("layer", "site", "next"), ("magnitude", "growth", "cosine", "stability"), how,
                ("cosine_shuffled",),
            ),
            LAYERS_SCHEMA,
        ),
        "neurons": (_neurons(parts["layers"]), NEURONS_SCHEMA),
    }  # fmt: skip
    return {name: pa.Table.from_pylist(made, schema=schema) for name, (made, schema) in tables.items()}


def _test(changes: Rows, rows: Rows, how: Resampling) -> None:
    for cell in changes:
        if cell["status"] == GOOD:
            here = [r["r_position"] for r in rows if (r["layer"], r["site"]) == (cell["layer"], cell["site"])]
            known = [r for r in here if r is not None]
            cell["p"] = sign_flip_p(known, seed=how.seed, n_draws=how.resamples)
    for cell, p in zip(changes, holm([cell.get("p") for cell in changes]), strict=True):
        cell["p_holm"] = p


def _neurons(rows: Rows) -> Rows:
    made: Rows = []
    for layer, site in dict.fromkeys((row["layer"], row["site"]) for row in rows):
        good = [r for r in rows if (r["layer"], r["site"], r["status"]) == (layer, site, GOOD)]
        if not good:
            made.append({"layer": layer, "site": site, "n_prompts": 0, "status": "model_nonfinite"})
            continue
        size = mean_of(np.array([row["magnitudes"] for row in good], np.float64))
        alike = mean_of(np.array([row["stabilities"] or [np.nan] * len(size) for row in good], np.float64))
        made += [
            {"layer": layer, "site": site, "channel": c, "magnitude": float(size[c]),
             "stability": number_or_none(alike[c]), "n_prompts": len(good), "status": GOOD}
            for c in range(len(size))
        ]  # fmt: skip
    return made


def batch_recursion(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of each text: of the parts `autocorrelation`, `changes` and `layers`."""
    shown = {site.name for site in model.sites()}
    states: list[tuple[int, str | None]] = []
    for layer in arguments["layers"]:
        sites = [f"{place.site}.h" for place in recurrences_of(model, layer)]
        there = [site for site in sites if f"blocks.{layer}.{site}" in shown]
        states += [(layer, site) for site in there] or [(layer, None)]
    wanted = [
        [f"blocks.{layer}.{OUTPUT}", *([] if site is None else [f"blocks.{layer}.{site}"])] for layer, site in states
    ]
    rows: Rows = []
    for number, item, values in along_texts(model, batch, wanted):
        layer, site = states[number]
        output, *state = (wide_array(value) for value in values.values())
        at = {"id": item.id, "layer": layer}
        if site is None or site == next(s for known, s in states if known == layer):  # a block's output once
            rows += _autocorrelations(at | {"site": OUTPUT}, output, arguments["lags"])
        if site is None:
            missing = at | {"site": None, "status": NOT_APPLICABLE, "reason": NO_STATE}
            rows += [missing | {"part": "autocorrelation"}, missing | {"part": "changes"}]
            continue
        rows += _autocorrelations(at | {"site": site}, state[0], arguments["lags"])
        rows.append(at | {"part": "changes", "site": site} | _changes(state[0], output))
    followed = places(model, arguments["layers"], arguments["sites"])
    by_site = {site: [place for place in followed if place.site == site] for site in {p.site: 0 for p in followed}}
    for number, item, values in along_texts(model, batch, [[p.name for p in of] for of in by_site.values()]):
        site, of = list(by_site.items())[number]
        vectors = [values[place.name].double().cpu().numpy() for place in of]
        rows += [{"id": item.id, "part": "layers", "site": site} | row for row in _evolution(of, vectors)]
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def wide_array(value: Tensor) -> NDArray[Any]:
    """A text's vectors (T, n) in float32 or wider: states are large."""
    return value.to(torch.promote_types(value.dtype, torch.float32)).flatten(1).cpu().numpy()


def _autocorrelations(at: dict[str, Any], x: NDArray[Any], lags: Sequence[int]) -> Rows:
    at = at | {"part": "autocorrelation"}
    if not np.isfinite(x).all():
        return [at | {"lag": lag, "status": "model_nonfinite", "reason": "a value is not finite"} for lag in lags]
    known = {one.lag: one for one in autocorrelation(x, lags)}
    rows: Rows = []
    for lag in lags:
        if lag in known:
            values = {"value": known[lag].pooled, "by_channel": known[lag].by_channel}
            rows.append(at | {"lag": lag, "status": GOOD, "shuffled": expected_of_shuffled(len(x))} | values)
        else:
            rows.append(at | {"lag": lag, "status": NOT_APPLICABLE, "reason": TOO_SHORT})
    return rows


def _changes(state: NDArray[Any], output: NDArray[Any]) -> dict[str, Any]:
    if not (np.isfinite(state).all() and np.isfinite(output).all()):
        return {"status": "model_nonfinite", "reason": "a value is not finite"}
    if len(state) < 2 or not ((state != state[0]).any() and (output != output[0]).any()):
        return {"status": NOT_APPLICABLE, "reason": TOO_SHORT}
    moved, turned = (np.linalg.norm(np.diff(x, axis=0), axis=1) for x in (state, output))
    position = np.arange(len(moved), dtype=np.float64)[:, None]
    r, fixed = (float(correlation(moved[:, None], turned[:, None], given)[0]) for given in ([], [position]))
    return {
        "state_change": float(moved.sum() / np.linalg.norm(state[1:], axis=1).sum()),
        "output_change": float(turned.sum() / np.linalg.norm(output[1:], axis=1).sum()),
        "r": number_or_none(r), "r_position": number_or_none(fixed), "status": GOOD,
    }  # fmt: skip


def _evolution(of: Sequence[Any], vectors: Sequence[NDArray[np.float64]]) -> Rows:
    """A row for each block that has the site; the last has no next one."""
    rows: Rows = []
    for number, (place, x) in enumerate(zip(of, vectors, strict=True)):
        last = number + 1 == len(of)
        row: dict[str, Any] = {"layer": place.layer, "next": None if last else of[number + 1].layer}
        y = None if last else vectors[number + 1]
        if not np.isfinite(x).all() or (y is not None and not np.isfinite(y).all()):
            rows.append(row | {"status": "model_nonfinite", "reason": "a value is not finite"})
            continue
        size = np.linalg.norm(x, axis=1)
        row |= {"magnitude": float(size.mean()), "magnitudes": np.abs(x).mean(0).tolist(), "status": GOOD}
        if y is not None and x.shape == y.shape:
            row |= compared(x, y)
        rows.append(row)
    return rows


def compared(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, Any]:
    """Two blocks' vectors (T, C) of a text: growth, cosine, its mean over all pairs of tokens, and stability."""
    here, there = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    found: dict[str, Any] = {"growth": float(there.mean() / here.mean()) if here.any() else None}
    if here.all() and there.all():
        one, two = x / here[:, None], y / there[:, None]
        found |= {"cosine": float((one * two).sum(1).mean()), "cosine_shuffled": float(one.mean(0) @ two.mean(0))}
    a, b = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    varies = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0) & (scale > 0)
    alike = np.where(varies, (a * b).sum(0) / np.where(varies, scale, 1.0), np.nan)
    stability = mean_of(alike[:, None])[0]
    return found | {
        "stability": number_or_none(float(stability)), "stabilities": [number_or_none(float(r)) for r in alike]
    }  # fmt: skip
