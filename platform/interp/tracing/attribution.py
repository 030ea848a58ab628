"""Attribution patching: a first-order estimate of every restoration at once (Nanda, 2023).

    AP(a) = <a_clean - a_corrupted, dM/da at the corrupted run>

estimates by how much the metric M rises when the clean value of a site, at one layer and position, is restored in the
corrupted run. All layers, positions and sites cost two forward passes and one backward pass, recurrent states among
them. It is a slope: near where the model is curved it is not the effect, which tracing measures.

Integrated (`integrated_steps`): the derivative is averaged over runs between the corrupted and the clean prompt, whose
token embeddings are mixed (Hanna et al., arXiv 2403.17806). Then the effects at the first block's `resid_pre`, summed
over positions, add up to the whole difference between the two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ...errors import UsageError
from ..columns import column
from ..places import Place, check_layers, places, relative_name
from .first_order import FirstOrder, first_order
from .outcome import absolute_positions, check_metric, prompt_tokens, token_texts

if TYPE_CHECKING:
    from ...models import LanguageModel

#: the sites of a trace, as far as a model has them; "+" restores several together
SITES = (
    "resid_post", "mixer_out", "h", "h_post", "conv_state", "h_post+conv_state", "delta", "B", "C", "gate", "y",
)  # fmt: skip

SCHEMA = pa.schema([
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("position", pa.int32(), "token position"),
    column("token", pa.string(), "the clean prompt's token there"),
    column("effect", pa.float64(), "mean over samples of the estimated change of the metric when this is restored"),
    column("effect_std", pa.float64(), "standard deviation of it over samples (n - 1); null for one sample"),
    column("samples", pa.int32(), "corrupted prompts"),
])  # fmt: skip


class _Parts(NamedTuple):
    """A site of the table and the sites of a block, restored together, that it stands for."""

    label: str
    names: tuple[str, ...]


def attribution_patching(
    model: LanguageModel,
    clean: Tensor | Sequence[int],
    corrupted: Tensor | Sequence[int],
    sites: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    integrated_steps: int | None = None,
    answer: int | str | None = None,
    metric: str = "prob",
    memory_mb: int = 1024,
) -> pa.Table:
    """The estimated effect of restoring each site, layer and position of the clean run in the corrupted one.

    clean (T): the prompt. corrupted (T), or (S, T) for S samples: prompts of the same length. sites: relative to the
    block (`delta` may be written for `mixer.delta`), several joined by "+" for restoring them together; None: those of
    `SITES` that the model has. answer: token id or text; None: what the model says to the clean prompt. metric: "prob",
    "logprob" or "logit", after the last token. integrated_steps: None for the derivative at the corrupted run, else the
    number of points (midpoints of as many equal parts) it is averaged over. memory_mb: what the states that other
    layers read too may take; layers are done in groups that keep to it, one layer at least.

    Returns a table of `SCHEMA` by site, layer and position; its metadata holds p_clean, p_corrupted (probabilities of
    the answer, the second averaged over samples), answer, metric and integrated_steps.
    Raises UsageError for prompts of different length, and for sites, layers or positions that the model lacks.
    """
    check_metric(metric)
    if integrated_steps is not None and (isinstance(integrated_steps, bool) or integrated_steps < 1):
        raise UsageError(f"integrated_steps must be 1 or more, or None for none, not {integrated_steps!r}")
    tokens = prompt_tokens(model, clean, "clean")
    others = corrupted_prompts(model, corrupted, len(tokens))
    where = absolute_positions(positions, len(tokens), "positions")
    parts = site_parts(model, sites)
    found = _places(model, parts, check_layers(layers, model.n_layers))
    result = first_order(
        model, found, tokens, others, answer=answer, metric=metric, steps=integrated_steps, memory_mb=memory_mb
    )
    metadata = {
        "p_clean": repr(result.p_clean), "p_corrupted": repr(float(result.p_corrupted.mean())),
        "answer": str(result.answer), "metric": metric, "integrated_steps": str(integrated_steps or 0),
    }  # fmt: skip
    rows = [row for part in parts for row in _rows(part, result, where, token_texts(model, tokens))]
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))


def _rows(
    part: _Parts, result: FirstOrder, where: Sequence[int], texts: Sequence[str]
) -> list[dict[str, str | int | float | None]]:
    """The rows of one site: every layer that has all its parts, every position."""
    rows: list[dict[str, str | int | float | None]] = []
    for layer in sorted({layer for layer, _ in result.effects}):
        effects = [result.effects[layer, name] for name in part.names if (layer, name) in result.effects]
        if len(effects) < len(part.names):
            continue
        total = torch.stack(effects).sum(0)
        std = total.std(0) if len(total) > 1 else None
        for t in where:
            rows.append({
                "site": part.label, "layer": layer, "position": t, "token": texts[t],
                "effect": float(total[:, t].mean()), "effect_std": None if std is None else float(std[t]),
                "samples": len(total),
            })  # fmt: skip
    return rows


def corrupted_prompts(model: LanguageModel, corrupted: Tensor | Sequence[int], width: int) -> Tensor:
    """(S, T) prompts of one (T) or several (S, T); UsageError unless T is `width`, the clean prompt's."""
    given = torch.as_tensor(corrupted)
    if given.ndim == 2 and len(given):
        rows = torch.stack([prompt_tokens(model, row, "corrupted") for row in given])
    else:
        rows = prompt_tokens(model, given, "corrupted")[None]
    if rows.shape[1] != width:
        raise UsageError(
            f"corrupted has {rows.shape[1]} tokens, clean {width}; patching pairs positions: make them equally long"
        )
    return rows


def site_parts(model: LanguageModel, sites: Sequence[str] | None) -> list[_Parts]:
    """The sites asked for by their names inside a block; None is those of `SITES` that the model has.

    Raises UsageError, listing what the model has, for one it lacks, and for one named twice.
    """
    if isinstance(sites, str):
        raise UsageError(f"sites must be a list of names, not the text {sites!r}")
    labels = list(SITES if sites is None else sites)
    if not labels or len(set(labels)) < len(labels):
        raise UsageError(f"sites {labels}: name at least one site, and each of them once")
    known = {s.name.split(".", 2)[2] for s in model.sites() if s.name.startswith("blocks.")}
    found = []
    for label in labels:
        names = [name.strip() for name in label.split("+")]
        if sites is None and not all({name, f"mixer.{name}"} & known for name in names):
            continue
        found.append(_Parts(label, tuple(relative_name(model, name) for name in names)))
    return found


def _places(model: LanguageModel, parts: Sequence[_Parts], layers: Sequence[int]) -> list[Place]:
    """Where the parts are; UsageError for sites that hold no numbers one could move."""
    found = places(model, layers, list(dict.fromkeys(n for part in parts for n in part.names)), one_axis=False)
    kinds = {site.name: (site.dtype, site.editable) for site in model.sites()}
    for place in found:
        dtype, editable = kinds[place.name]
        if not dtype.startswith(("float", "bfloat")) or not editable:
            raise UsageError(f"site {place.site!r} holds {dtype} values that can only be read; choose others")
    return found
