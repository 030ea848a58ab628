"""Attribution patching: a first-order estimate of every restoration at once (Nanda, 2023).

    AP(a) = <a_clean - a_corrupted, dM/da at the corrupted run>

estimates what `causal_trace` measures, the rise of the metric M when the clean value of a site, at one layer and
position, is restored in the corrupted run. All layers, positions and sites cost two forward passes and one backward
pass, recurrent states among them. It is a slope: where the model is curved it is not the effect.

Integrated (`integrated_steps`): the derivative is averaged over runs between the corrupted and the clean prompt, whose
token embeddings are mixed (Hanna et al., arXiv 2403.17806). Then the effects at the first block's `resid_pre`, summed
over positions, add up to the whole difference between the two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ...core.errors import InputError, UsageError
from ..engine.places import Place, places
from .arguments import integer
from .asked import about_runs, check_finite, evaluating, prompt_positions
from .corruption import Span, corrupt
from .first_order import Effects, first_order
from .memory import DEFAULT_BUDGET
from .metric import Metric, make_metric
from .restoration import STATE, Restoration, restorations
from .table import token_labels, trace_table
from .typed_tensors import ints

if TYPE_CHECKING:
    from ...models import LanguageModel


def attribution_patching(
    model: LanguageModel,
    clean: Tensor,
    corrupted: Tensor | None = None,
    sites: Sequence[str] | None = None,
    *,
    subject: Span | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    integrated_steps: int | None = None,
    answer: int | tuple[int, int] | None = None,
    metric: str = "prob",
    memory_budget: int = DEFAULT_BUDGET,
) -> pa.Table:
    """Estimated indirect effects of restoring clean values, as rows (site, layer, position); see `table`.

    Arguments as in `causal_trace`: the same seed draws the same noise. integrated_steps: None for the derivative at the
    corrupted run, else the number of points (midpoints of as many equal parts of the way) it is averaged over.
    memory_budget: bytes for the states of all steps, where their derivative needs them all (those that other layers
    read too); layers are done in groups that keep to it, one layer at least.

    Raises UsageError for arguments that do not fit the model or each other, InputError where a run is not finite.
    """
    if integrated_steps is not None:
        integrated_steps = integer(integrated_steps, "integrated_steps, the number of points, or None,", 1)
    corruption = corrupt(model, clean, corrupted, subject=subject, noise=noise, samples=samples, seed=seed)
    wanted, blocks = restorations(model, sites, layers)
    where = prompt_positions(positions, len(corruption.clean))
    patched = patched_places(model, wanted, blocks)
    judged = partial(_judged, model, metric, answer)
    with evaluating(model):
        result = first_order(model, patched, corruption, judged, integrated_steps, memory_budget)
    labels = token_labels(model, ints(corruption.clean))
    rows = [
        _row(r, layer, t, labels[t], result.effects)
        for r in wanted
        for layer in blocks
        if layer in r.layers
        for t in where
    ]
    about = about_runs(model, corruption, result.judge, result.clean, result.corrupted, seed)
    return trace_table(rows, about | {"method": "attribution", "integrated_steps": integrated_steps})


def _judged(
    model: LanguageModel, kind: str, answer: int | tuple[int, int] | None, clean: Tensor, corrupted: Tensor
) -> Metric:
    check_finite(model, clean, corrupted)
    return make_metric(kind, answer, clean, corrupted)


def _row(r: Restoration, layer: int, t: int, token: str, effects: Effects) -> dict[str, Any]:
    effect = torch.stack([effects[layer, part][:, t] for part in r.parts]).sum(0)
    if not bool(torch.isfinite(effect).all()):
        raise InputError(f"the derivative by {r.name} of block {layer} at position {t} is not finite; take float64")
    return {
        "site": r.name, "layer": layer, "position": t, "token": token, "effect": float(effect.mean()),
        "effect_std": float(effect.std()) if len(effect) > 1 else None, "samples": len(effect),
    }  # fmt: skip


def patched_places(model: LanguageModel, wanted: Sequence[Restoration], blocks: Sequence[int]) -> list[Place]:
    """The sites that the restorations are made of; UsageError for what has no derivative."""
    if any(STATE in r.parts for r in wanted):
        raise UsageError(f"site {STATE!r} is no single tensor; name sites such as h_post+conv_state")
    names = list(dict.fromkeys(part for r in wanted for part in r.parts))
    found = places(model, blocks, names, one_axis=False)
    kinds = {site.name: site.dtype for site in model.sites()}
    for place in found:
        if not kinds[place.name].startswith(("float", "bfloat")):
            raise UsageError(f"site {place.site!r} holds {kinds[place.name]} values, which have no derivative")
    return found
