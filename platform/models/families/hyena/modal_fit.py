"""Fitting a modal filter to a given long filter: constant-memory decoding of a Hyena, with the error it costs.

    h_t ~ Re sum_s r_s lambda_s^t,  t = 0 .. L - 1          (distillation as in Laughing Hyena, arXiv 2310.18780)

Poles come from the shift invariance of the filter's Hankel matrix (Kung 1978; matrix pencil: Hua and Sarkar 1990): with
U its leading left singular vectors, they are the eigenvalues of pinv(U without its last row) (U without its first
row). Residues then solve a linear least-squares problem. Orders from S to
2 S are tried, because a real pole costs one and a complex pair two, and the best fit is kept.

In float64 on the CPU, channel by channel: minutes for a thousand filters of length 2048, once per model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.errors import InputError, UsageError
from .modal import powers

_ROWS = 192  # of the Hankel matrix at most: it bounds the cost, and more rows only average noise further
_LARGEST = 1.0 - 1e-9  # poles on or outside the unit circle are drawn inside: a recurrence must not grow


class ModalFit(NamedTuple):
    """poles, residues (E, S) complex128, |poles| < 1; error (E): norm of the difference over the norm of the filter."""

    poles: Tensor
    residues: Tensor
    error: Tensor


def fit_modal(taps: Tensor, n_modes: int) -> ModalFit:
    """The modal filter with `n_modes` complex states per channel that comes closest to the filter `taps` (E, L).

    A channel whose filter is zero gets zero residues and error 0. Unused modes have pole and residue 0.
    Raises UsageError for wrong shapes or more modes than the filter's length can decide (L >= 4 n_modes), InputError
    for values that are not finite.
    """
    if taps.ndim != 2 or not taps.is_floating_point():
        raise UsageError(f"fit_modal: taps must be floating (channels, length), not {tuple(taps.shape)}")
    if n_modes < 1 or taps.shape[1] < 4 * n_modes:
        raise UsageError(
            f"fit_modal: {n_modes} modes need a filter of at least {4 * max(n_modes, 1)} values, "
            f"this one has {taps.shape[1]}"
        )
    values = taps.detach().to(device="cpu", dtype=torch.float64)
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite().all(1)).nonzero()[0])
        raise InputError(f"fit_modal: the filter of channel {bad} holds NaN or infinite values")
    fits = [_fit_channel(h, n_modes) for h in values]
    return ModalFit(*(torch.stack(part) for part in zip(*fits, strict=True)))


def _fit_channel(h: Tensor, n_modes: int) -> tuple[Tensor, Tensor, Tensor]:
    best = (torch.zeros(n_modes, dtype=torch.complex128), torch.zeros(n_modes, dtype=torch.complex128), h.new_ones(()))
    size = h.norm()
    if size == 0:
        return *best[:2], h.new_zeros(())
    rows = min(len(h) // 2, _ROWS)
    hankel = h.unfold(0, len(h) - rows + 1, 1)
    # The columns beyond the rows only enter by their triangular factor.
    triangle = torch.linalg.qr(hankel.T, mode="r").R.T
    vectors = torch.linalg.svd(triangle).U
    for order in range(n_modes, min(2 * n_modes, rows - 1) + 1):
        subspace = vectors[:, :order]
        shift = torch.linalg.lstsq(subspace[:-1], subspace[1:]).solution
        poles = _upper_half(torch.linalg.eigvals(shift))
        residues = _residues(h, poles)
        if len(poles) > n_modes:
            strongest = _energy(poles, residues, len(h)).topk(n_modes).indices
            poles = poles[strongest]
            residues = _residues(h, poles)
        error = (_modes(poles, len(h)) * residues[:, None]).sum(0).real.sub(h).norm() / size
        if error < best[2]:
            unused = (0, n_modes - len(poles))
            best = (F.pad(poles, unused), F.pad(residues, unused), error)
    return best


def _upper_half(poles: Tensor) -> Tensor:
    """One of each conjugate pair, drawn inside the unit circle: poles outside are mirrored at it."""
    kept = poles[poles.imag >= 0]
    radius = kept.abs()
    inside = torch.where(radius > 1, 1 / radius, radius).clamp(max=_LARGEST)
    return torch.polar(inside, kept.angle())


def _modes(poles: Tensor, length: int) -> Tensor:
    """lambda^t, (S, length)."""
    return powers(poles[None], length)[0]


def _residues(h: Tensor, poles: Tensor) -> Tensor:
    """The complex residues whose filter comes closest to h: least squares in their real and imaginary parts."""
    modes = _modes(poles, len(h))
    design = torch.cat([modes.real, -modes.imag]).T
    # Columns of one length, and the solution of least norm: the imaginary part of a real pole has a column of zeros.
    scale = design.norm(dim=0).clamp(min=1e-300)
    solution = torch.linalg.lstsq(design / scale, h[:, None], driver="gelsd").solution[:, 0] / scale
    return torch.complex(*solution.chunk(2))


def _energy(poles: Tensor, residues: Tensor, length: int) -> Tensor:
    return (_modes(poles, length) * residues[:, None]).real.square().sum(1)
