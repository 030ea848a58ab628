"""What cutting each edge would cost, to first order and for all edges at once: edge attribution patching.

    EAP(i > j) = < e_ij of the clean run - e_ij of the source, dm / d e_ij >

e_ij is what the edge carries to its receiver alone (see `circuit_runs`), m the metric: the estimate is how much m falls
when the edge carries the source's value instead. Positive: it supports the answer. Two forward passes and one backward
pass give all edges (Syed et al., arXiv 2310.10348). Where derivatives are taken:

- "eap": in the clean run;
- "eap_ig": averaged over runs whose token embeddings lie between the source's and the clean ones (EAP-IG inputs, Hanna
  et al., arXiv 2403.17806; midpoints of as many equal parts of the way);
- "eap_drop": in the clean run as it is, and with the gradient through one block at a time taken away, |estimates|
  averaged (GradDrop of AtP*, Kramár et al., arXiv 2403.00745, section 3.2, with the whole gradient beside the others,
  because a path through all blocks is in none of them): what cancels in the derivative does not cancel in all of these.
  Never negative.

None of them is an effect. An edge whose slope is zero, such as one of two redundant ones, has an estimate of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from ...models.access.edits import Add, Edit, Replace
from .circuit_graph import Graph
from .circuit_runs import AddToWindow, Source, shifted_convolution, source_of, x_in_of
from .contrasts import Judged, Pairs
from .cuts import Rewrite

if TYPE_CHECKING:
    from ...models import LanguageModel

Method = Literal["eap", "eap_ig", "eap_drop"]


class Slopes(NamedTuple):
    """dm/d of what reaches each receiver through the stream, of what each convolution's earlier inputs add to it (or of
    its window's newest entry), and of each scan's y."""

    receivers: dict[str, Tensor]
    windows: dict[str, Tensor]
    scans: dict[str, Tensor]


def edge_attributions(
    model: LanguageModel, graph: Graph, pairs: Pairs, *, method: Method, steps: int = 5, judged: Judged = "logit_diff"
) -> Tensor:
    """Estimated loss of m by cutting each edge, (B, n_edges) in float64.

    steps: points of "eap_ig". The stream's layout is that of `pairs`, which is padded on the right.
    """
    clean = source_of(model, graph, pairs.clean, pairs.mask)
    source = source_of(model, graph, pairs.corrupted, pairs.mask)
    total = torch.zeros(pairs.rows, len(graph.edges), dtype=torch.float64, device=pairs.clean.device)
    variants = list(_variants(model, method, steps, clean, source))
    for edits in variants:
        found = _estimates(graph, clean, source, _slopes(model, graph, pairs, edits, judged), pairs.mask)
        total += (found.abs() if method == "eap_drop" else found) / len(variants)
    return total


def _variants(model: LanguageModel, method: Method, steps: int, clean: Source, source: Source) -> Iterator[list[Edit]]:
    """The edits of each run in which derivatives are taken."""
    if method == "eap":
        yield []
    elif method == "eap_ig":
        ends = source.values["embed"], clean.values["embed"]
        for i in range(steps):
            yield [Replace("embed", torch.lerp(*ends, (i + 0.5) / steps))]
    else:
        known = {site.name for site in model.sites()}
        yield []
        for layer in range(model.n_layers):
            names = [f"blocks.{layer}.{part}" for part in ("mixer_out", "mlp_out")]
            yield [Rewrite(name, function=Tensor.detach) for name in names if name in known]


@torch.inference_mode(False)
def _slopes(model: LanguageModel, graph: Graph, pairs: Pairs, edits: Sequence[Edit], judged: Judged) -> Slopes:
    """One forward and one backward pass over the clean prompts with `edits`."""
    sites = {site.name: site for site in model.sites()}
    shape = tuple(pairs.clean.shape)

    def leaf(name: str) -> Tensor:
        axes = tuple(int(axis) for axis in sites[name].axes)
        dtype = getattr(torch, sites[name].dtype)
        return torch.zeros(*shape, *axes, dtype=dtype, device=model.device, requires_grad=True)

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        # the derivative through one receiver alone: what is added for it is taken away from the stream behind it
        received = {receiver.name: leaf(receiver.pre) for receiver in graph.receivers}
        added: list[Edit] = []
        for receiver in graph.receivers:
            added.append(Add(receiver.pre, received[receiver.name]))
            if receiver.post is not None:
                added.append(Add(receiver.post, -received[receiver.name]))
        windows = {c.site: leaf(c.site if c.scan is None else x_in_of(c.scan)) for c in graph.convolutions}
        read = {name: leaf(name) for scan in graph.scans for name in scan.outputs}
        for site, scan in graph.convolutions:
            if scan is None:
                added.append(AddToWindow(site, steps=windows[site].unbind(1)))
            else:
                added += shifted_convolution(scan, partial(_constant, windows[site]))
        added += [Add(name, zero) for name, zero in read.items()]
        stack.enter_context(model.edit(*edits, *added))
        logits = model(pairs.clean, pairs.mask, last_only=True)[:, 0]
        leaves = [*received.values(), *windows.values(), *read.values()]
        outcome = pairs.judge(logits, judged).sum()  # rows of a batch do not meet
        slopes = dict(
            zip([*received, *windows, *read],
                torch.autograd.grad(outcome, leaves, allow_unused=True, materialize_grads=True), strict=True)
        )  # fmt: skip
    return Slopes(
        {name: slopes[name] for name in received},
        # a window that is replaced at every step differs from what it was carried on as in its newest entry alone
        {c.site: slopes[c.site][..., -1] if c.scan is None else slopes[c.site] for c in graph.convolutions},
        {scan.prefix: torch.cat([slopes[name] for name in scan.outputs], -1) for scan in graph.scans},
    )


def _constant(value: Tensor, past: Tensor) -> Tensor:
    return value


def _estimates(graph: Graph, clean: Source, source: Source, slopes: Slopes, mask: Tensor) -> Tensor:
    columns: list[Tensor] = []
    for edge in graph.edges:
        if edge.kind == "residual":
            moved, slope = clean.values[edge.sender] - source.values[edge.sender], slopes.receivers[edge.receiver]
        elif edge.kind == "conv":
            moved, slope = clean.values[edge.sender] - source.values[edge.sender], slopes.windows[edge.sender]
            moved = moved[..., -1] if moved.ndim > slope.ndim else moved
        else:
            assert edge.channels is not None
            prefix, part = edge.sender.removesuffix("h"), slice(*edge.channels)
            moved = (clean.past[prefix] - source.past[prefix])[..., part]
            slope = slopes.scans[prefix][..., part]
        product = (moved.double() * slope.double()).sum(-1)
        columns.append(torch.where(mask, product, 0.0).sum(1))
    return torch.stack(columns, 1)
