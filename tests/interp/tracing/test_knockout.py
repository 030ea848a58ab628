"""Knock-out against a recurrence written out token by token, and what must stay when everything is cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.decay_groups import decay_groups, half_lives
from mplat.interp.methods.knockout import knockout, layer_windows
from mplat.interp.methods.recurrences import Scan, scans_of
from mplat.models import LanguageModel, Replace, Scale
from torch import Tensor

T = 9
close = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(params=["mamba", "mamba2", "falcon_mamba", "stable_mamba", "stable_mamba_attached"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, n_layers=3)


def by_loops(scan: Scan, targets: list[int], sources: list[int], mask: Tensor) -> Tensor:
    """y (1, T, E): two states are carried along, one of them without the writes that are cut."""
    E, N = scan.state_shape
    P, per_group = E // scan.units, scan.units // scan.B.shape[2]
    whole, cut = torch.zeros(E, N, dtype=torch.float64), torch.zeros(E, N, dtype=torch.float64)
    y = scan.skip.clone()
    for t in range(scan.x.shape[1]):
        for e in range(E):
            unit = e // P
            decay = torch.exp(scan.delta[0, t, unit] * scan.A[unit])
            write = scan.delta[0, t, unit] * scan.x[0, t, e] * scan.B[0, t, unit // per_group]
            whole[e] = decay * whole[e] + write
            cut[e] = decay * cut[e] + (torch.where(mask[e], 0.0, write) if t in sources else write)
            y[0, t, e] += (cut if t in targets else whole)[e] @ scan.C[0, t, unit // per_group]
    return y


def oracle(model, text, targets, sources, layers, mask=None) -> float:
    """The answer's probability: layer by layer, each cut layer's y computed by hand and put in place."""
    answer, edits = int(model(text[None])[0, -1].argmax()), []
    for layer in layers:
        for place in scans_of(model, layer):
            with model.edit(*edits), model.capture(*place.inputs) as acts:
                model(text[None])
            scan = place.rebuild(acts)
            cut = torch.ones(scan.state_shape, dtype=torch.bool) if mask is None else mask
            y = by_loops(scan, targets, sources, cut).chunk(len(place.outputs), -1)
            edits += [Replace(name, part) for name, part in zip(place.outputs, y, strict=True)]
    with model.edit(*edits):
        return float(torch.softmax(model(text[None])[0, -1], -1)[answer])


@torch.no_grad()
def test_the_rebuilt_scan_is_that_of_the_model(model) -> None:
    text = tokens(1, T)
    for place in (place for layer in range(3) for place in scans_of(model, layer)):
        with model.capture(*place.inputs, *place.outputs) as acts:
            model(text)
        scan = place.rebuild(acts)
        y = torch.cat([acts[name] for name in place.outputs], -1)
        torch.testing.assert_close(scan.read_out(scan.x) + scan.skip, y, **close)
        torch.testing.assert_close(by_loops(scan, [], [], torch.ones(scan.state_shape, dtype=torch.bool)), y, **close)


@torch.no_grad()
def test_it_equals_a_second_scan_without_the_sources_writes(model) -> None:
    text = tokens(1, T)[0]
    for targets, sources, layers in [([8], [1, 2], [1]), ([5, 8], [0, 3, 5], [0, 2]), ([-1], [4], [0, 1, 2])]:
        table = knockout(model, text, targets, sources, layers)
        expected = oracle(model, text, [t % T for t in targets], sources, layers)
        p0 = float(table.schema.metadata[b"p0"])
        assert table["p"].to_pylist() == pytest.approx([expected], abs=1e-10)
        assert table["effect"].to_pylist() == pytest.approx([(expected - p0) / p0], abs=1e-9)
        assert table["layers"].to_pylist() == [layers] and abs(expected - p0) > 1e-6


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "stable_mamba"])
@torch.no_grad()
def test_channels_and_coordinates_are_cut_alone(arch) -> None:
    model, text = nano(arch), tokens(1, T)[0]
    (place,) = scans_of(model, 0)
    with model.capture(*place.inputs) as acts:
        model(text[None])
    shape = place.rebuild(acts).state_shape
    some = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    channels = torch.zeros(shape[0], dtype=torch.bool)
    channels[[0, 7, -1]] = True
    groups = {"some": some, "rest": ~some, "numbers": [0, 7, -1], "mask": channels}
    table = knockout(model, text, [6, 8], [2, 3], [0], channels=groups)
    p = dict(zip(table["group"].to_pylist(), table["p"].to_pylist(), strict=True))
    for name, mask in {"some": some, "rest": ~some, "mask": channels[:, None].expand(shape)}.items():
        assert p[name] == pytest.approx(oracle(model, text, [6, 8], [2, 3], [0], mask), abs=1e-10)
    assert p["numbers"] == pytest.approx(p["mask"], abs=1e-12)
    sizes = dict(zip(table["group"].to_pylist(), table["coordinates"].to_pylist(), strict=True))
    assert sizes["some"] + sizes["rest"] == some.numel() and sizes["mask"] == 3 * shape[1]


@torch.no_grad()
def test_a_knock_out_of_everything_leaves_skip_and_convolution_only(model) -> None:
    text = tokens(1, T)[0]
    everything = list(range(T))
    edits = []
    for layer in range(3):
        for place in scans_of(model, layer):
            with model.edit(*edits), model.capture(*place.inputs) as acts:
                model(text[None])
            skip = place.rebuild(acts).skip.chunk(len(place.outputs), -1)
            edits += [Replace(name, part) for name, part in zip(place.outputs, skip, strict=True)]
    with model.edit(*edits):
        expected = torch.softmax(model(text[None])[0, -1], -1)
    table = knockout(model, text, everything, everything)
    assert table["p"][0].as_py() == pytest.approx(float(expected[int(table.schema.metadata[b"answer"])]), abs=1e-10)
    assert table["layers"][0].as_py() == [0, 1, 2]


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
@torch.no_grad()
def test_block_conv_also_cuts_the_taps_and_nothing_else(arch) -> None:
    """Of layer 0, whose targets' x, B and C are computed here from the inputs that are left."""
    model, text = nano(arch), tokens(1, T)[0]
    targets, sources, prefix, conv = [5, 6, 8], [3, 4, 6], "blocks.0.mixer.", model.blocks[0].mixer.conv1d
    taps = conv.get_parameter("weight")[:, 0]
    names = ("x", "delta", "B", "C")
    with model.capture(prefix + "conv_state", *(prefix + n for n in names)) as acts:
        model(text[None])
    inputs = acts[prefix + "conv_state"][0, :, :, -1]  # what each step adds to the window
    values = {n: acts[prefix + n].clone() for n in names}
    E, GN = values["x"].shape[2], values["B"].shape[2]
    for t in targets:
        c = conv.bias.clone()
        for lag in range(4):
            if t - lag >= 0 and (lag == 0 or t - lag not in sources):
                c += taps[:, 3 - lag] * inputs[t - lag]
        x = F.silu(c)
        if arch == "mamba":
            dt, B, C = model.blocks[0].mixer.time_inputs(x[None, None])
            values["delta"][:, t] = F.softplus(model.blocks[0].mixer.dt_proj(dt))[0]
            values["B"][:, t], values["C"][:, t] = B[0], C[0]
        else:
            values["B"][:, t], values["C"][:, t] = x[E : E + GN], x[E + GN :]
        values["x"][:, t] = x[:E]
    scan = scans_of(model, 0)[0].rebuild({prefix + n: v for n, v in values.items()})
    y = by_loops(scan, targets, sources, torch.ones(scan.state_shape, dtype=torch.bool))
    table = knockout(model, text, targets, sources, [0], block_conv=True)
    with model.edit(Replace(prefix + "y", y)):
        expected = torch.softmax(model(text[None])[0, -1], -1)[int(table.schema.metadata[b"answer"])]
    assert table["p"][0].as_py() == pytest.approx(float(expected), abs=1e-10)
    assert abs(table["p"][0].as_py() - knockout(model, text, targets, sources, [0])["p"][0].as_py()) > 1e-6


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "falcon_mamba"])
@torch.no_grad()
def test_cutting_everything_with_the_convolution_makes_the_target_deaf(arch) -> None:
    """The last token then reads no other token, in any layer; what its own write says, it still hears.

    Stable-Mamba has a running mean and attention as further ways from token to token.
    """
    model, text, other = nano(arch, n_layers=3), tokens(1, T)[0], tokens(1, T, seed=9)[0]
    other[-1] = text[-1]
    p = [knockout(model, t, -1, range(T - 1), block_conv=True, answer=7)["p"][0].as_py() for t in (text, other)]
    alone = float(torch.softmax(model(text[-1:][None])[0, -1], -1)[7])
    assert p == pytest.approx([alone, alone], abs=1e-10)


