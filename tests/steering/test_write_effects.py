"""The closed form of a write's effect: the slope of the measured one, and the measured one along the whole way."""

from __future__ import annotations

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Scale
from mplat.steering.write_effects import write_effects

WITH_READ_OUT = ("mamba", "mamba2", "stable_mamba", "stable_mamba_attached", "striped_hyena", "moe_mamba")


@pytest.mark.parametrize("arch", WITH_READ_OUT)
def test_the_closed_form_is_the_slope_of_the_measured_effect(arch: str) -> None:
    model, text, step = nano(arch), tokens(1, 7), 1e-5
    more = write_effects(model, text, 3, layer=0, factor=1 + step)
    less = write_effects(model, text, 3, layer=0, factor=1 - step)
    assert len(more) in (7, 14) and {e.position for e in more} == set(range(7))
    predicted = torch.tensor([a.predicted - b.predicted for a, b in zip(more, less, strict=True)]).double()
    measured = torch.tensor([a.measured - b.measured for a, b in zip(more, less, strict=True)]).double()
    torch.testing.assert_close(predicted, measured, rtol=1e-5, atol=1e-11)
    assert float(measured.abs().max()) > 1e-9


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "striped_hyena"])  # nothing in these is chosen anew on the way
def test_along_the_whole_way_it_is_the_measured_effect(arch: str) -> None:
    model, text = nano(arch), tokens(1, 7)
    shape = [int(n) for n in next(s.axes for s in model.sites() if s.name == "blocks.0.mixer.write")]
    atom = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for options in ({"factor": 0.5}, {"atom": atom}):
        found = write_effects(model, text, 3, layer=0, points=16, positions=[1, 4, -1], at_once=2, **options)
        assert [e.position for e in found[:3]] == [1, 4, 6]
        predicted, measured = (torch.tensor([getattr(e, n) for e in found]).double() for n in ("predicted", "measured"))
        torch.testing.assert_close(predicted, measured, rtol=1e-4, atol=1e-7)
        assert float(measured.abs().max()) > 1e-6


def test_what_is_refused() -> None:
    model, text = nano("mamba"), tokens(1, 5)
    for options, message in [
        ({"layer": 2}, "has no layer 2"),
        ({"layer": 0, "positions": [5]}, "not all in a text"),
        ({"layer": 0, "points": -1}, "points"),
        ({"layer": 0, "atom": torch.zeros(3)}, "atom has shape"),
    ]:
        with pytest.raises(UsageError, match=message):
            write_effects(model, text, 3, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one text"):
        write_effects(model, tokens(2, 5), 3, layer=0)
    for arch in ("hyena", "dense_mamba"):  # layers that read each other's states: more than their own writes decide
        with pytest.raises(UsageError, match="from its own writes alone"):
            write_effects(nano(arch), text, 3, layer=0)
    with pytest.raises(UsageError, match="other edits"), model.edit(Scale("embed", 2.0)):
        write_effects(model, text, 3, layer=0)
