"""Modal filters: long causal convolutions that are also linear recurrences with a few complex states per channel.

    filter       h_t = Re sum_s r_s lambda_s^t,  t = 0, 1, ...        (StripedHyena; Massaroli et al., arXiv 2310.18780)
    recurrence   x_t = lambda x_{t-1} + u_t,   y_t = Re sum_s r_s x_t,s

Poles lambda and residues r are complex tensors (E, S); states travel as real tensors (B, E, 2 S), real and imaginary
parts alternating, as `torch.view_as_real` orders them. Everything is computed in float32, or float64 for float64.

The scan works in chunks: inside a chunk a causal Toeplitz product per channel, between chunks the recurrence. Unlike a
convolution by FFT it has no term that reaches back in time, not even as rounding: outputs do not depend on later
inputs, and documents do not depend on each other. Fitting a modal filter to a given one is in `modal_fit`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...access.states import Scanned
from ...kernels.arguments import full_precision
from ...parts.float32_kept import Float32Kept
from ...parts.norms import wide

CHUNK = 64  # tokens; the Toeplitz product costs this much per token and channel, the carries between chunks 1/CHUNK


def powers(poles: Tensor, count: int) -> Tensor:
    """lambda^0 ... lambda^(count - 1) of poles (E, S), as (E, S, count); by doubling, so that rounding grows with the
    logarithm of the exponent and a pole of 0 is no special case."""
    found, step = torch.ones_like(poles)[..., None], poles[..., None]
    while found.shape[-1] < count:
        found = torch.cat([found, found * step], -1)
        step = step * step
    return found[..., :count]


def impulse_response(poles: Tensor, residues: Tensor, length: int) -> Tensor:
    """The filter h_t for t < length: (E, length). poles, residues (E, S) complex."""
    return (residues[..., None] * powers(poles, length)).sum(1).real


def read_out(h: Tensor, residues: Tensor) -> Tensor:
    """Re sum_s r_s x_s of states h (..., E, 2 S): (..., E)."""
    return (h * _reading(residues).flatten(-2)).sum(-1)


def advance(h: Tensor, poles: Tensor) -> Tensor:
    """lambda x of states h (..., E, 2 S)."""
    return _real(_complex(h) * poles)


def modal_step(u: Tensor, poles: Tensor, residues: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One token: u (B, E) and the state before it -> y (B, E) and the state after it."""
    h = torch.view_as_real(_complex(h) * poles + u.to(h.dtype)[..., None]).flatten(-2)
    return read_out(h, residues).to(u.dtype), h


def modal_scan(
    u: Tensor,
    poles: Tensor,
    residues: Tensor,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    states_at: list[int] | None = None,
) -> Scanned:
    """The filter applied to u (B, T, E), from `initial_state` (B, E, 2 S) or zeros.

    reset (B, T) bool: the state is zero before these tokens. lengths (B,): the tokens after them are padding, which
    leaves the state as it is and whose outputs mean nothing. Returns y (B, T, E) in the dtype of u, the final state
    (B, E, 2 S) and the states after the columns `states_at` (B, P, E, 2 S), or after the last if None.
    """
    with full_precision(u):
        dtype = wide(u.dtype)
        inputs = u.to(dtype)
        if lengths is not None:
            real = torch.arange(u.shape[1], device=u.device) < lengths[:, None]
            inputs = inputs.masked_fill(~real[..., None], 0.0)
            reset = None if reset is None else reset & real
        start = u.new_zeros(len(u), u.shape[2], 2 * poles.shape[1], dtype=dtype)
        start = start if initial_state is None else initial_state.to(dtype)
        if u.shape[1] == 1:
            before = start if reset is None else start.masked_fill(reset[..., None], 0.0)
            y, h = modal_step(inputs[:, 0], poles, residues, before)
            final = h if lengths is None else torch.where((lengths > 0)[:, None, None], h, before)
            y = y[:, None]
        elif reset is not None and bool(reset.any()):
            y, final = _by_document(inputs, poles, residues, start, reset, lengths)
        else:
            y, final = _one_document(inputs, poles, residues, start, lengths)
        states = _states_at(inputs, poles, start, reset, lengths, states_at) if states_at else final[:, None]
        return Scanned(y.to(u.dtype), final, states)


def _complex(h: Tensor) -> Tensor:
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x).flatten(-2)


def _reading(r: Tensor) -> Tensor:
    """What the real and imaginary part of x are weighted with in Re(r x) = Re r Re x - Im r Im x: (..., 2)."""
    return torch.stack([r.real, -r.imag], -1)


