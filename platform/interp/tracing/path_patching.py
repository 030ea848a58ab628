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
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ...errors import UsageError
from ...models.edits import Replace
from ...models.sites import Selection, expand, parse
from ..columns import column
from .outcome import answer_token, check_metric, prompt_tokens, score

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("sender", pa.string(), "the site restored to its clean value, with its channels and positions"),
    column("receiver", pa.string(), "the site that takes what it makes of that"),
    column("p", pa.float64(), "probability of the answer with the path restored"),
    column("effect", pa.float64(), "change of the metric against the corrupted run"),
])  # fmt: skip

_ADDED = ("mixer_out", "mlp_out")  # what blocks add to the residual stream


class _Runs(NamedTuple):
    """Values of the two runs by selection or full site name, and the outcome of both."""

    clean: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]
    answer: int
    p_clean: float
    p_corrupted: float
    score_corrupted: float


def path_patching(
    model: LanguageModel,
    clean: Tensor | Sequence[int],
    corrupted: Tensor | Sequence[int],
    sender: str | Sequence[str],
    receiver: str | Sequence[str],
    *,
    answer: int | str | None = None,
    metric: str = "prob",
) -> pa.Table:
    """The effect of every direct path from a sender to a receiver that comes after it in a forward pass.

    clean, corrupted (T): prompts of one length. sender, receiver: selections, or several; `*` stands for every block.
    answer, metric: as in `attribution_patching`. Each pair costs two forward passes.
    Returns a table of `SCHEMA`, by sender, then receiver, in the order of a forward pass; its metadata holds p_clean,
    p_corrupted, answer and metric. Raises UsageError for sites the model lacks and where no sender comes before a
    receiver.
    """
    check_metric(metric)
    before, after = prompt_tokens(model, clean, "clean"), prompt_tokens(model, corrupted, "corrupted")
    if len(before) != len(after):
        raise UsageError(f"corrupted has {len(after)} tokens, clean {len(before)}; make them equally long")
    order = {site.name: number for number, site in enumerate(model.sites())}
    senders, receivers = _selections(model, sender, "sender"), _selections(model, receiver, "receiver")
    pairs = [(a, b) for a in senders for b in receivers if order[a.name] < order[b.name]]
    if not pairs:
        raise UsageError(
            f"path_patching: {senders[0]} does not come before {receivers[0]} in a forward pass, nor does any other "
            "sender before a receiver; exchange them or choose other sites"
        )
    with torch.inference_mode(False), torch.no_grad():
        runs = _watch(model, before, after, senders, answer, metric)
        rows = [_row(model, after, a, b, runs, frozen_sites(order, a.name, b.name), metric) for a, b in pairs]
    metadata = {
        "p_clean": repr(runs.p_clean), "p_corrupted": repr(runs.p_corrupted), "answer": str(runs.answer),
        "metric": metric,
    }  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))


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
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise UsageError(f"path_patching: name at least one {what}")
    found: list[Selection] = []
    for text in texts:
        pattern = parse(text)
        for site in expand(pattern, model.sites()):
            if site.constant or not site.editable:
                raise UsageError(f"path_patching: site {site.name!r} is no value of a token that could be patched")
            found.append(Selection(site.name, pattern.positions, pattern.channels))
    return list(dict.fromkeys(found))


def _watch(
    model: LanguageModel, clean: Tensor, corrupted: Tensor, senders: Sequence[Selection], answer: int | str | None,
    metric: str,
) -> _Runs:  # fmt: skip
    added = [s.name for s in model.sites() if s.name.count(".") == 2 and s.name.rpartition(".")[2] in _ADDED]
    with model.capture(*map(str, senders)) as before:
        said = model(clean[None], last_only=True)[:, -1]
    with model.capture(*added) as after:
        logits = model(corrupted[None], last_only=True)[:, -1]
    target = answer_token(model, answer, said[0])
    p_clean, p_corrupted = (float(torch.softmax(v, -1)[0, target]) for v in (said, logits))
    return _Runs(before, after, target, p_clean, p_corrupted, float(score(logits, target, metric)))


def _row(
    model: LanguageModel, corrupted: Tensor, sender: Selection, receiver: Selection, runs: _Runs, frozen: Sequence[str],
    metric: str,
) -> dict[str, str | float]:  # fmt: skip
    first = [Replace(str(sender), runs.clean[str(sender)]), *(Replace(name, runs.frozen[name]) for name in frozen)]
    with model.edit(*first), model.capture(str(receiver)) as told:
        model(corrupted[None], last_only=True)
    with model.edit(Replace(str(receiver), told[str(receiver)])):
        logits = model(corrupted[None], last_only=True)[:, -1]
    return {
        "sender": str(sender),
        "receiver": str(receiver),
        "p": float(torch.softmax(logits, -1)[0, runs.answer]),
        "effect": float(score(logits, runs.answer, metric)) - runs.score_corrupted,
    }
