"""The runs that restorations start from: the clean prompt, row 0 of a batch, and its corrupted versions.

A restoration at (layer, position) changes nothing below the layer nor before the position. What it needs of the rest is
kept here: the residual stream before each block at all positions, and the carried state of every layer before and after
one position at a time, which `advance` moves on; so memory does not grow with positions x state size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ...models import LanguageModel
from ...models.mixer import LayerState
from ...models.state import ModelState
from .corruption import Corruption
from .restoration import RESIDUAL


class Baseline:
    """Clean and corrupted runs of some samples. R = 1 + number of samples.

    resid[i] (R, T, d): the residual stream that enters block i, before edits there, and after the last block for i = L.
    after (layer states of R rows): the state after position `at`; before: the one before it.
    values: full site name -> what the clean run holds there at position `at`, (1, 1, ...).
    """

    def __init__(self, model: LanguageModel, corruption: Corruption, samples: slice) -> None:
        self.model, self._corruption, self._samples = model, corruption, samples
        self._tokens = corruption.rows(samples)
        with self._corrupted(), model.capture("embed", "blocks.*.resid_post") as acts:
            model(self._tokens, phase="prefill", last_only=True)
        self.resid = [acts[f"blocks.{i}.resid_post"] for i in range(model.n_layers)]
        self.resid.insert(0, acts["embed"].to(self.resid[0].dtype))
        self.at = -1
        self.after: Sequence[LayerState] = model.zero_state(len(self._tokens)).layers
        self.before = self.after
        self.values: dict[str, Tensor] = {}

    @property
    def samples(self) -> int:
        return len(self._tokens) - 1

    @property
    def length(self) -> int:
        return self._tokens.shape[1]

    def value(self, layer: int, site: str) -> Tensor:
        """What the clean run holds at `site` of block `layer` at position `at`, (1, 1, ...)."""
        if site in RESIDUAL:
            return self.resid[layer + RESIDUAL[site]][:1, self.at : self.at + 1]
        return self.values[f"blocks.{layer}.{site}"]

    def _corrupted(self) -> AbstractContextManager[None]:
        return self.model.edit(*self._corruption.edits(self.model, self._samples))

    def advance(self, position: int, sites: Sequence[str]) -> None:
        """Go on to `position`, later than the last one, and read there the clean run's `sites` of every block."""
        assert self.at < position < self.length, "positions ascend"
        if position > self.at + 1:
            self._read(position - 1, ())
        self.before = self.after
        self._read(position, sites)

    def _read(self, position: int, sites: Sequence[str]) -> None:
        """Read the tokens up to `position` and keep what the clean row held there last."""
        rows = len(self._tokens)
        tokens = self._tokens[:, self.at + 1 : position + 1]
        state = ModelState(tuple(self.after), torch.full((rows,), self.at + 1, device=tokens.device))
        anchor = torch.full((rows,), self.length, device=tokens.device)  # from where the caller's edits may count
        options = {"state": state, "return_state": True, "phase": "prefill", "anchor": anchor, "last_only": True}
        self.values = {}
        with self._corrupted():
            if sites:
                with self.model.capture(*(f"blocks.*.{site}" for site in sites)) as acts:
                    _, found = self.model(tokens, **options)
                self.values = {site: value[:1].clone() for site, value in acts.items()}  # not a view of all rows
            else:
                _, found = self.model(tokens, **options)
        self.after, self.at = found.layers, position


def final_logits(model: LanguageModel, corruption: Corruption, samples: slice) -> Tensor:
    """Logits (1 + n, V) at the last position: the clean run's, then those of the corrupted `samples`."""
    with model.edit(*corruption.edits(model, samples)):
        return model(corruption.rows(samples), phase="prefill", last_only=True)[:, 0]