def _one_document(
    u: Tensor, poles: Tensor, residues: Tensor, start: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the final state of rows without resets. Inside: C chunks of Q tokens."""
    rows, width, channels = u.shape
    Q = min(CHUNK, width)
    C = -(-width // Q)
    chunks = nn.functional.pad(u, (0, 0, 0, C * Q - width)).view(rows, C, Q, channels)
    by_channel = chunks.permute(3, 0, 1, 2).reshape(channels, rows * C, Q)
    table = powers(poles, Q + 1)
    response = (residues[..., None] * table[..., :Q]).sum(1).real
    lag = torch.arange(Q, device=u.device) - torch.arange(Q, device=u.device)[:, None]
    y = by_channel @ response[:, lag.clamp(min=0)].masked_fill(lag < 0, 0.0)
    # what each chunk writes into the state after its last token, from the token at lag Q - 1 to the one at lag 0
    to_state = torch.view_as_real(table[..., :Q].flip(-1)).permute(0, 2, 1, 3).flatten(2)
    written = (by_channel @ to_state).view(channels, rows, C, to_state.shape[-1]).permute(2, 1, 0, 3).contiguous()
    over_chunk, h, before = table[..., Q], start, []
    for c in range(C):
        before.append(h)
        h = advance(h, over_chunk) + written[c]
    befores = torch.stack(before, 1)  # (B, C, E, 2 S), the state that each chunk starts from
    from_state = (
        torch.view_as_real((residues[..., None] * table[..., 1:]).conj_physical()).permute(0, 1, 3, 2).flatten(1, 2)
    )
    y = y + befores.permute(2, 0, 1, 3).reshape(channels, rows * C, h.shape[-1]) @ from_state
    y = y.view(channels, rows, C * Q).permute(1, 2, 0)[:, :width].contiguous()
    if lengths is None and C * Q == width:
        return y, h
    last = torch.full((rows,), width - 1, device=u.device) if lengths is None else lengths - 1
    chunk, place = last.clamp(min=0) // Q, last.clamp(min=0) % Q
    row = torch.arange(rows, device=u.device)
    back = place[:, None] - torch.arange(Q, device=u.device)  # how often the input of each column has been advanced
    weights = torch.view_as_real(table[..., back.clamp(min=0)]).masked_fill((back < 0)[..., None], 0.0)
    found = torch.einsum("esbqk,bqe->besk", weights, chunks[row, chunk]).flatten(2)
    found = found + advance(befores[row, chunk], table[..., place + 1].permute(2, 0, 1))
    return y, torch.where((last >= 0)[:, None, None], found, start)


def _by_document(
    u: Tensor, poles: Tensor, residues: Tensor, start: Tensor, reset: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the final state, every document as a row of its own; those of similar length together."""
    rows, width, channels = u.shape
    begins_at = reset.clone()
    begins_at[:, 0] = True
    row, begin = begins_at.nonzero(as_tuple=True)
    is_last = torch.ones_like(row, dtype=torch.bool)
    is_last[:-1] = row[1:] != row[:-1]
    end = torch.where(is_last, width, begin.roll(-1))
    real_end = end if lengths is None else torch.where(is_last, lengths[row], end)
    carried = torch.where((begin == 0) & ~reset[row, begin], 1.0, 0.0).to(u.dtype)
    classes: dict[int, list[int]] = {}
    for number, length in enumerate((end - begin).tolist()):
        classes.setdefault((length - 1).bit_length(), []).append(number)
    y, final = torch.zeros_like(u), torch.zeros_like(start)
    for numbers in classes.values():
        some = torch.tensor(numbers, device=u.device)
        place = begin[some, None] + torch.arange(int((end - begin)[some].max()), device=u.device)
        inside = place < end[some, None]
        of_row = row[some, None].expand_as(place)
        piece = u[of_row, place.clamp(max=width - 1)].masked_fill(~inside[..., None], 0.0)
        first = start[row[some]] * carried[some, None, None]
        found, after = _one_document(piece, poles, residues, first, (real_end - begin)[some])
        y = y.index_put((of_row[inside], place[inside]), found[inside])
        ends = is_last[some]
        final = final.index_put((row[some][ends],), after[ends])
    return y, final


def _states_at(
    u: Tensor, poles: Tensor, h: Tensor, reset: Tensor | None, lengths: Tensor | None, columns: list[int]
) -> Tensor:
    """The states after the given columns (B, P, E, 2 S), token by token; only for those who look at states."""
    found: dict[int, Tensor] = {}
    for t in range(max(columns) + 1):
        before = h if reset is None else h.masked_fill(reset[:, t, None, None], 0.0)
        after = torch.view_as_real(_complex(before) * poles + u[:, t, :, None]).flatten(-2)
        h = after if lengths is None else torch.where((t < lengths)[:, None, None], after, h)
        found[t] = h
    return torch.stack([found[c] for c in columns], 1)


class ModalFilter(Float32Kept):
    """A trained modal filter per channel: lambda = exp(-exp(log_decay) + i angle), so that |lambda| < 1 whatever the
    parameters. They stay float32 where a model becomes bfloat16: a pole near 1 decides over hundreds of tokens."""

    keep_float32: ClassVar[frozenset[str]] = frozenset({"log_decay", "angle", "residues"})

    def __init__(self, channels: int, n_modes: int) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.empty(channels, n_modes))
        self.angle = nn.Parameter(torch.empty(channels, n_modes))
        self.residues = nn.Parameter(torch.empty(channels, n_modes, 2))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, longest: float = 256.0) -> None:
        """Decay over 1 to `longest` tokens, log-uniform; angles of slow modes near 0, of fast ones anywhere; residues
        such that every mode brings the same energy, all together 1."""
        shape = self.log_decay.shape
        drawn = torch.rand(shape, generator=generator)
        self.log_decay.copy_(-drawn * math.log(longest))
        decay = self.log_decay.float().exp().cpu()
        self.angle.copy_(torch.rand(shape, generator=generator) * math.pi * decay)
        energy = -torch.expm1(-2.0 * decay) / shape[1]  # 1 - |lambda|^2, over the number of modes
        self.residues.copy_(torch.randn((*shape, 2), generator=generator) * energy.sqrt()[..., None])

    @property
    def poles(self) -> Tensor:
        """lambda (E, S, 2), real and imaginary part."""
        return torch.view_as_real(torch.polar(torch.exp(-torch.exp(self.log_decay)), self.angle))
