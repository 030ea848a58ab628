"""What editing one token's write into a recurrent state does to a logit: in closed form, and measured.

A write w_t that becomes w'_t changes the later read-outs of its own layer by an exactly linear term,

    dy_s = Re C_s . [prod_{r=t+1..s} Abar_r] (w'_t - w_t),   s >= t,

because Delta, B, C and x of a layer do not depend on its own states. Of what follows the layer, the closed form takes
the adjoint g_s = d logit / d y_s, so that

    predicted = sum_s g_s . dy_s = Re lambda_t . (w'_t - w_t),   lambda_t = C_t g_t + Abar_{t+1} lambda_{t+1}.

The adjoint of the unedited run (points 0) makes it a first-order statement: one forward, one backward pass and one
reverse recurrence for all tokens of a layer. What gates, norms and later layers do beyond that is seen by taking the
adjoint at several points of the way from w_t to w'_t (Gauss and Legendre's, so that a few suffice); with more points
the sum becomes the measured change itself, by the fundamental theorem, and is dearer than measuring. Where a router or
sparse attention chooses anew on the way, the logit jumps, which no adjoint sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError
from ..models import Add, Interpolate, Scale

if TYPE_CHECKING:
    from ..models import Edit, LanguageModel
    from ..models.linear_recurrence import Recurrence

MOST_POINTS = 64


class WriteEffect(NamedTuple):
    """One edited write. site: its full name. predicted, measured: the change of the logit."""

    site: str
    position: int
    predicted: float
    measured: float


class _Layer(NamedTuple):
    """A recurrence in an unedited run of T tokens. write (T, E, N) as the site shows it; decay (T, E, N) and C
    (T, E, N), complex where the states are; outputs: the sites that are y, side by side, and their widths."""

    site: str
    write: Tensor
    decay: Tensor
    C: Tensor
    outputs: tuple[tuple[str, int], ...]


def write_effects(
    model: LanguageModel,
    tokens: Tensor,
    token: int,
    *,
    layer: int,
    positions: Sequence[int] | None = None,
    factor: float = 0.0,
    atom: Tensor | None = None,
    points: int = 0,
    at_once: int = 64,
) -> list[WriteEffect]:
    """How the logit of `token` behind the last of `tokens` (1, T) changes when one write of `layer` is edited, for each
    recurrence of the layer and each of the positions (None: all), every edit by itself.

    factor: what the write is multiplied by, 0 deletes it; atom (E, N): what replaces it instead. points: at how many
    points of the way the adjoint is taken, 0 for the unedited run alone. at_once: edits that share a forward pass.
    Raises UsageError for a layer whose read-outs do not follow from its own states alone, while edits are in force, for
    an atom of another shape and for numbers that cannot be.
    """
    if model.edits:
        raise UsageError("effects of writes are those of a model without other edits: leave these first")
    if tokens.ndim != 2 or len(tokens) != 1 or not tokens.shape[1]:
        raise UsageError(f"effects of writes are those of one text, tokens (1, T), not {tuple(tokens.shape)}")
    if not 0 <= points <= MOST_POINTS or at_once < 1:
        raise UsageError(f"points is 0 to {MOST_POINTS} and at_once at least 1, not {points} and {at_once}")
    width = tokens.shape[1]
    chosen = list(range(width)) if positions is None else [p % width for p in positions if -width <= p < width]
    if positions is not None and len(chosen) != len(positions):
        raise UsageError(f"positions {list(positions)} are not all in a text of {width} tokens")
    found: list[WriteEffect] = []
    for place in _layers(model, tokens, layer):
        if atom is not None and tuple(atom.shape) != tuple(place.write.shape[1:]):
            raise UsageError(
                f"atom has shape {tuple(atom.shape)}, the writes of {place.site} {tuple(place.write.shape[1:])}"
            )
        target = factor * place.write if atom is None else atom.to(place.write).expand_as(place.write)
        change = target - place.write
        clean = _logit(model, tokens, token)[0]
        for start in range(0, len(chosen), at_once):
            some = chosen[start : start + at_once]
            rows = tokens.expand(len(some), -1)
            with torch.no_grad(), model.edit(_moved(place, some, width, factor, atom, 1.0)):
                measured = _logit(model, rows, token) - clean
            predicted = _predicted(model, rows, token, place, some, change[some], factor, atom, points)
            for i, position in enumerate(some):
                found.append(WriteEffect(place.site, position, float(predicted[i]), float(measured[i])))
    return found


def _layers(model: LanguageModel, tokens: Tensor, layer: int) -> list[_Layer]:
    if not 0 <= layer < model.n_layers:
        raise UsageError(f"{model.name} has no layer {layer}; its layers are 0 to {model.n_layers - 1}")
    recurrences = [of for of in model.blocks[layer].recurrences(torch.float64) if of.outputs]
    known = {site.name for site in model.sites()}
    kept = [of for of in recurrences if f"blocks.{layer}.mixer.{of.within}write" in known]
    if not kept:
        raise UsageError(
            f"layer {layer} of {model.name} has no recurrence whose read-outs follow from its own writes alone"
        )
    return [_observed(model, tokens, f"blocks.{layer}.mixer.{of.within}", of) for of in kept]


@torch.no_grad()
def _observed(model: LanguageModel, tokens: Tensor, prefix: str, of: Recurrence) -> _Layer:
    named = [name for name in (of.delta, of.C) if isinstance(name, str)]
    with model.capture(*(prefix + name for name in (*named, "write", *of.outputs))) as acts:
        model(tokens)
    write = acts[prefix + "write"][0]
    units = of.A.shape[0]
    width = write.shape[1]
    delta = write.new_ones(len(write), units) if of.delta is None else acts[prefix + of.delta][0].to(write)
    A = of.A.to(write.device, torch.promote_types(write.dtype, of.A.dtype) if of.A.is_complex() else write.dtype)
    decay = torch.exp(delta[..., None] * A).repeat_interleave(width // units, 1)
    read = _read_vectors(of, acts[prefix + of.C][0] if isinstance(of.C, str) else None, decay)
    sizes = tuple((prefix + name, acts[prefix + name].shape[-1]) for name in of.outputs)
    return _Layer(prefix + "write", write, decay, read.repeat_interleave(width // of.groups, 1), sizes)


def _read_vectors(of: Recurrence, captured: Tensor | None, like: Tensor) -> Tensor:
    """C (T, G, N) in the dtype of `like` (T, E, N), from its site or from the constant that the recurrence holds."""
    if captured is not None:
        return captured.to(like).view(len(like), of.groups, -1)
    constant = of.C.to(like) if isinstance(of.C, Tensor) else like.new_ones(of.groups, like.shape[2])
    return constant.expand(len(like), -1, -1)


def _moved(place: _Layer, positions: list[int], width: int, factor: float, atom: Tensor | None, share: float) -> Edit:
    """The edit that moves row i's write at its position by `share` of the way."""
    where = torch.zeros(len(positions), width, dtype=torch.bool)
    where[torch.arange(len(positions)), positions] = True
    if atom is None:
        return Scale(place.site, 1.0 + share * (factor - 1.0), where=where)
    return Interpolate(place.site, atom, share, where=where)