@torch.no_grad()
def test_many_cuts_at_once_are_the_same_as_one_at_a_time(model) -> None:
    text = tokens(1, T)[0]
    windows = layer_windows(3, 2)
    assert windows == [(0, 1), (1, 2)]
    together = knockout(model, text, [-1], [1, 2], windows, decay=3, block_conv=True).to_pylist()
    assert [r["group"] for r in together] == ["fast", "medium", "slow"] * 2
    for window in windows:
        alone = knockout(model, text, [-1], [1, 2], window, decay=3, block_conv=True).to_pylist()
        for a, b in zip(alone, [r for r in together if r["layers"] == list(window)], strict=True):
            assert a["group"] == b["group"] and a["p"] == pytest.approx(b["p"], abs=1e-12)


@torch.no_grad()
def test_decay_groups_cover_every_coordinate_once_by_half_life() -> None:
    for arch in ("mamba", "mamba2"):
        model, text = nano(arch), tokens(1, T)
        (place,) = scans_of(model, 1)
        with model.capture(*place.inputs) as acts:
            model(text)
        scan = place.rebuild(acts)
        lives = half_lives(scan)
        delta = acts["blocks.1.mixer.delta"][0].mean(0).repeat_interleave(scan.unit_width)
        A = torch.exp(model.blocks[1].mixer.A_log)
        A = A if A.ndim == 2 else A.repeat_interleave(scan.unit_width)[:, None]
        torch.testing.assert_close(
            0.5 * torch.ones(scan.state_shape, dtype=torch.float64), torch.exp(-delta[:, None] * A * lives)
        )
        for decay in (1, 2, 3, 4, (1.0,), (0.5, 2.0)):
            groups = decay_groups(scan, decay)
            assert torch.equal(
                torch.stack(list(groups.values())).sum(0), torch.ones(scan.state_shape, dtype=torch.long)
            )
            ends = [(float(lives[m].min()), float(lives[m].max())) for m in groups.values() if m.any()]
            assert all(a[1] < b[0] for a, b in zip(ends, ends[1:], strict=False))
        assert bool((lives[decay_groups(scan, (0.5, 2.0))["0.5 to 2 tokens"]] >= 0.5).all())


