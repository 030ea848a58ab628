"""Causal tracing: how much of the clean answer comes back when one clean value is put into a corrupted run.

    table = causal_trace(model, tokens, subject=(2, 5))                 # noise on the subject, 10 samples
    table = causal_trace(model, tokens, other, sites=["h_post+conv_state"], window=5)

IE(site, layer, t) = mean over samples of metric(restored run) - metric(corrupted run), after Meng et al.
(arXiv 2202.05262). Every restoration is exact: the same number as replaying the corrupted prompt token by token and
changing the value on the way. What is not computed is what cannot change: layers below, positions before, restorations
before the first corrupted token, which put back what is there, and post-step ones after the last token, which nobody
reads; their effect is 0 exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ...models.entering import exchanges
from .arguments import integer
from .asked import about_runs, check_finite, evaluating, prompt_positions
from .baseline import Baseline, final_logits
from .corruption import Corruption, Span, corrupt
from .memory import DEFAULT_BUDGET, Memory
from .metric import make_metric
from .restoration import Restoration, restorations
from .sweep import Restored, Sweep
from .table import token_labels, trace_table
from .typed_tensors import ints

if TYPE_CHECKING:
    import pyarrow as pa

    from ...models import LanguageModel
    from ...models.inputs import Readable


@torch.no_grad()
def causal_trace(
    model: LanguageModel,
    clean: Readable,
    corrupted: Readable | None = None,
    *,
    subject: Span | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    window: int = 1,
    answer: int | tuple[int, int] | None = None,
    metric: str = "prob",
    memory_budget: int = DEFAULT_BUDGET,
) -> pa.Table:
    """Indirect effects of restoring clean values, as rows (site, layer, position) in that order; see `table`.

    clean: token ids (T,), a text, or a tokenizer's output of one. corrupted: another prompt of equal length (symmetric
    replacement, one sample); without it the tokens of `subject` = (start, stop) get Gaussian noise: `samples` draws
    from `seed`, of standard deviation `noise` in the units of the embeddings (default: `subject_noise` of this prompt).
    See `corruption`.
    sites: names of `restoration` (default: those of its `SITES` that the model has). layers, positions: default all;
    negative positions count from the end. Rows are made where a layer has the site.
    window: layers restored together, around each; the residual stream is always restored after one layer.
    answer, metric: see `metric.make_metric`. memory_budget: bytes that tracing may take beside the model.

    Runs in evaluation mode, with the edits that are in force on the model. Raises UsageError for arguments that do not
    fit the model or each other, InputError for tokens outside of the vocabulary and for logits that are not finite.
    """
    corruption = corrupt(model, clean, corrupted, subject=subject, noise=noise, samples=samples, seed=seed)
    length = len(corruption.clean)
    wanted, blocks = restorations(model, sites, layers)
    places = prompt_positions(positions, length)
    window = integer(window, "window, a number of layers,", 1)
    memory = Memory(model, length, memory_budget)
    turns = [
        slice(i, min(i + memory.samples_at_once, corruption.samples))
        for i in range(0, corruption.samples, memory.samples_at_once)
    ]
    with evaluating(model):
        ends = [final_logits(model, corruption, turn) for turn in turns]
        before, after = ends[0][0], torch.cat([end[1:] for end in ends])
        check_finite(model, before, after)
        judge = make_metric(metric, answer, before, after)
        lowest = judge(after)
        plan = _plan(model, corruption, wanted, blocks, places, window)
        sweep = Sweep(model, judge, memory, exchanges(model))
        found = [_effects(Baseline(model, corruption, turn), sweep, plan, lowest[turn]) for turn in turns]
    effects = {key: torch.cat([part[key] for part in found]) for key in found[0]}
    labels = token_labels(model, ints(corruption.clean))
    zero = torch.zeros(corruption.samples, dtype=torch.float64)
    rows = [
        _row(r.name, layer, position, labels[position], effects.get((r, layer, position), zero))
        for r in wanted
        for layer in blocks
        if layer in r.layers
        for position in places
    ]
    return trace_table(rows, about_runs(model, corruption, judge, before, after, seed) | {"window": window})


Key = tuple[Restoration, int, int]


def _plan(
    model: LanguageModel,
    corruption: Corruption,
    wanted: Sequence[Restoration],
    blocks: Sequence[int],
    places: Sequence[int],
    window: int,
) -> dict[int, list[Restored]]:
    """What has to be computed at each position, ascending; the items by the layer at which they enter."""
    last = len(corruption.clean) - 1
    plan: dict[int, list[Restored]] = {}
    for position in places:
        if position < corruption.first:
            continue
        items = [
            Restored(r, layer, r.window(layer, window, model.n_layers))
            for r in wanted
            if not (r.post_step and position == last)
            for layer in blocks
            if layer in r.layers
        ]
        if items:
            plan[position] = sorted(items, key=lambda item: item.first)
    return plan


def _effects(baseline: Baseline, sweep: Sweep, plan: dict[int, list[Restored]], lowest: Tensor) -> dict[Key, Tensor]:
    """Differences (samples,) to the corrupted runs' metric `lowest` (samples,)."""
    found: dict[Key, Tensor] = {}
    for position, items in plan.items():
        baseline.advance(position, sweep.sites(items))
        for post_step in (False, True):
            some = [item for item in items if item.restoration.post_step == post_step]
            if some:
                scores = sweep(baseline, some, post_step)
                for item, score in zip(some, scores, strict=True):
                    found[item.restoration, item.layer, position] = (score - lowest).cpu()
    return found


def _row(site: str, layer: int, position: int, token: str, effect: Tensor) -> dict[str, Any]:
    if not bool(torch.isfinite(effect).all()):
        raise InputError(f"restoring {site} of block {layer} at position {position} gives logits that are not finite")
    return {
        "site": site, "layer": layer, "position": position, "token": token, "effect": float(effect.mean()),
        "effect_std": float(effect.std()) if len(effect) > 1 else None, "samples": len(effect),
    }  # fmt: skip
