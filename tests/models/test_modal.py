"""Modal filters: filter and recurrence are one thing, chunks and documents do not show, and fits report their error."""

from __future__ import annotations

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.models.families.hyena.modal import (
    CHUNK,
    ModalFilter,
    impulse_response,
    modal_scan,
    modal_step,
    powers,
    read_out,
)
from mplat.models.families.hyena.modal_fit import fit_modal

E, S = 5, 3
close = {"rtol": 0.0, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def modes(seed: int = 0, channels: int = E, count: int = S) -> tuple[torch.Tensor, torch.Tensor]:
    """Poles with half-lives from one to some hundred tokens, and residues."""
    decay = torch.exp(-5.0 * random(channels, count, seed=seed).sigmoid())
    poles = torch.polar(torch.exp(-decay), 3.0 * random(channels, count, seed=seed + 1).sigmoid())
    return poles, torch.complex(random(channels, count, seed=seed + 2), random(channels, count, seed=seed + 3))


def token_by_token(u, poles, residues, h=None, reset=None, lengths=None):
    """The definition in numbers of python: y and the final state of x_t = lambda x_{t-1} + u_t."""
    rows, width, channels = u.shape
    y = torch.zeros_like(u)
    x = torch.zeros(rows, channels, poles.shape[1], dtype=torch.complex128)
    if h is not None:
        x = torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous()).clone()
    for b in range(rows):
        for t in range(width if lengths is None else int(lengths[b])):
            if reset is not None and reset[b, t]:
                x[b] = 0
            x[b] = poles * x[b] + u[b, t, :, None]
            y[b, t] = (residues * x[b]).sum(-1).real
    return y, torch.view_as_real(x).flatten(2)


def test_filter_values_are_the_impulse_response_of_the_recurrence() -> None:
    poles, residues = modes()
    length = 300
    impulse = torch.zeros(1, length, E, dtype=torch.float64)
    impulse[:, 0] = 1.0
    expected, _ = token_by_token(impulse, poles, residues)
    torch.testing.assert_close(impulse_response(poles, residues, length), expected[0].T, **close)
    torch.testing.assert_close(modal_scan(impulse, poles, residues).y, expected, **close)


@pytest.mark.parametrize("count", [1, 2, 5, 64, 65])
def test_powers_are_powers_and_zero_is_no_special_case(count: int) -> None:
    poles, _ = modes()
    poles[0, 0] = 0
    expected = torch.stack([poles**t for t in range(count)], -1)
    torch.testing.assert_close(powers(poles, count), expected, **close)
    assert powers(poles, count)[0, 0].tolist() == [1.0] + [0.0] * (count - 1)


