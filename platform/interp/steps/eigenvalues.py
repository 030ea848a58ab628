"""Eigenvalues of A in each layer, and the time constants they mean, in tokens at the mean Delta of the prompts.

A alone says how units of Delta are forgotten: 1 / |Re A|. What that is in tokens depends on Delta, which the text
chooses: 1 / (Delta |Re A|) at the mean Delta over all tokens of all prompts. Since Delta varies, this is the time
constant of the mean decay rate and not the mean of the time constants; `memory_decay` follows Delta token by token.
Where it is longer than the longest prompt it is extrapolated: no prompt shows so slow a decay.
S6 has an eigenvalue for each channel and state coordinate, SSD one for each head, a modal filter complex ones, per
token already. Layers without a recurrence have one row that says so.

Parts: `spectrum`, a row for each eigenvalue, and `layers`, their quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.decays import half_life, time_constant
from ..methods.moments import Moments, merge_rows
from ..methods.recurrences import LayerRecurrence, recurrences_of
from .delta_sensitivity import BATCH_SCHEMA, batch_moments

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

SPECTRUM_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
    column("kind", pa.string(), "selective, averaging (Stable-Mamba): decay exp(Delta A); modal: exp(A)"),
    column("unit", pa.int32(), "what has a Delta or a filter of its own: channel (Mamba, modal) or head (Mamba-2)"),
    column("state", pa.int32(), "eigenvalue of the unit; null where all coordinates of the unit share one"),
    column("real", pa.float64(), "real part of the eigenvalue of A, per unit of Delta; per token for modal filters"),
    column("imag", pa.float64(), "imaginary part, radians; 0 but for modal filters"),
    column("time_constant", pa.float64(), "1 / |Re A|, in units of Delta; in tokens for modal filters"),
    column("delta_mean", pa.float64(), "mean Delta of the unit over all tokens of the prompts; null for modal filters"),
    column("time_constant_tokens", pa.float64(), "1 / (mean Delta |Re A|): tokens after which 1/e is left"),
    column("half_life_tokens", pa.float64(), "ln 2 / (mean Delta |Re A|): tokens after which half is left"),
    column("extrapolated", pa.bool_(), "whether time_constant_tokens is longer than the longest prompt"),
    column("status", pa.string(), "ok; model_nonfinite: A or every prompt's Delta is not finite; "
           "not_applicable: the layer has no recurrence"),
])  # fmt: skip

LAYERS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
    column("kind", pa.string(), "as in the spectrum"),
    column("eigenvalues", pa.int32(), "how many"),
    *(column(f"time_constant_q{round(100 * q):02d}", pa.float64(), f"quantile {q} of time_constant")
      for q in QUANTILES),
    *(column(f"time_constant_tokens_q{round(100 * q):02d}", pa.float64(), f"quantile {q} of time_constant_tokens")
      for q in QUANTILES),
    column("extrapolated", pa.float64(), "share of the eigenvalues that are extrapolated"),
    column("status", pa.string(), "as in the spectrum"),
])  # fmt: skip


VIEW = View(
    "How each layer forgets",
    "Time constants at the mean Delta of the prompts: tokens after which 1/e of a coordinate of the state is left. "
    "It is what the decays allow, no proof that anything is kept. Where it is longer than the longest prompt it is "
    "extrapolated.",
    (
        LinePart(
            part="layers",
            x="layer",
            y="time_constant_tokens_q50",
            low="time_constant_tokens_q05",
            high="time_constant_tokens_q95",
            group="site",
            title="Time constants of the layers",
            explains="Median over the layer's eigenvalues; the band holds nine in ten of them.",
            label="tokens",
            log_y=True,
        ),
        TablePart(
            part="layers",
            title="Quantiles of the time constants",
            only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("eigenvalues"),
                *(Column(f"time_constant_tokens_q{round(100 * q):02d}", f"tokens, {q:.0%}") for q in QUANTILES),
                Column("time_constant_q50", "of A alone, 50%"), Column("extrapolated", "share extrapolated"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass for the mean Delta, and a row for each eigenvalue."""
    count = sum(decay.A.numel() for layer in asked.layers for decay in recurrences_of(asked.model, layer))
    return Effort(1.5 * sum(lengths), of_files(2) + 29 * count, 2.5e-6 * count)


