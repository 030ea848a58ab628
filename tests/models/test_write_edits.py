"""What a token writes into a state can be read and edited, exactly as a token-by-token replay with that write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import Add, Edit, LanguageModel, Replace, Scale
from mplat.models.families.mamba.mamba import SelectiveScan
from mplat.models.linear_recurrence import Recurrence
from torch import Tensor

WIDTH, AT = 9, (2, 5)


def write_sites(model: LanguageModel) -> list[str]:
    return [s.name for s in model.sites() if s.name.endswith("mixer.write")]


WITH_WRITE = tuple(arch for arch in ARCHITECTURES if write_sites(nano(arch)))


class Replay:
    """One layer's recurrence, token by token in float64, from the sites that `Recurrence` names."""

    def __init__(self, model: LanguageModel, layer: int, of: Recurrence, text: Tensor) -> None:
        prefix = f"blocks.{layer}.mixer.{of.within}"
        self.of, self.outputs = of, [prefix + name for name in of.outputs]
        names = [n for n in (of.x, of.delta, of.B, of.C) if isinstance(n, str)]
        with model.capture(*(prefix + n for n in names), *self.outputs, prefix + "write") as acts:
            model(text)
        self.x = acts[prefix + of.x]
        units = len(of.A)
        ones = torch.ones(*self.x.shape[:2], units, dtype=torch.float64)
        self.delta = acts[prefix + of.delta] if of.delta else ones
        self.P, self.N = self.x.shape[2] // units, of.A.shape[1]
        self.B, self.C = (self._vectors(acts, prefix, v, units) for v in (of.B, of.C))
        self.y = torch.cat([acts[name] for name in self.outputs], -1)
        self.captured = acts[prefix + "write"]

    def _vectors(self, acts: object, prefix: str, given: str | Tensor | None, units: int) -> Tensor:
        """(B, T, U, N) of what is shared by neighbouring units."""
        if given is None:
            return torch.ones(*self.x.shape[:2], units, self.of.A.shape[1], dtype=torch.complex128)
        held = acts[prefix + given] if isinstance(given, str) else given.expand(*self.x.shape[:2], *given.shape)  # type: ignore[index]
        groups = held.unflatten(-1, (self.of.groups, -1)) if isinstance(given, str) else held
        return groups.repeat_interleave(units // self.of.groups, 2)

    def writes(self) -> Tensor:
        """(B, T, E, N) as the site shows them."""
        w = self.of.written(self.delta)
        write = w[..., None, None] * self.x.unflatten(-1, (-1, self.P))[..., None] * self.B[:, :, :, None]
        return self.shown(write.flatten(2, 3))

    def shown(self, write: Tensor) -> Tensor:
        return torch.view_as_real(write).flatten(-2) if self.of.A.is_complex() else write

    def run(self, writes: Tensor) -> Tensor:
        """y (B, T, E) for these writes."""
        if self.of.A.is_complex():
            writes = torch.view_as_complex(writes.unflatten(-1, (-1, 2)).contiguous())
        decay = torch.exp(self.delta[..., None] * self.of.A).repeat_interleave(self.P, 2)
        C = self.C.repeat_interleave(self.P, 2)
        h, ys = torch.zeros_like(writes[:, 0]), []
        for t in range(writes.shape[1]):
            h = decay[:, t] * h + writes[:, t]
            ys.append((C[:, t] * h).sum(-1).real)
        y = torch.stack(ys, 1)
        return y if self.of.D is None else y + self.of.D.repeat_interleave(self.P) * self.x


def rebuilt(model: LanguageModel, text: Tensor) -> list[Replay]:
    return [
        Replay(model, i, of, text)
        for i, block in enumerate(model.blocks)
        for of in block.recurrences()
        if of.outputs and not of.within
    ]


@pytest.mark.parametrize("arch", [a for a in WITH_WRITE if a != "dense_mamba"])
@torch.no_grad()
def test_edited_writes_are_a_replay_with_those_writes(arch: str) -> None:
    model, text = nano(arch), tokens(2, WIDTH)
    layers = rebuilt(model, text)
    assert layers
    for replay in layers:
        writes = replay.writes()
        torch.testing.assert_close(replay.captured, writes, rtol=0, atol=1e-12)
        torch.testing.assert_close(replay.run(writes), replay.y, rtol=0, atol=1e-11)
        site = replay.outputs[0].rpartition(".")[0] + ".write"
        atom = torch.randn(writes.shape[2:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if replay.of.A.is_complex():
            assert float(writes[..., 1::2].abs().max()) == 0.0  # a token writes real numbers into its modes
        kinds: list[tuple[Callable[..., Edit], Callable[[Tensor], Tensor]]] = [
            (lambda **o: Scale(site, 0.0, **o), torch.zeros_like),  # noqa: B023
            (lambda **o: Scale(site, -2.5, **o), lambda w: -2.5 * w),  # noqa: B023
            (lambda **o: Replace(site, atom, **o), lambda w: atom.expand_as(w)),  # noqa: B023
            (lambda **o: Add(site, atom, **o), lambda w: w + atom),  # noqa: B023
        ]
        masks = torch.zeros(2, WIDTH, dtype=torch.bool)
        masks[0, [1, 6]] = masks[1, 3] = True
        for make, change in kinds:
            for options, where in (
                ({"positions": AT}, torch.zeros(2, WIDTH, dtype=torch.bool).index_fill(1, torch.tensor(AT), True)),
                ({"where": masks}, masks),
                ({}, torch.ones(2, WIDTH, dtype=torch.bool)),
            ):
                expected = torch.where(where[..., None, None], change(writes), writes)
                with model.edit(make(**options)), model.capture(*replay.outputs, site) as seen:
                    model(text)
                y = torch.cat([seen[name] for name in replay.outputs], -1)
                torch.testing.assert_close(y, replay.run(expected), rtol=0, atol=1e-10)
                torch.testing.assert_close(seen[site], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", WITH_WRITE)
@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_a_changed_write_is_that_change_of_the_state_before_its_read_out(arch: str, left: bool) -> None:
    """Also in a padded batch, for layers that read each other's states, and beside edits of the state itself."""
    changes = {"dense_fuse": "recurrent"} if arch == "dense_mamba" and left else {}
    model = nano(arch, **changes)
    mask = torch.arange(WIDTH)[None] >= torch.tensor([[0], [3]])
    mask = mask if left else mask.flip(1)
    text = tokens(2, WIDTH)
    for site in write_sites(model):
        state = site.removesuffix("write") + "h"
        with model.capture(f"{site}@[2,4]") as acts:
            model(text, mask)
        written = acts[site]
        for beside in ([], [Scale(state.replace(".h", ".h_post"), 0.7, positions=[3]), Add(state, 0.1, positions=[4])]):
            deleted = [Add(state, -written, positions=[2, 4]), *beside]
            with model.edit(*deleted):
                expected, carried = model(text, mask, return_state=True)
            with model.edit(Scale(site, 0.0, positions=[2, 4]), *beside):
                found, kept = model(text, mask, return_state=True)
            torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-10)
            for a, b in zip(carried.layers, kept.layers, strict=True):
                for name in a:
                    torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-10)


@torch.no_grad()
def test_only_what_is_asked_for_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = nano("mamba"), tokens(2, 30)
    asked: list[list[int]] = []
    scanned: list[list[int] | None] = []
    written, scan = SelectiveScan.written, SelectiveScan.scan

    def watched(self: SelectiveScan, columns: list[int]) -> Tensor:
        asked.append(columns)
        return written(self, columns)

    def watched_scan(self: SelectiveScan, start: int, stop: int, driven: bool, h: Tensor, at: list[int]) -> object:
        scanned.append(at)
        return scan(self, start, stop, driven, h, at)

    monkeypatch.setattr(SelectiveScan, "written", watched)
    monkeypatch.setattr(SelectiveScan, "scan", watched_scan)
    site = "blocks.0.mixer.write"
    with model.capture(f"{site}@[3,-2]") as acts, model.edit(Scale(site, 0.5, positions=[7])):
        model(text)
    assert acts[site].shape[1] == 2
    assert asked == [[3, 7, 28]] and not any(scanned), "states of other tokens were made"


@torch.no_grad()
def test_writes_in_generation_are_those_of_the_whole_text() -> None:
    model = nano("mamba2")
    site = "blocks.1.mixer.write"
    prompt = tokens(1, 6)[0].tolist()
    where = torch.tensor([[False] * 3 + [True] + [False] * 2])
    edit = Scale(site, -1.5, where=where, beyond=True)
    with model.edit(edit):
        new: list[int] = []
        for _ in range(6):
            new.append(int(model(torch.tensor([prompt + new]))[0, -1].argmax()))
    with model.edit(edit), model.capture(site) as acts:
        assert model.generate([prompt], max_new_tokens=6) == [new]
    with model.edit(edit), model.capture(site) as whole:
        model(torch.tensor([prompt + new[:-1]]))
    torch.testing.assert_close(acts[site], whole[site], rtol=0, atol=1e-11)


@pytest.mark.parametrize("arch", WITH_WRITE)
def test_the_gradient_by_a_write_is_that_of_central_differences(arch: str) -> None:
    model, text = nano(arch), tokens(1, 6)
    site = write_sites(model)[0]
    shape = [int(n) for n in next(s.axes for s in model.sites() if s.name == site)]
    step = 1e-5 * torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(at: Tensor) -> Tensor:
        with model.edit(Add(site, at, positions=[1, 3])):
            return model(text).log_softmax(-1)[0, -1, 3]

    zero = torch.zeros_like(step, requires_grad=True)
    loss(zero).backward()
    assert zero.grad is not None
    with torch.no_grad():
        slope = (loss(step) - loss(-step)) / 2
    torch.testing.assert_close((zero.grad * step).sum(), slope, rtol=1e-6, atol=1e-12)
