"""Many ablations of one block in one pass: each is a copy of the batch's rows with a replacement of its own.

What lies below the block is read once and entered from there (`models.entering`), where blocks tell each other nothing
beside the residual stream. What an ablation does is the change of the answer's log-probability, the KL divergence of
the next-token distribution at the prompt's last token from the one without it, and how far the outputs of the mixers
above move, as a share of their size: |out' - out| / |out| over all tokens of a prompt.

Replacements: `zero`; `mean`, of the channel over all tokens of all prompts; `resample`, the values of other prompts of
the batch at the same position (from the beginning again where they are shorter), several draws of which are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.access.edits import Add, Edit
from ...models.entering import exchanges
from ..engine.answers import AnswerScores, score_answers
from ..engine.batches import AnsweredBatch, Batch
from .taps import Watch
from .unit_attribution import over_tokens

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.run import Run

Ablation = Literal["zero", "mean", "resample"]
OUTPUT = "mixer_out"


@dataclass(frozen=True, eq=False)
class SetChannel(Edit):
    """x[b, t, channel[b]] -> value[b, t], with channel (B,) and value (B, T): another channel in each row.

    Raises UsageError at a state.
    """

    kind: ClassVar[str] = "set_channel"
    site: str
    channel: Tensor
    value: Tensor

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        rows = torch.arange(len(x), device=x.device)
        new = x.clone()
        new[rows, :, self.channel] = self.value[:, : x.shape[1]].to(x.dtype)
        return new, True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a state exists only at chosen steps; use a site with one value per token")


def replacements(x: Tensor, lengths: Sequence[int], kind: Ablation, mean: Tensor, draws: int) -> Iterator[Tensor]:
    """What x (B, T, C) is replaced by, once or `draws` times; mean (C,). None for `resample` in a batch of one row."""
    if kind == "zero":
        yield torch.zeros_like(x)
    elif kind == "mean":
        yield mean.to(x).expand_as(x)
    else:
        rows = len(x)
        for shift in range(1, min(draws, rows - 1) + 1):
            donors = [(i + shift) % rows for i in range(rows)]
            yield torch.stack([x[d, torch.arange(x.shape[1]) % lengths[d]] for d in donors])


class Outcome(NamedTuple):
    """Of K ablations of B prompts. effect, kl (K, B), NaN where scores are not finite; moved: by block (K, B)."""

    effect: Tensor
    kl: Tensor
    moved: Mapping[int, Tensor]

    @staticmethod
    def mean(parts: Sequence[Outcome]) -> Outcome:
        """Of several draws of the same ablations."""
        moved = {j: torch.stack([part.moved[j] for part in parts]).mean(0) for j in parts[0].moved}
        effect, kl = (torch.stack(found).mean(0) for found in zip(*(part[:2] for part in parts), strict=True))
        return Outcome(effect, kl, moved)


class Ablations:
    """The passes over the prompts of a batch with their answers. sites: full names, whose values are kept."""

    def __init__(self, model: LanguageModel, batch: Batch, sites: Sequence[str], rows_at_once: int) -> None:
        self._model, self._rows_at_once = model, rows_at_once
        answered = batch.answered()
        self.mask, self.lengths = answered.mask, [int(n) for n in answered.mask.sum(1)]
        own = torch.arange(answered.columns.shape[1], device=batch.device).expand_as(answered.columns)
        self._wanted, self._answered = answered.columns, answered._replace(columns=own)  # logits come for these alone
        self._enters = not exchanges(model)
        layers = range(model.n_layers)
        self._outputs = [f"blocks.{i}.{OUTPUT}" for i in layers]
        below = [f"blocks.{i}.resid_post" for i in layers if self._enters]
        with torch.no_grad(), model.capture(*dict.fromkeys([*self._outputs, *below, *sites])) as acts:
            logits = model(answered.tokens, answered.mask, only=self._wanted)
        self.values = {name: acts[name] for name in sites}
        self._out = [acts[name] for name in self._outputs]
        self._residual = [acts[name] for name in below]
        self.clean: AnswerScores = score_answers(logits, self._answered)
        self._log_p = torch.log_softmax(logits[:, 0], -1)

    def __call__(self, layer: int, count: int, edit: Callable[[range], Edit], watched_from: int) -> Outcome:
        """Of `count` ablations in block `layer`. edit: that of some of them, with a row for each prompt and ablation,
        ablations outermost. watched_from: the first block whose mixer's output is looked at."""
        at_once = max(1, self._rows_at_once // len(self.mask))
        parts = [range(start, min(count, start + at_once)) for start in range(0, count, at_once)]
        found = [self._pass(layer, len(part), edit(part), watched_from) for part in parts]
        moved = {j: torch.cat([one.moved[j] for one in found]) for j in found[0].moved}
        return Outcome(torch.cat([one.effect for one in found]), torch.cat([one.kl for one in found]), moved)

    @torch.no_grad()
    def _pass(self, layer: int, count: int, edit: Edit, watched_from: int) -> Outcome:
        moved: dict[int, Tensor] = {}

        def watch(j: int) -> Watch:
            was = self._out[j].double()
            size = torch.where(self.mask[..., None], was, 0.0).square().sum((1, 2)).sqrt()

            def see(x: Tensor, lengths: Tensor) -> None:
                step = torch.where(self.mask[..., None], torch.unflatten(x.double(), 0, (count, -1)) - was, 0.0)
                moved[j] = step.square().sum((2, 3)).sqrt() / size

            return Watch(self._outputs[j], see)

        watches = [watch(j) for j in range(watched_from, self._model.n_layers)]
        answered = AnsweredBatch(*(part.repeat(count, 1) for part in self._answered))
        enter = (layer, self._residual[layer - 1].repeat(count, 1, 1)) if self._enters and layer else None
        with self._model.edit(edit, *watches):
            logits = self._model(answered.tokens, answered.mask, only=self._wanted.repeat(count, 1), enter=enter)
        scores = score_answers(logits, answered)
        log_q = torch.unflatten(torch.log_softmax(logits[:, 0], -1), 0, (count, -1))
        kl = (self._log_p.exp() * (self._log_p - log_q)).sum(-1).double().clamp(min=0.0)
        effect = torch.unflatten(scores.logprob.double(), 0, (count, -1)) - self.clean.logprob.double()
        finite = torch.unflatten(scores.finite, 0, (count, -1)) & self.clean.finite
        return Outcome(torch.where(finite, effect, torch.nan), torch.where(finite, kl, torch.nan), moved)


@torch.inference_mode(False)
def first_order_effects(
    model: LanguageModel, batch: Batch, means: Mapping[str, Tensor], kind: Ablation, draws: int
) -> dict[str, Tensor]:
    """What replacing each channel alone would change the answer's log-probability by, to first order: by site (B, C),
    sum over tokens t of (replacement_t - x_t) d log p / d x_t, NaN for prompts whose answer is not finite.

    means: of the channels of the sites, by full name (`replacements`).
    """
    answered = batch.answered()
    known = {site.name: site for site in model.sites()}

    def leaf(name: str) -> Tensor:
        dtype = getattr(torch, known[name].dtype)
        width = int(known[name].axes[0])
        return torch.zeros(*answered.tokens.shape, width, dtype=dtype, device=model.device, requires_grad=True)

    leaves = {name: leaf(name) for name in means}
    with torch.enable_grad(), model.edit(*(Add(name, zero) for name, zero in leaves.items())):
        with model.capture(*means) as acts:
            scores = score_answers(model(answered.tokens, answered.mask), answered)
    slopes = torch.autograd.grad(scores.logprob.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    lengths = [int(n) for n in answered.mask.sum(1)]
    result: dict[str, Tensor] = {}
    for (name, mean), slope in zip(means.items(), slopes, strict=True):
        x = acts[name].double()
        others = list(replacements(x, lengths, kind, mean, draws))
        if others:
            step = torch.stack(others).mean(0) - x
            effect = over_tokens(step * slope.double(), answered.mask)
            result[name] = torch.where(scores.finite[:, None], effect, torch.nan)
    return result
