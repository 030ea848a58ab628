"""How much an edit changes: ||edit|| / ||site|| for each token, and the divergence of what the model then says.

Strengths of different operators, sites and units cannot be compared; doses can. The relative norm is taken where the
edit acts, in the run in which it acts: what enters a site after everything upstream has been edited, against what
leaves it after the last edit there. So edits of one site count together, and what an edit does to later sites counts
where later edits meet it, never as a part of their own change. Norms are over all features of a site at a token, also
where few channels are edited; float64.

    meter = DoseMeter(model, rows)
    meter.of([Scale("blocks.2.mixer_out", 1.5, channels=[3, 7])]).norm

`matched_strength` finds the strength at which edits have a given dose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError
from ..models.access.edits import Edit
from .divergence import read_logits, texts_together, token_divergence

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..models.access.run import Run

_KEPT = 2**26  # numbers of unsteered logits that are kept between measurements
Measured = Literal["norm", "kl"]


class SiteDose(NamedTuple):
    """The change of one site over all tokens of the texts, relative to its norm at each token.

    mean, max: over all `tokens`; a site without tokens (a filter, a mixing weight) counts as one. changed: at how many
    it changed; mean_changed: the mean over these, None where there is none. undefined: tokens at which the site was
    zero and did not stay so, which have no relative change and are counted here alone.
    """

    site: str
    mean: float
    max: float
    changed: int
    mean_changed: float | None
    tokens: int
    undefined: int


@dataclass(frozen=True)
class Dose:
    """What edits change. sites: each edited one. kl: mean KL(unsteered || steered) of a token, nats; None where it was
    not asked for. kl_max: of all tokens."""

    sites: tuple[SiteDose, ...]
    kl: float | None = None
    kl_max: float | None = None

    @property
    def norm(self) -> float:
        """Relative change of a site at a token, mean over tokens and edited sites."""
        return sum(site.mean for site in self.sites) / len(self.sites) if self.sites else 0.0

    @property
    def finite(self) -> bool:
        """Whether every number of it is."""
        numbers = [self.norm, *(site.max for site in self.sites), *(k for k in (self.kl, self.kl_max) if k is not None)]
        return all(map(math.isfinite, numbers))

    def value(self, measure: Measured) -> float:
        """The dose in one number. Raises UsageError for a divergence that was not measured."""
        if measure == "norm":
            return self.norm
        if self.kl is None:
            raise UsageError("the divergence was not measured; ask the meter for it with kl=True")
        return self.kl


@dataclass
class _Seen:
    """Norms at one site: before the first edit, and of the change after the last, per token."""

    entering: Tensor | None = None
    at: dict[int, Tensor] = field(default_factory=dict[int, Tensor])  # of a state, by packed column
    constant: bool = False
    before: list[Tensor] = field(default_factory=list[Tensor])
    change: list[Tensor] = field(default_factory=list[Tensor])

    def close(self, entering: Tensor, leaving: Tensor, real: Tensor) -> None:
        axes = tuple(range(real.ndim, leaving.ndim))
        entering, leaving = entering.double(), leaving.double()
        self.before.append((entering**2).sum(axes).sqrt()[real])
        self.change.append(((leaving - entering) ** 2).sum(axes).sqrt()[real])

    def dose(self, site: str, tokens: int) -> SiteDose:
        """Steps at which a state was not computed are tokens that no edit changed."""
        before, change = torch.cat(self.before), torch.cat(self.change)
        tokens = 1 if self.constant else tokens
        undefined = (before == 0) & (change > 0)
        ratio = torch.where(before == 0, 0.0, change / before)[~undefined]
        moved = ratio[ratio != 0]
        return SiteDose(
            site,
            mean=ratio.sum().item() / max(1, tokens - int(undefined.sum())),
            max=ratio.max().item() if len(ratio) else 0.0,
            changed=len(moved),
            mean_changed=moved.mean().item() if len(moved) else None,
            tokens=tokens,
            undefined=int(undefined.sum()),
        )


@dataclass(frozen=True, eq=False)
class _Witness(Edit):
    """Changes nothing and looks at what passes a site, before the edits in question or after them. It asks for no state
    at any step: it sees those that the edits make the model compute."""

    kind: ClassVar[str] = "witness"
    seen: _Seen = field(default_factory=_Seen)
    after: bool = False

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        if not self.after:
            self.seen.entering = x.detach().clone()
        else:
            assert self.seen.entering is not None
            real = torch.arange(x.shape[1], device=x.device)[None, :] < run.lengths[:, None]
            self.seen.close(self.seen.entering, x.detach(), real)
        return x, True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        if not self.after:
            self.seen.at[column] = x.detach().clone()
        else:
            self.seen.close(self.seen.at.pop(column), x.detach(), column < run.lengths)
        return x, True

    def apply_constant(self, x: Tensor) -> Tensor:
        if not self.after:
            self.seen.entering = x.detach().clone()
        else:
            assert self.seen.entering is not None
            one = torch.ones(1, dtype=torch.bool, device=x.device)
            self.seen.constant, self.seen.before, self.seen.change = True, [], []  # the same in every batch
            self.seen.close(self.seen.entering[None], x.detach()[None], one)
        return x

    def columns(self, run: Run) -> list[int] | None:
        return []


class DoseMeter:
    """Measures doses of edits of `model` on the same texts, which are rows of at least two token ids.

    The unsteered logits are kept between measurements where there is room. Raises UsageError for rows that are none.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Sequence[int]]) -> None:
        if not rows or min(map(len, rows)) < 2:
            raise UsageError("a dose is measured on texts of at least two tokens, and on at least one of them")
        self._model, self._rows = model, [list(row) for row in rows]
        self._base: dict[int, list[Tensor]] = {}

    def of(self, edits: Sequence[Edit], *, kl: bool = True) -> Dose:
        """The dose of `edits` together, in the order given; without `kl` the unsteered model is not run.

        Raises UsageError as `model.edit` does, and InputError where logits are not finite.
        """
        dose = self.measured(edits, kl=kl)
        if not dose.finite:
            raise InputError(f"model {self._model.name}: under these edits values are not finite; lower the strength")
        return dose

    def measured(self, edits: Sequence[Edit], *, kl: bool = True) -> Dose:
        """As `of`, but a dose that is not finite is returned as it came out."""
        if not edits:
            return Dose((), 0.0 if kl else None, 0.0 if kl else None)
        witnesses = self._witnesses(edits)
        every = (*(before for before, _ in witnesses), *edits, *(after for _, after in witnesses))
        found: list[Tensor] = []
        for start, rows in self._batches(edits):
            base = self._unsteered(start, rows) if kl else []
            with self._model.edit(*every):
                logits = read_logits(self._model, rows)
            found += [token_divergence(b, s) for b, s in zip(base, logits, strict=False)]
        sites = tuple(before.seen.dose(before.site, sum(map(len, self._rows))) for before, _ in witnesses)
        if not kl:
            return Dose(sites)
        divergences = torch.cat(found)
        return Dose(sites, divergences.mean().item(), divergences.max().item())

    def _witnesses(self, edits: Sequence[Edit]) -> list[tuple[_Witness, _Witness]]:
        """For each site that any of the edits names: one that looks before all of them, and one that looks after."""
        from ..models.access.sites import expand

        there = self._model.sites()
        names = dict.fromkeys(site.name for edit in edits for site in expand(edit.selection, there))
        pairs: list[tuple[_Witness, _Witness]] = []
        for name in names:
            before = _Witness(name)
            pairs.append((before, dataclasses.replace(before, after=True)))
        return pairs

    def _batches(self, edits: Sequence[Edit]) -> list[tuple[int, list[list[int]]]]:
        """The rows in batches; all of them in one where an edit has an entry for each row."""
        rows = self._rows
        vocabulary = self._model.config.vocab_size
        whole = any(edit.of_rows for edit in edits)
        step = len(rows) if whole else texts_together([len(row) for row in rows], vocabulary)
        return [(start, rows[start : start + step]) for start in range(0, len(rows), step)]

    def _unsteered(self, start: int, rows: list[list[int]]) -> list[Tensor]:
        known = self._base.get(start)
        if known is not None and len(known) == len(rows):
            return known
        logits = read_logits(self._model, rows)
        kept = sum(logit.numel() for of_batch in self._base.values() for logit in of_batch)
        if kept + sum(logit.numel() for logit in logits) <= _KEPT:
            self._base[start] = logits
        return logits
