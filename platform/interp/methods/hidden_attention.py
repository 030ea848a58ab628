"""Hidden attention: what each token's output reads of each earlier token, as a matrix (Ali et al., arXiv 2403.01590).

    alpha[e, i, j] = sum_n C_i[n] exp(A[e, n] sum_{r=j+1..i} Delta_r[e]) Delta_j[e] B_j[n]   j <= i;  y = alpha x + D x

and with the convolution and the gate around the scan, u being the convolution's input and c its output,
    F = diag(silu z) (alpha + D I) diag(sigmoid(c)) K,    silu(z) * y = F u + bias.
K is the banded matrix of the convolution and bias the same product with its bias. Both are exact rewritings at the
input given, not derivatives: Delta, B, C, sigmoid(c) and the gate are taken as they are there. Values are signed;
normalise them only to look at them.

For Mamba `silu(z) * y` is the input of out_proj, the site `mixer.gated`. In Mamba-2 a gated RMSNorm comes after it: F
reproduces what that norm is taken of, not `mixer.gated`.

Nothing loops over pairs of tokens; sums of Delta between two tokens are made as a cumulative sum of masked steps, never
as a difference of two totals, and channels are done in blocks of O(T^2) memory each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UsageError
from .arguments import integers
from .asked import chosen_layers, evaluating
from .corruption import token_row
from .recurrences import LayerRecurrence, Scan, refuse_state_edits, require_scans

if TYPE_CHECKING:
    from ...models import LanguageModel

#: bytes of one (units, T, T) tensor of a block; a few of them exist at a time
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class HiddenAttention:
    """weights (K, T, T), row i what token i's output reads of tokens j <= i; or (K, N, T, T), their N parts by state
    coordinate, which add up to it. channels: the K channels of the weights; in Mamba-2's scan form heads instead, since
    a head's channels share one matrix. bias (K, T): what does not depend on u in the mixer form, else None.
    """

    weights: Tensor
    channels: tuple[int, ...]
    bias: Tensor | None = None


@torch.no_grad()
def hidden_attention(
    model: LanguageModel,
    tokens: Tensor,
    layer: int,
    *,
    channels: Sequence[int] | None = None,
    form: str = "scan",
    per_coordinate: bool = False,
) -> HiddenAttention:
    """The hidden attention of block `layer` for the prompt tokens (T).

    form: "scan" for alpha, "mixer" for F with its bias. channels: of the scan (heads for Mamba-2's scan form); None:
    all, K T^2 numbers. per_coordinate: alpha's parts by state coordinate, N times as many numbers.
    Raises UsageError for a block without a selective scan of its own states, channels it does not have, the mixer form
    where a mixer has other parts between scan and gate, and coordinates of the mixer form.
    """
    if form not in ("scan", "mixer"):
        raise UsageError(f"hidden_attention: form {form!r}; it is 'scan' or 'mixer'")
    if form == "mixer" and per_coordinate:
        raise UsageError("hidden_attention: coordinates exist in the scan form; leave out per_coordinate")
    place, values = watched(model, tokens, layer, form == "mixer")
    scan = place.rebuild(values)
    many = scan.units if form == "scan" else scan.state_shape[0]
    numbers = tuple(_chosen(channels, many))
    chosen = torch.tensor(numbers, device=scan.x.device)
    if per_coordinate:
        return HiddenAttention(coordinate_attention(scan, chosen), numbers)
    if form == "scan":
        blocks = [scan_attention(scan, units) for units in _blocks(scan, chosen)]
        return HiddenAttention(torch.cat(blocks), numbers)
    weights, bias = zip(*mixer_blocks(place, values, chosen), strict=True)
    return HiddenAttention(torch.cat(weights), numbers, torch.cat(bias))


@torch.no_grad()
def read_sizes(model: LanguageModel, tokens: Tensor, layer: int) -> Tensor:
    """Summed sizes (T, T) of the weights: sum over channels (heads) of |alpha|, float64, without holding them all.

    Row i tells how much of what token i's outputs read comes from which token. Raises as `hidden_attention`.
    """
    place, values = watched(model, tokens, layer, False)
    scan = place.rebuild(values)
    total = scan.x.new_zeros(scan.x.shape[1], scan.x.shape[1], dtype=torch.float64)
    for units in _blocks(scan, torch.arange(scan.units, device=scan.x.device)):
        total += scan_attention(scan, units).abs().double().sum(0)
    return total


@torch.no_grad()
def rollout(model: LanguageModel, tokens: Tensor, layers: Sequence[int] | None = None) -> Tensor:
    """Attention rollout (T, T) through `layers` (None: all): the product of (P_l + I) / 2, the last block leftmost.

    P_l is |F| of block l averaged over channels, with rows that add up to 1. After Abnar and Zuidema (arXiv
    2005.00928). Row i tells where the residual stream of token i comes from; rows add up to 1. Every block named must
    have the mixer form of `hidden_attention`.
    """
    text = token_row(model, tokens, "tokens")
    stay = torch.eye(len(text), dtype=torch.float64, device=text.device)
    whole = stay
    for layer in chosen_layers(model, layers):
        place, values = watched(model, text, layer, True)
        every = torch.arange(place.rebuild(values).state_shape[0], device=text.device)
        total = torch.zeros_like(stay)
        for weights, _ in mixer_blocks(place, values, every):
            total += weights.abs().double().sum(0)
        whole = mixing(total) @ whole
    return whole


def mixing(total: Tensor) -> Tensor:
    """(P + I) / 2 of a block, P being the summed sizes (T, T) of its weights with rows that add up to 1. A token whose
    mixer reads nothing at all keeps what it has."""
    stay = torch.eye(len(total), dtype=total.dtype, device=total.device)
    rows = total.sum(1, keepdim=True)
    share = torch.where(rows > 0, total / torch.where(rows > 0, rows, 1.0), stay)
    return (share + stay) / 2


def watched(
    model: LanguageModel, tokens: Tensor, layer: int, whole_mixer: bool
) -> tuple[LayerRecurrence, Mapping[str, Tensor]]:
    """The scan of a block and the values of its sites in a run of the prompt; whole_mixer: x_in and gate among them.

    Raises UsageError for the mixer form of a mixer with other parts.
    """
    text = token_row(model, tokens, "tokens")
    (layer,) = chosen_layers(model, [layer])
    refuse_state_edits(model, "hidden attention", *(["conv_state", "conv_init"] if whole_mixer else []))
    place = require_scans(model, (layer,), "hidden_attention")[0]
    around = place.of.around if whole_mixer else None
    if whole_mixer and around is None:
        raise UsageError(
            "hidden attention: the mixer form needs a mixer that is convolution, scan and gate alone; "
            f"block {layer} of model {model.name} has other parts; use form='scan'"
        )
    more = [] if around is None else [place.prefix + around.x_in, place.prefix + around.gate]
    with evaluating(model), torch.no_grad(), model.capture(*place.inputs, *more) as acts:
        model(text[None], last_only=True)
    return place, acts


def segment_sums(steps: Tensor) -> Tensor:
    """S[..., i, j] = sum of steps[..., r] over r = j+1..i for j <= i, else 0; steps (..., T).

    A cumulative sum of masked steps: a difference of two totals would lose the digits of a short span in a long text.
    """
    width = steps.shape[-1]
    below = torch.ones(width, width, dtype=torch.bool, device=steps.device).tril(-1)  # r > j
    spread = steps[..., :, None].expand(*steps.shape, width).masked_fill(~below, 0.0)
    return spread.cumsum(-2)


def scan_attention(scan: Scan, units: Tensor) -> Tensor:
    """alpha (K, T, T) of the given units, from row 0 of the scan."""
    delta = scan.delta[0, :, units].T  # (K, T)
    spans, causal = _spans(delta)
    B, C = (v[0][:, scan.group_of(units)].movedim(1, 0) for v in (scan.B, scan.C))  # (K, T, N)
    A = scan.A[units]
    if A.shape[1] == 1:  # all coordinates of a unit decay alike
        total = torch.exp(A[..., None] * spans) * (C @ B.mT)
    else:
        total = torch.zeros_like(spans)
        for n in range(A.shape[1]):
            total += torch.exp(A[:, n, None, None] * spans) * (C[:, :, None, n] * B[:, None, :, n])
    return (total * delta[:, None, :]).masked_fill(~causal, 0.0)


def last_row(scan: Scan, row: int, length: int) -> Tensor:
    """alpha (U, length) of all units, row `row` of the scan: what its token length - 1 reads of those up to itself."""
    delta = scan.delta[row, :length].T  # (U, length)
    later = F.pad(delta[:, 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))  # sums over what comes after each token
    pairs = (scan.C[row, length - 1] * scan.B[row, :length]).movedim(0, 2)  # (G, N, length)
    decay = torch.unflatten(torch.exp(scan.A[..., None] * later[:, None]), 0, (len(pairs), -1))  # (G, U / G, N or 1, T)
    read = (decay[:, :, 0] * pairs.sum(1)[:, None]) if decay.shape[2] == 1 else (decay * pairs[:, None]).sum(2)
    return read.flatten(0, 1) * delta


def coordinate_attention(scan: Scan, units: Tensor) -> Tensor:
    """The parts (K, N, T, T) of alpha by state coordinate."""
    delta = scan.delta[0, :, units].T
    spans, causal = _spans(delta)
    B, C = (v[0][:, scan.group_of(units)].movedim(1, 0) for v in (scan.B, scan.C))
    decay = torch.exp(scan.A[units][..., None, None] * spans[:, None])
    pairs = C.mT[..., :, None] * B.mT[..., None, :]  # (K, N, T, T)
    return (decay * pairs * delta[:, None, None, :]).masked_fill(~causal, 0.0)


def _spans(delta: Tensor) -> tuple[Tensor, Tensor]:
    causal = torch.ones(delta.shape[-1], delta.shape[-1], dtype=torch.bool, device=delta.device).tril()
    return segment_sums(delta), causal


def mixer_blocks(
    place: LayerRecurrence, values: Mapping[str, Tensor], channels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """F (k, T, T) and its bias (k, T) of the given channels, block by block."""
    scan = place.rebuild(values)
    P = scan.unit_width
    of, dtype = place.in_dtype(scan.x.dtype), scan.x.dtype
    assert of.around is not None, "`watched` lets no other pass"
    taps, bias = of.around.taps.to(dtype), of.around.bias.to(dtype)
    u, z = (values[place.prefix + name][0].to(dtype) for name in (of.around.x_in, of.around.gate))
    reach, width = taps.shape[1], len(u)
    lag = torch.arange(width, device=u.device)[:, None] - torch.arange(width, device=u.device)
    inside = (lag >= 0) & (lag < reach)
    for block in _blocks(scan, channels):
        banded = taps[block][:, (reach - 1 - lag).clamp(0, reach - 1)].masked_fill(~inside, 0.0)
        convolved = (banded @ u[:, block].T[..., None])[..., 0] + bias[block, None]
        alpha = scan_attention(scan, block // P)
        if of.D is not None:
            alpha.diagonal(dim1=1, dim2=2).add_(of.D[block // P, None])
        alpha *= F.silu(z[:, block]).T[:, :, None] * torch.sigmoid(convolved)[:, None, :]
        yield alpha @ banded, alpha.sum(2) * bias[block, None]


def _blocks(scan: Scan, chosen: Tensor) -> list[Tensor]:
    width = scan.x.shape[1]
    size = width * width * scan.x.element_size()
    return list(torch.split(chosen, max(1, BLOCK_BYTES // size)))


def _chosen(channels: Sequence[int] | None, many: int) -> list[int]:
    if channels is None:
        return list(range(many))
    wanted = integers(channels, "channels")
    wrong = next((c for c in wanted if not -many <= c < many), None)
    if wrong is not None or not wanted:
        what = "name at least one" if wrong is None else f"there is no channel {wrong}"
        raise UsageError(f"hidden_attention: {what}; this form has channels 0 to {many - 1}")
    return [c % many for c in wanted]