@pytest.mark.parametrize("width", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
@pytest.mark.parametrize("carried", [False, True])
def test_scan_is_the_recurrence_whatever_the_length(width: int, carried: bool) -> None:
    poles, residues = modes()
    u, h = random(2, width, E, seed=5), random(2, E, 2 * S, seed=6) if carried else None
    y, final = token_by_token(u, poles, residues, h)
    columns = sorted({0, width // 2, width - 1})
    found = modal_scan(u, poles, residues, initial_state=h, states_at=columns)
    torch.testing.assert_close(found.y, y, **close)
    torch.testing.assert_close(found.final, final, **close)
    for p, column in enumerate(columns):
        expected = token_by_token(u[:, : column + 1], poles, residues, h)[1]
        torch.testing.assert_close(found.states[:, p], expected, **close)


def test_scan_equals_the_convolution_with_the_filter() -> None:
    poles, residues = modes()
    u = random(2, 150, E)
    taps = impulse_response(poles, residues, 150)
    padded = torch.nn.functional.pad(u.transpose(1, 2), (149, 0))
    expected = torch.nn.functional.conv1d(padded, taps.flip(1)[:, None], groups=E).transpose(1, 2)
    torch.testing.assert_close(modal_scan(u, poles, residues).y, expected, **close)


def test_steps_one_after_the_other_are_the_scan() -> None:
    poles, residues = modes()
    u, h = random(2, 9, E), torch.zeros(2, E, 2 * S, dtype=torch.float64)
    whole = modal_scan(u, poles, residues)
    for t in range(9):
        y, h = modal_step(u[:, t], poles, residues, h)
        torch.testing.assert_close(y, whole.y[:, t], **close)
        torch.testing.assert_close(read_out(h, residues), y, **close)
    torch.testing.assert_close(h, whole.final, **close)


@pytest.mark.parametrize("width", [1, 40, 2 * CHUNK + 9])
def test_documents_and_padding(width: int) -> None:
    poles, residues = modes()
    u, h = random(3, width, E), random(3, E, 2 * S, seed=8)
    reset = torch.rand(3, width, generator=torch.Generator().manual_seed(1)) < 0.1
    reset[0] = False  # the document of the state goes on
    reset[1, 0] = True
    lengths = torch.tensor([width, width // 2, 0])
    y, final = token_by_token(u, poles, residues, h, reset, lengths)
    columns = sorted({0, width // 3, width - 1})
    found = modal_scan(u, poles, residues, initial_state=h, reset=reset, lengths=lengths, states_at=columns)
    torch.testing.assert_close(found.final, final, **close)
    for b in range(3):
        n = int(lengths[b])
        torch.testing.assert_close(found.y[b, :n], y[b, :n], **close)
    for p, column in enumerate(columns):  # padding leaves the state as it is
        expected = token_by_token(u, poles, residues, h, reset, lengths.clamp(max=column + 1))[1]
        torch.testing.assert_close(found.states[:, p], expected, **close)


def test_no_gradient_reaches_a_later_token_or_another_document() -> None:
    poles, residues = modes()
    width = 2 * CHUNK + 5
    reset = torch.zeros(1, width, dtype=torch.bool)
    reset[0, 30] = True
    for mask, t, first in ((None, 70, 0), (reset, 70, 30), (reset, 10, 0)):
        u = random(1, width, E).requires_grad_()
        (gradient,) = torch.autograd.grad(modal_scan(u, poles, residues, reset=mask).y[0, t].sum(), u)
        assert torch.count_nonzero(gradient[0, t + 1 :]) == 0 == torch.count_nonzero(gradient[0, :first])
        assert bool((gradient[0, first : t + 1] != 0).all())


def test_gradients_equal_finite_differences() -> None:
    poles, residues = modes(channels=2, count=2)
    u, h = random(2, 7, 2).requires_grad_(), random(2, 2, 4, seed=3).requires_grad_()
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[0, 3] = True
    lengths = torch.tensor([7, 5])

    def outputs(u, h, poles, residues):
        done = modal_scan(u, poles, residues, initial_state=h, reset=reset, lengths=lengths)
        return done.y, done.final

    assert torch.autograd.gradcheck(outputs, (u, h, poles.requires_grad_(), residues.requires_grad_()))


def test_a_filter_stays_float32_in_a_bfloat16_model_and_decays_always() -> None:
    part = ModalFilter(4, 2)
    part.reset_parameters(torch.Generator().manual_seed(0))
    before = {name: p.clone() for name, p in part.named_parameters()}
    part.angle.sum().backward()
    part.to(torch.bfloat16)
    for name, p in part.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, before[name]), name
    assert part.angle.grad is not None and part.angle.grad.dtype == torch.float32
    assert part.to(torch.float64).poles.dtype == torch.float64
    torch.nn.init.constant_(part.log_decay, -30.0)
    assert bool((torch.view_as_complex(part.poles).abs() < 1).all())
    with torch.autocast("cpu", torch.bfloat16):
        poles, residues = modes()
        u = random(1, 70, E)
        torch.testing.assert_close(modal_scan(u, poles, residues).y, token_by_token(u, poles, residues)[0], **close)


def test_the_start_has_unit_energy() -> None:
    part = ModalFilter(2000, 4)
    part.reset_parameters(torch.Generator().manual_seed(0))
    poles, residues = (torch.view_as_complex(x.detach()) for x in (part.poles, part.residues))
    energy = impulse_response(poles, residues, 2048).square().sum(1)
    assert float(energy.mean()) == pytest.approx(1.0, abs=0.2)


def test_a_modal_filter_is_found_again() -> None:
    poles, residues = modes(channels=6, count=4)
    poles[0, :2] = poles[0, :2].abs().to(poles.dtype)  # real poles, which are not pairs
    residues[1] = 0
    for length in (64, 500):
        taps = impulse_response(poles, residues, length)
        for n_modes in (4, 6):
            fit = fit_modal(taps, n_modes)
            assert fit.error.shape == (6,) and float(fit.error.max()) < 1e-8
            assert fit.poles.shape == fit.residues.shape == (6, n_modes)
            found = impulse_response(fit.poles, fit.residues, length)
            torch.testing.assert_close(found, taps, rtol=0, atol=1e-8)
        assert not fit.residues[1].any() and fit.error[1] == 0


def test_the_error_of_a_fit_is_reported_and_falls_with_more_modes() -> None:
    decay = torch.linspace(0.01, 0.1, 6, dtype=torch.float64)[:, None]
    taps = random(6, 160) * torch.exp(-decay * torch.arange(160))
    errors = []
    for n_modes in (1, 2, 4, 8, 16, 32):
        fit = fit_modal(taps, n_modes)
        assert bool((fit.poles.abs() < 1).all())
        difference = impulse_response(fit.poles, fit.residues, 160) - taps
        torch.testing.assert_close(fit.error, difference.norm(dim=1) / taps.norm(dim=1), rtol=1e-9, atol=1e-12)
        errors.append(fit.error)
    stacked = torch.stack(errors)
    assert bool((stacked[1:] <= stacked[:-1] + 1e-12).all()) and float(stacked[-1].max()) < 0.3 * float(
        stacked[0].min()
    )


def test_growing_filters_are_fitted_with_decaying_modes() -> None:
    fit = fit_modal(torch.exp(0.05 * torch.arange(40.0))[None], 2)
    assert bool((fit.poles.abs() < 1).all()) and 0 < float(fit.error[0]) < 1


def test_wrong_filters_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 16 values"):
        fit_modal(random(2, 15), 4)
    with pytest.raises(UsageError, match="channels, length"):
        fit_modal(random(15), 1)
    with pytest.raises(InputError, match="channel 1 "):
        fit_modal(torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, float("nan")]]), 1)
