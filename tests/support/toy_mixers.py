"""Two mixers that no file of the package knows, as somebody might add them, and their registration; not a test file.

What they compute stands in plain loops and sums, so that analyses can be held against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mplat.models.access.run import Run
from mplat.models.access.states import Scanned
from mplat.models.linear_recurrence import Recurrence
from mplat.models.mixer import MIXERS, LayerState, Mixer, SiteInfo, mixer
from mplat.models.model_config import ModelConfig
from mplat.models.parts.recurrence import reset_linear, scan_with_sites
from torch import Tensor, nn

GROUPS, WIDTH = 2, 2  # of keys and queries; channels of a unit


class TallyMixer(Mixer):
    """h_t = exp(delta_t A) h_{t-1} + delta_t key_t value_t,  read_t = query_t . h_t + D value_t.

    A unit of two channels has its own delta, and an A for each coordinate; two groups of units have a key and a query
    each. E = d_model channels, N coordinates.
    """

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, N = config.d_model, config.state_size
        self.units = d // WIDTH
        self.value, self.out_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.key, self.query = nn.Linear(d, GROUPS * N, bias=False), nn.Linear(d, GROUPS * N, bias=False)
        self.pace = nn.Linear(d, self.units)
        self.rate = nn.Parameter(torch.empty(self.units, N))
        self.skip = nn.Parameter(torch.empty(self.units))

    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in (self.value, self.key, self.query, self.pace, self.out_proj):
            reset_linear(layer.weight, layer.bias, layer.in_features, generator)
        nn.init.uniform_(self.rate, -3.0, 0.0, generator=generator)
        nn.init.ones_(self.skip)

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        A, D = -F.softplus(self.rate.detach().to(dtype)), self.skip.detach().to(dtype)
        return (Recurrence(A, D, "value", B="key", C="query", outputs=("read",), groups=GROUPS),)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return {"h": torch.zeros(batch, self.config.d_model, self.config.state_size, dtype=dtype, device=device)}

    def site_table(self) -> list[SiteInfo]:
        d, N = self.config.d_model, self.config.state_size
        return [
            SiteInfo("value", (d,), "what is written"),
            SiteInfo("delta", (self.units,), "step of each unit"),
            SiteInfo("key", (GROUPS * N,), "where it is written"),
            SiteInfo("query", (GROUPS * N,), "where is read"),
            SiteInfo("h", (d, N), "state, as it is read"),
            SiteInfo("h_post", (d, N), "state, as it is handed on"),
            SiteInfo("read", (d,), "what is read, with the skip"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        value = run.site(prefix + "value", self.value(u))
        delta = run.site(prefix + "delta", F.softplus(self.pace(u)))
        key, query = run.site(prefix + "key", self.key(u)), run.site(prefix + "query", self.query(u))
        if run.keep is not None:  # nothing moves at padding
            delta = delta * run.keep[..., None]
        by_channel = delta.repeat_interleave(WIDTH, -1)[..., None]
        A, D = (v.repeat_interleave(WIDTH, 0) for v in (-F.softplus(self.rate), self.skip))
        per_group = self.config.d_model // GROUPS
        keys, queries = (v.unflatten(-1, (GROUPS, -1)).repeat_interleave(per_group, 2) for v in (key, query))

        def scan(start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
            h = torch.zeros_like(keys[:, 0]) if h is None else h
            read, states = [], []
            for t in range(start, stop):
                if run.reset is not None:
                    h = h.masked_fill(run.reset[:, t, None, None], 0.0)
                written = by_channel[:, t] * keys[:, t] * value[:, t, :, None] if driven else 0.0
                h = torch.exp(by_channel[:, t] * A) * h + written
                read.append((queries[:, t] * h).sum(-1) + (D * value[:, t] if driven else 0.0))
                states.append(h)
            assert h is not None
            kept = [states[t] for t in states_at] if states_at else [h]
            return Scanned(torch.stack(read, 1), h, torch.stack(kept, 1))

        def contract(t: int, h: Tensor) -> Tensor:
            return (queries[:, t] * h).sum(-1)

        h0 = None if state is None else state["h"]
        y, h = scan_with_sites(run, prefix, u.shape[1], h0, need_state, scan, contract)
        out = self.out_proj(run.site(prefix + "read", y))
        return out, None if h is None else {"h": h}


class DriftMixer(Mixer):
    """h_t = exp(A) h_{t-1} + x_t,  y_t = c . h_t: no token decides over anything, and states have no sites."""

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, N = config.d_model, config.state_size
        self.in_proj, self.out_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.rate, self.c = nn.Parameter(torch.empty(d, N)), nn.Parameter(torch.empty(1, N))

    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in (self.in_proj, self.out_proj):
            reset_linear(layer.weight, None, layer.in_features, generator)
        nn.init.uniform_(self.rate, -4.0, 0.0, generator=generator)
        nn.init.uniform_(self.c, -1.0, 1.0, generator=generator)

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        return (Recurrence(-F.softplus(self.rate.detach().to(dtype)), delta=None, B=None, C=self.c.detach().to(dtype)),)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return {"sum": torch.zeros(batch, self.config.d_model, self.config.state_size, dtype=dtype, device=device)}

    def site_table(self) -> list[SiteInfo]:
        return [SiteInfo(name, (self.config.d_model,), name) for name in ("x", "y")]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        x = run.site(prefix + "x", self.in_proj(u))
        h = self.zero_state(len(u), u.dtype, u.device)["sum"] if state is None else state["sum"]
        real = torch.ones(u.shape[:2], dtype=torch.bool) if run.keep is None else run.keep.bool()
        read = []
        for t in range(u.shape[1]):
            if run.reset is not None:
                h = h.masked_fill(run.reset[:, t, None, None], 0.0)
            h = torch.where(real[:, t, None, None], torch.exp(-F.softplus(self.rate)) * h + x[:, t, :, None], h)
            read.append((self.c * h).sum(-1))
        return self.out_proj(F.silu(run.site(prefix + "y", torch.stack(read, 1)))), {"sum": h} if need_state else None


TOYS: dict[str, type[Mixer]] = {"tally": TallyMixer, "drift": DriftMixer}


@contextmanager
def toys() -> Iterator[None]:
    """Both are registered, as decorated classes are, and forgotten afterwards."""
    for name, cls in TOYS.items():
        mixer(name)(cls)
    try:
        yield
    finally:
        for name in TOYS:
            del MIXERS._entries[name]