def test_wrong_arguments_say_what_would_be_right() -> None:
    model, text = nano("mamba"), tokens(1, T)[0]
    for arguments, told in [
        ({"targets": T}, "targets: there is no position 9"),
        ({"targets": 3.5}, "targets is a list of integers"),
        ({"layers": 5}, "list of blocks"),
        ({"channels": "all"}, "each of knockout: channels .given. of block 0 must be an integer"),
        ({"answer": "Rome"}, "token id, must be an integer"),
        ({"sources": []}, "at least one"),
        ({"layers": [0, 5]}, "blocks 0 to 1"),
        ({"layers": [0, [1]]}, "mixes blocks and windows"),
        ({"channels": [48]}, "channels 0 to 47"),
        ({"channels": torch.ones(3, dtype=torch.bool)}, r"it must be \(48,\) or \(48, 5\)"),
        ({"channels": torch.zeros(48, dtype=torch.bool)}, "selects nothing"),
        ({"channels": [1], "decay": 2}, "not both"),
        ({"decay": 0}, "at least one"),
        ({"decay": (4.0, 2.0)}, "ascending"),
        ({"decay": "slow"}, "ascending half-lives"),
    ]:
        with pytest.raises(UsageError, match=told):
            knockout(model, text, **{"targets": -1, "sources": 1, **arguments})
    with pytest.raises(UsageError, match="no block of it has one"):
        knockout(nano("hyena"), text, -1, 1)
    with pytest.raises(UsageError, match="block 1 of model moe_mamba has no selective scan.*blocks 0 of it have one"):
        knockout(nano("moe_mamba"), text, -1, 1, [0, 1])
    with pytest.raises(UsageError, match="no selective scan"):
        knockout(nano("dense_mamba"), text, -1, 1)
    with pytest.raises(UsageError, match="leave that edit"), model.edit(Scale("blocks.0.mixer.h", 0.5)):
        knockout(model, text, -1, 1)
    with pytest.raises(UsageError, match="can be 1 to 2"):
        layer_windows(2, 3)