@step("eigenvalues", version=2, view=VIEW, cost=cost)
def eigenvalues(job: Job) -> Tables:
    """Eigenvalues of A per layer, with time constants of A alone and in tokens."""
    by_layer = {layer: recurrences_of(job.model, layer) for layer in job.layers}
    deltas = mean_deltas(job, [decay for decays in by_layer.values() for decay in decays])
    longest = max((len(item.prompt) for item in job.items), default=0)
    spectra, layers = [], []
    for layer, decays in by_layer.items():
        if not decays:
            nothing = {"layer": layer, "status": NOT_APPLICABLE}
            spectra.append(pa.Table.from_pylist([nothing], schema=SPECTRUM_SCHEMA))
            layers.append(nothing)
        for decay in decays:
            spectrum = _spectrum(decay, deltas.get((layer, decay.delta)), longest)
            spectra.append(spectrum)
            layers.append(_summary(decay, spectrum))
    return {"spectrum": pa.concat_tables(spectra), "layers": pa.Table.from_pylist(layers, schema=LAYERS_SCHEMA)}


def mean_deltas(job: Job, decays: list[LayerRecurrence]) -> dict[tuple[int, str | None], Moments]:
    """Moments of Delta over all tokens by (layer, site), for the recurrences that have one."""
    selective = [decay for decay in decays if decay.delta is not None]
    if not selective:
        return {}
    sites = list(dict.fromkeys(str(decay.delta) for decay in selective))
    arguments = {"layers": sorted({decay.layer for decay in selective}), "sites": sites}
    rows = job.map(batch_moments, BATCH_SCHEMA, arguments).to_pylist()
    return {
        (decay.layer, decay.delta): merge_rows(rows_at(rows, decay.layer, str(decay.delta)), len(decay.A))
        for decay in selective
    }


def _spectrum(decay: LayerRecurrence, moments: Moments | None, longest: int) -> pa.Table:
    units, count = decay.A.shape
    finite = torch.isfinite(decay.A.real).numpy() & torch.isfinite(decay.A.imag).numpy()
    delta: np.ndarray | None = None  # mean Delta of each unit; 1 for a filter that counts in tokens
    if decay.delta is None:
        delta = np.ones(units)
    elif moments is not None and moments.n:
        delta = moments.mean
    measured = finite & (delta is not None)
    shape = (units, count)
    step = torch.from_numpy(np.ones(units) if delta is None else delta)
    unit, state = (a.ravel() for a in np.indices(shape))

    def values(array: np.ndarray, known: np.ndarray) -> pa.Array:
        return pa.array(np.broadcast_to(array, shape).ravel(), pa.float64(), mask=~known.ravel())

    in_tokens = time_constant(decay.rate, step).numpy()
    beyond = np.broadcast_to(in_tokens > longest, shape).ravel()
    known_delta = measured & (decay.delta is not None)
    columns = {
        "layer": pa.array(np.full(units * count, decay.layer), pa.int32()),
        "site": pa.array([decay.site] * (units * count)),
        "kind": pa.array([decay.of.kind] * (units * count)),
        "unit": pa.array(unit, pa.int32()),
        "state": pa.array(state, pa.int32(), mask=np.full(units * count, count == 1 and decay.delta is not None)),
        "real": values(decay.A.real.numpy(), finite),
        "imag": values(decay.A.imag.numpy(), finite),
        "time_constant": values(time_constant(decay.rate).numpy(), finite),
        "delta_mean": values(step.numpy()[:, None], known_delta),
        "time_constant_tokens": values(in_tokens, measured),
        "half_life_tokens": values(half_life(decay.rate, step).numpy(), measured),
        "extrapolated": pa.array(beyond, pa.bool_(), mask=~measured.ravel()),
        "status": pa.array(np.where(measured, "ok", "model_nonfinite").ravel()),
    }
    return pa.table(columns, schema=SPECTRUM_SCHEMA)


def _summary(decay: LayerRecurrence, spectrum: pa.Table) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": decay.layer, "site": decay.site, "kind": decay.of.kind, "eigenvalues": spectrum.num_rows,
        "status": "ok" if set(spectrum["status"].to_pylist()) == {"ok"} else "model_nonfinite",
    }  # fmt: skip
    if row["status"] != "ok":
        return row
    for name in ("time_constant", "time_constant_tokens"):
        quantiles = np.quantile(spectrum[name].to_numpy(), QUANTILES)
        row |= {f"{name}_q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    row["extrapolated"] = sum(spectrum["extrapolated"].to_pylist()) / spectrum.num_rows
    return row
