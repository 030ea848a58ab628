"""Causal tracing by definition, one restoration at a time: through the public edits, and by replaying token by token.

Not a test file. Independent of `mplat.interp.tracing`: the noise, the default of its size and the effect are written
down here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from mplat.models import Activations, Add, LanguageModel, ModelState, Replace
from torch import Tensor


class Oracle:
    """A clean prompt (T,) and its corrupted versions; `answer` is what the clean run finds most probable.

    corrupted (T,), or subject (start, stop) with `samples` noisy versions drawn from `seed`.
    """

    def __init__(
        self,
        model: LanguageModel,
        clean: Tensor,
        corrupted: Tensor | None = None,
        *,
        subject: tuple[int, int] = (0, 1),
        samples: int = 1,
        seed: int = 1,
    ) -> None:
        self.model, self.clean = model, clean[None]
        self.rows = (clean if corrupted is None else corrupted).expand(samples, -1)
        self.noise: Tensor | None = None
        if corrupted is None:
            start, stop = subject
            entries = model.embedding.weight[clean[start:stop]].flatten().double()
            std = ((entries - entries.mean()).square().sum() / (entries.numel() - 1)).sqrt()
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(samples, stop - start, model.config.d_model, generator=generator, dtype=torch.float64)
            self.noise = torch.zeros(samples, len(clean), model.config.d_model, dtype=torch.float64)
            self.noise[:, start:stop] = 3 * std * drawn
        logits = model(self.clean)[:, -1]
        self.answer = int(logits.argmax())
        self.p_clean = float(self.prob(logits))
        with self.corruption():
            self.p_corrupted = self.prob(model(self.rows)[:, -1])

    def prob(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, -1)[:, self.answer]

    @contextmanager
    def corruption(self) -> Iterator[None]:
        if self.noise is None:
            yield
            return
        with self.model.edit(Add("embed", self.noise)):
            yield

    @cached_property
    def held(self) -> Activations:
        """What the clean run holds at every site of its blocks that can be edited at a position."""
        names = [s.name for s in self.model.sites() if s.name.startswith("blocks") and s.editable and not s.constant]
        with self.model.capture(*names) as acts:
            self.model(self.clean)
        return acts

    def effects(self, restored: Tensor) -> Tensor:
        """Per sample, from the final logits (S, V) of restored runs."""
        return self.prob(restored) - self.p_corrupted

    def by_edits(self, sites: Sequence[str], position: int) -> Tensor:
        """Effects (S,) of replacing what the corrupted runs hold at full site names by what the clean run holds."""
        edits = [Replace(s, self.held[s][:, position : position + 1], positions=[position]) for s in sites]
        with self.corruption(), self.model.edit(*edits):
            return self.effects(self.model(self.rows)[:, -1])

    def by_replay(self, position: int, change: Callable[[ModelState, ModelState], None]) -> Tensor:
        """Effects (S,) of `change(state, clean_state)`, which writes into the carried state after `position`."""
        _, clean_state = self.model(self.clean[:, : position + 1], return_state=True)
        state, logits = None, torch.empty(0)
        with self.corruption():
            for t in range(self.clean.shape[1]):
                logits, state = self.model(
                    self.rows[:, t : t + 1], state=state, return_state=True, phase="prefill",
                )  # fmt: skip
                if t == position:
                    change(state, clean_state)
        return self.effects(logits[:, -1])


def restore_entries(*layers: int, entries: Sequence[str] | None = None) -> Callable[[ModelState, ModelState], None]:
    """Puts the clean run's carried state of these layers into every row; entries: some of its tensors only."""

    def change(state: ModelState, clean: ModelState) -> None:
        for layer in layers:
            for name in entries if entries is not None else list(state.layers[layer]):
                state.layers[layer][name] = clean.layers[layer][name].expand_as(state.layers[layer][name]).clone()

    return change
