"""Scores of a mixer's channels from its exact map F between tokens (`hidden_attention`), for one prompt.

The activation of channel e at token t is a_t = (F u)_t + bias, silu(z) times the scan's output, u being what enters the
convolution. With M the log-probability of the answer's first token, read at the prompt's last token:

- attention_weighted: sum over tokens j of |F[i, j] u_j|, what token i reads through the channel; i is the last token,
  or the mean is taken over all i;
- gradient_guided: sum over t of (dM/da_t) a_t, without the bias: the first-order contribution of what is read;
- rollout: sum over t of R[last, t] |a_t|, R being the rollout through the blocks above: what of it reaches the last
  token, if every block mixes tokens as its mean |F| does and keeps half of what it had.

Mean activation is the mean of |a_t|. Diversity is the entropy of the shares of the summed |a_t| that the distinct
tokens of the prompt have, over the logarithm of their number: 1 where the channel is as active at each, 0 at one alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.access.edits import Add
from ...models.parts.past import PAST
from .hidden_attention import mixer_blocks, mixing
from .recurrences import LayerRecurrence, scans_of
from .typed_tensors import different_rows, lengths

if TYPE_CHECKING:
    from ...models import LanguageModel

MODES = ("attention_weighted", "gradient_guided", "rollout")
Reader = Literal["last", "each"]


class Neurons(NamedTuple):
    """Of the channels of one block (E,), float64. rollout: None where a block above has no map. error: of F u + bias
    against the activation, relative, over all channels and tokens."""

    mean_activation: Tensor
    diversity: Tensor
    attention_weighted: Tensor
    gradient_guided: Tensor
    rollout: Tensor | None
    error: float


class _Read(NamedTuple):
    """What one pass over the maps of a block gives: the scores that need no other block, and how it mixes tokens."""

    activation: Tensor  # (E, T)
    attention_weighted: Tensor
    gradient_guided: Tensor
    mixing: Tensor
    error: float


def mapped(model: LanguageModel, layer: int) -> LayerRecurrence | None:
    """The scan of a block whose mixer is convolution, scan and gate alone, so that it has a map F; else None."""
    scans = scans_of(model, layer)
    return scans[0] if len(scans) == 1 and scans[0].of.around is not None else None


def moves_nothing(model: LanguageModel, layer: int) -> bool:
    """Whether a block carries nothing from token to token: experts, or a feed-forward part alone."""
    return not model.blocks[layer].zero_state(1, model.dtype, model.device)


def attends(model: LanguageModel, layer: int) -> bool:
    """Whether a block keeps records of earlier tokens, beside a scan perhaps: then its scan is not all that mixes."""
    return any(name.startswith(PAST) for name in model.blocks[layer].zero_state(1, model.dtype, model.device))


def neurons(model: LanguageModel, prompt: Tensor, answer: int, layers: list[int], reader: Reader) -> dict[int, Neurons]:
    """By block, of those of `layers` that have a map, for a prompt (T,) whose answer begins with the token `answer`.
    Scores are NaN where the answer's are not finite."""
    lowest = min(layers)
    places = {i: place for i in range(lowest, model.n_layers) if (place := mapped(model, i)) is not None}
    values, slopes = _run(model, prompt, answer, list(places.values()))
    read = {i: _read(place, values, slopes[i], reader) for i, place in places.items()}
    found: dict[int, Neurons] = {}
    above: Tensor | None = torch.eye(len(prompt), dtype=torch.float64, device=prompt.device)[-1]
    for i in range(model.n_layers - 1, lowest - 1, -1):
        if i in layers and i in read:
            one = read[i]
            size = one.activation.abs()
            rollout = None if above is None else size @ above
            found[i] = Neurons(
                size.mean(1), diversity(size, prompt), one.attention_weighted, one.gradient_guided, rollout, one.error
            )
        if above is not None and not moves_nothing(model, i):
            above = above @ read[i].mixing if i in read and not attends(model, i) else None
    return found


@torch.inference_mode(False)
def _run(
    model: LanguageModel, prompt: Tensor, answer: int, places: list[LayerRecurrence]
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Values of all sites that the maps need, and dM/dy (T, E) by block."""
    wanted: list[str] = []
    leaves: dict[int, Tensor] = {}
    known = {site.name: site for site in model.sites()}
    for place in places:
        assert place.of.around is not None
        (y,) = place.outputs
        wanted += [*place.inputs, y, place.prefix + place.of.around.x_in, place.prefix + place.of.around.gate]
        dtype, width = getattr(torch, known[y].dtype), int(known[y].axes[0])
        leaves[place.layer] = torch.zeros(1, len(prompt), width, dtype=dtype, device=prompt.device, requires_grad=True)
    adds = [Add(place.outputs[0], leaves[place.layer]) for place in places]
    with torch.enable_grad(), model.edit(*adds), model.capture(*wanted) as acts:
        logits = model(prompt[None], last_only=True)[0, -1]
        slopes = torch.autograd.grad(torch.log_softmax(logits, -1)[answer], list(leaves.values()))
    return {name: acts[name].detach() for name in wanted}, {i: s[0] for i, s in zip(leaves, slopes, strict=True)}


@torch.no_grad()
def _read(place: LayerRecurrence, values: dict[str, Tensor], slope: Tensor, reader: Reader) -> _Read:
    around = place.of.around
    assert around is not None
    u, z, y = (values[place.prefix + name][0].double().T for name in (around.x_in, around.gate, place.of.outputs[0]))
    gate = F.silu(z)
    total = torch.zeros(u.shape[1], u.shape[1], dtype=torch.float64, device=u.device)
    weighted, guided, activation = (torch.zeros_like(part) for part in (u[:, 0], u[:, 0], u))
    # dM/da = (dM/dy) / silu(z); where the gate is closed nothing that is read goes on
    by_activation = torch.where(gate != 0, slope.double().T / torch.where(gate != 0, gate, 1.0), 0.0)
    start = 0
    for weights, bias in mixer_blocks(place, values, torch.arange(len(u), device=u.device)):
        here = slice(start, start := start + len(weights))
        size = weights.abs().double()
        total += size.sum(0)
        each = (size @ u[here].abs()[..., None])[..., 0]  # (k, T) by reader
        weighted[here] = each[:, -1] if reader == "last" else each.mean(1)
        read = (weights.double() @ u[here][..., None])[..., 0]
        activation[here] = read + bias.double()
        guided[here] = (by_activation[here] * read).sum(1)
    exact = gate * y
    off, size = (float(lengths(x.flatten())) for x in (activation - exact, exact))
    return _Read(activation, weighted, guided, mixing(total), off / size if size else off)


def diversity(size: Tensor, tokens: Tensor) -> Tensor:
    """Entropy (E,) of the shares of size (E, T) that distinct tokens (T,) have, over the logarithm of their number; NaN
    for a single one, and for zeros."""
    distinct, which = different_rows(tokens[:, None])
    mass = torch.zeros(len(size), len(distinct), dtype=size.dtype, device=size.device).index_add_(1, which, size)
    share = mass / mass.sum(1, keepdim=True)
    return -torch.xlogy(share, share).sum(1) / torch.tensor(float(len(distinct)), dtype=size.dtype).log()