def _logit(model: LanguageModel, rows: Tensor, token: int) -> Tensor:
    return model(rows, last_only=True)[:, 0, token]


@torch.enable_grad()
def _adjoint(model: LanguageModel, rows: Tensor, token: int, place: _Layer, edits: Sequence[Edit]) -> Tensor:
    """d logit / d y, (rows, T, E), while `edits` act."""
    zeros = [
        torch.zeros(*rows.shape, size, dtype=place.write.dtype, device=rows.device, requires_grad=True)
        for _, size in place.outputs
    ]
    added = [Add(name, zero) for (name, _), zero in zip(place.outputs, zeros, strict=True)]
    with model.edit(*edits, *added):
        logits = _logit(model, rows, token)
    return torch.cat(torch.autograd.grad(logits.sum(), zeros), -1)


def _predicted(
    model: LanguageModel, rows: Tensor, token: int, place: _Layer, positions: list[int], change: Tensor,
    factor: float, atom: Tensor | None, points: int,
) -> Tensor:  # fmt: skip
    """(rows,): the adjoint of each row's state at its position times the change (rows, E, N), mean over the points."""
    if points == 0:
        g = _adjoint(model, rows[:1], token, place, [])
        return _contract(_state_adjoint(place, g.expand(len(rows), -1, -1), positions), change)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = change.new_zeros(len(rows))
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        partly = _moved(place, positions, rows.shape[1], factor, atom, (node + 1) / 2)
        g = _adjoint(model, rows, token, place, [partly])
        total = total + weight / 2 * _contract(_state_adjoint(place, g, positions), change)
    return total


@torch.no_grad()
def _state_adjoint(place: _Layer, g: Tensor, positions: list[int]) -> Tensor:
    """lambda (rows, E, N) at each row's position, by the reverse recurrence."""
    at = torch.tensor(positions, device=g.device)
    adjoint = torch.zeros(len(g), *place.decay.shape[1:], dtype=place.decay.dtype, device=g.device)
    kept = torch.zeros_like(adjoint)
    for t in reversed(range(g.shape[1])):
        later = place.decay[t + 1] * adjoint if t + 1 < g.shape[1] else adjoint
        adjoint = place.C[t] * g[:, t, :, None] + later
        kept = torch.where((at == t)[:, None, None], adjoint, kept)
    return kept


def _contract(adjoint: Tensor, change: Tensor) -> Tensor:
    if adjoint.is_complex():
        change = torch.view_as_complex(change.reshape(*change.shape[:-1], -1, 2).contiguous())
    return (adjoint * change).sum((1, 2)).real
