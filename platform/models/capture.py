"""Captures: reading sites during forward passes.

`Activations` is what `model.capture(...)` yields: a mapping from site name to tensor, in the caller's layout. A call
that continues from a state appends along time, so that generation yields one tensor for prompt and new tokens; a call
that starts anew replaces what was there. Tensors keep their autograd history and are not copied;
for gradients with respect to a state site see `states`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UsageError, suggest
from .run import Run
from .sites import Selection, Site, expand, parse


class Activations(Mapping[str, Tensor]):
    """Captured tensors by site name.

    Shapes: (B, T, ...) without positions, (B, P, ...) with them. Where one site was captured with two different
    selections, the key is the full selection (`blocks.0.mixer.h@[3]`); otherwise both forms are accepted.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str], Tensor] = {}

    def _keys(self) -> dict[str, tuple[str, str]]:
        names = [site for site, _ in self._tensors]
        return {(site if names.count(site) == 1 else site + text): (site, text) for site, text in self._tensors}

    def __getitem__(self, key: str) -> Tensor:
        keys = self._keys()
        if key in keys:
            return self._tensors[keys[key]]
        selection = parse(key)
        full = (selection.name, str(selection)[len(selection.name) :])
        if full in self._tensors:
            return self._tensors[full]
        raise KeyError(f"no captured site {key!r}; {suggest(key, keys) if keys else 'nothing has been captured yet'}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._tensors)

    def clear(self) -> None:
        """Forget everything captured so far."""
        self._tensors.clear()


class Recorder:
    """Fills an `Activations` from the forward passes of one model."""

    def __init__(self, specs: Sequence[str], sites: Sequence[Site]) -> None:
        if not specs:
            raise UsageError("capture needs at least one site name")
        self.activations = Activations()
        self._wanted: dict[str, list[Selection]] = {}
        self._patterns = [parse(spec) for spec in specs]
        self._fired: set[Selection] = set()
        self._pattern_of: dict[tuple[str, Selection], Selection] = {}
        for pattern in self._patterns:
            for site in expand(pattern, sites):
                selection = Selection(site.name, pattern.positions, pattern.channels)
                known = self._wanted.setdefault(site.name, [])
                if selection not in known:
                    known.append(selection)
                self._pattern_of[site.name, selection] = pattern

    def wants(self, site: str) -> list[Selection]:
        """Selections of `site` that were asked for."""
        return self._wanted.get(site, [])

    def record(self, run: Run, site: str, selection: Selection, value: Tensor) -> None:
        """Store `value`: (B, T, ...) packed, or already (B, P, ...) for a state site with positions."""
        if selection.positions is None:
            picked = run.to_caller(value)
        else:
            column, valid = run.positions(selection.positions)
            if not bool(valid.any()):
                return
            if not bool(valid.all()):
                if bool(valid.any(0).all()):
                    raise UsageError(
                        f"capture {selection}: some rows of the batch are too short to have this position; "
                        "capture them in a batch of their own"
                    )
                # in generation a call holds only some of the positions: keep those that it has
                column = column[:, valid.all(0)]
            already = value.shape[1] == len(selection.positions) and site.rpartition(".")[2] in STATE_SITES
            if already:
                picked = value[:, valid.all(0)] if not bool(valid.all()) else value
            else:
                picked = value[torch.arange(len(value), device=value.device)[:, None], column]
        if selection.channels is not None:
            index = torch.as_tensor(selection.channels, device=picked.device) % picked.shape[2]
            picked = picked.index_select(2, index)
        key = (site, str(selection)[len(site) :])
        previous = self.activations._tensors.get(key)
        joined = previous is not None and run.continues and len(previous) == len(picked)
        self.activations._tensors[key] = torch.cat([previous, picked], 1) if joined and previous is not None else picked
        self._fired.add(self._pattern_of[site, selection])

    def record_constant(self, site: str, selection: Selection, value: Tensor) -> None:
        """Store the `value` (C, ...) of a site without batch and time axes."""
        if selection.channels is not None:
            value = value.index_select(0, torch.as_tensor(selection.channels, device=value.device) % len(value))
        self.activations._tensors[site, str(selection)[len(site) :]] = value
        self._fired.add(self._pattern_of[site, selection])

    def check(self) -> None:
        """Raise UsageError for every selection that never saw a tensor."""
        silent = [str(p) for p in self._patterns if p not in self._fired]
        if silent:
            raise UsageError(
                f"capture of {', '.join(silent)} never fired: no forward pass ran, or none had these positions"
            )


#: sites that hold a state at a time step; a mixer computes them only where they are wanted
STATE_SITES = frozenset({"h", "h_post", "conv_state", "h_fused"})
