"""Path patching: what one site tells another one directly (Wang et al., arXiv 2211.00593, section 3.1).

1. In the corrupted run the sender is restored to its clean value, while what the mixers and feed-forward parts between
   it and the receiver add to the residual stream is frozen at the corrupted run. The receiver sees the sender through
   the residual stream alone (and through the part that the sender stands in).
2. The receiver gets, in an otherwise untouched corrupted run, the value it had in step 1. The effect is what that does
   to the outcome, by whatever way from the receiver on.

Sender and receiver are selections of public sites, `blocks.3.mixer.h_post@[4]` or `blocks.*.mixer.B`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ...core.errors import InputError, UsageError
from ...models.access.edits import Edit, Replace
from ...models.access.sites import Selection, expand, parse
from ..engine.columns import column
from .arguments import is_list
from .asked import about_runs, check_finite, evaluating
from .corruption import Span, corrupt
from .metric import Metric, make_metric
from .table import text_metadata

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("sender", pa.string(), "the site restored to its clean value, with its channels and positions"),
    column("receiver", pa.string(), "the site that takes what it makes of that"),
    column("effect", pa.float64(), "mean over samples of the metric with the path restored minus the corrupted run's"),
    column("effect_std", pa.float64(), "unbiased standard deviation of that difference over samples; null for one"),
    column("samples", pa.int32(), "corrupted runs"),
])  # fmt: skip

_ADDED = ("mixer_out", "mlp_out")  # what blocks add to the residual stream


class _Runs(NamedTuple):
    """The corrupted prompts (S, T) with the edits that corrupt them, and the values of the clean run by selection and
    of the corrupted runs by site name; the corrupted runs' metric (S,)."""

    tokens: Tensor
    start: list[Edit]
    clean: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]
    lowest: Tensor


def path_patching(
    model: LanguageModel,
    clean: Tensor,
    corrupted: Tensor | None,
    sender: str | Sequence[str],
    receiver: str | Sequence[str],
    *,
    subject: Span | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    answer: int | tuple[int, int] | None = None,
    metric: str = "prob",
) -> pa.Table:
    """The effect of every direct path from a sender to a receiver that comes after it in a forward pass.

    sender, receiver: selections, or several; `*` stands for every block. The other arguments as in `causal_trace`. Each
    pair costs two forward passes of all samples.

    Returns a table of `SCHEMA`, by sender, then receiver. Raises UsageError for sites the model lacks, where no sender
    comes before a receiver, and for arguments that do not fit each other; InputError where a run is not finite.
    """
    corruption = corrupt(model, clean, corrupted, subject=subject, noise=noise, samples=samples, seed=seed)
    order = {site.name: number for number, site in enumerate(model.sites())}
    senders, receivers = _selections(model, sender, "sender"), _selections(model, receiver, "receiver")
    pairs = [(a, b) for a in senders for b in receivers if order[a.name] < order[b.name]]
    if not pairs:
        raise UsageError(
            f"path_patching: {senders[0]} does not come before {receivers[0]} in a forward pass, nor does any other "
            "sender before a receiver; exchange them or choose other sites"
        )
    added = [name for name in order if name.count(".") == 2 and name.rpartition(".")[2] in _ADDED]
    every = slice(None)
    with evaluating(model), torch.no_grad():
        with model.edit(*corruption.edits(model, every)), model.capture("embed", *added, *map(str, senders)) as acts:
            logits = model(corruption.rows(every), phase="prefill", last_only=True)[:, 0]
        before, after = logits[0], logits[1:]
        check_finite(model, before, after)
        judge = make_metric(metric, answer, before, after)
        start: list[Edit] = [] if corruption.noise is None else [Replace("embed", acts["embed"][1:])]
        runs = _Runs(
            corruption.corrupted,
            start,
            {str(s): acts[str(s)][:1] for s in senders},
            {name: acts[name][1:] for name in added},
            judge(after),
        )
        rows = [_row(model, a, b, runs, frozen_sites(order, a.name, b.name), judge) for a, b in pairs]
    about = about_runs(model, corruption, judge, before, after, seed)
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(text_metadata(about)))


def frozen_sites(order: Mapping[str, int], sender: str, receiver: str) -> list[str]:
    """What is frozen between two sites: each block's `mixer_out` and `mlp_out`, but not of the sender's own part.

    order: site names and their places in a forward pass.
    """
    own = ""
    if sender.startswith("blocks."):
        layer, part = sender.split(".")[1:3]
        part = part.removesuffix("_in")
        own = f"blocks.{layer}.{part}_out" if part in ("mixer", "mlp") else ""
    between = [name for name, number in order.items() if order[sender] < number < order[receiver]]
    return [name for name in between if name.rpartition(".")[2] in _ADDED and name.count(".") == 2 and name != own]


def _selections(model: LanguageModel, given: str | Sequence[str], what: str) -> list[Selection]:
    texts = [given] if isinstance(given, str) else given
    if not is_list(texts) or not texts:
        raise UsageError(f"path_patching: {what} is the name of a site, or a list of at least one, not {given!r}")
    selections: list[Selection] = []
    for text in texts:
        pattern = parse(text)
        for site in expand(pattern, model.sites()):
            if site.constant or not site.editable:
                raise UsageError(f"path_patching: site {site.name!r} is no value of a token that could be patched")
            selections.append(Selection(site.name, pattern.positions, pattern.channels))
    return list(dict.fromkeys(selections))


def _row(
    model: LanguageModel, sender: Selection, receiver: Selection, runs: _Runs, frozen: Sequence[str], judge: Metric
) -> dict[str, Any]:
    first = [Replace(str(sender), runs.clean[str(sender)]), *(Replace(name, runs.frozen[name]) for name in frozen)]
    with model.edit(*runs.start, *first), model.capture(str(receiver)) as received:
        model(runs.tokens, phase="prefill", last_only=True)
    with model.edit(*runs.start, Replace(str(receiver), received[str(receiver)])):
        logits = model(runs.tokens, phase="prefill", last_only=True)[:, 0]
    effect = judge(logits) - runs.lowest
    if not bool(torch.isfinite(effect).all()):
        raise InputError(f"the path from {sender} to {receiver} gives logits that are not finite")
    return {
        "sender": str(sender), "receiver": str(receiver), "effect": float(effect.mean()),
        "effect_std": float(effect.std()) if len(effect) > 1 else None, "samples": len(effect),
    }  # fmt: skip
