"""How much an edit changes: ||edit|| / ||site|| for each token, and the divergence of what the model then says.

Strengths of different operators, sites and units cannot be compared; doses can. The relative norm is taken where the
edit acts, in the run in which it acts: what enters a site after everything upstream has been edited, against what
leaves it after the last edit there. So edits of one site count together, and what an edit does to later sites counts
where later edits meet it, never as a part of their own change. Norms are over all features of a site at a token, also
where few channels are edited; float64.

    meter = DoseMeter(model, rows)
    meter.of([Scale("blocks.2.mixer_out", 1.5, channels=[3, 7])]).norm

A site that is zero where it is edited (the state that a text begins with) has no relative change; its dose is its
divergence. `EditWatch` measures in passes that are made for something else, `matched_strength` finds the strength at
which edits have a given dose.
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

    mean, max: over the `tokens` at which there is a relative change; None where there is none. A site without time axis
    counts as one token of each text, or as one of all where it is the same for all (a filter). changed: at how many it
    changed; mean_changed: the mean over these, None where there is none. undefined: tokens at which the site was zero
    and did not stay so, which have no relative change and are counted here alone.
    """

    site: str
    mean: float | None
    max: float | None
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
    def norm(self) -> float | None:
        """Relative change of a site at a token, mean over tokens and edited sites; 0 where nothing is edited, None
        where no edited site has a relative change."""
        known = [site.mean for site in self.sites if site.mean is not None]
        return sum(known) / len(known) if known else None if self.sites else 0.0

    @property
    def finite(self) -> bool:
        """Whether every number of it is."""
        numbers = [n for site in self.sites for n in (site.mean, site.max)]
        return all(math.isfinite(n) for n in (*numbers, self.kl, self.kl_max) if n is not None)

    def value(self, measure: Measured) -> float:
        """The dose in one number. Raises UsageError for a divergence that was not measured, and for a norm where none
        is defined."""
        if measure == "norm":
            if self.norm is None:
                names = ", ".join(site.site for site in self.sites)
                raise UsageError(f"{names}: zero before the edit, so there is no relative change; compare doses by kl")
            return self.norm
        if self.kl is None:
            raise UsageError("the divergence was not measured; ask the meter for it with kl=True")
        return self.kl


@dataclass
class _Seen:
    """Norms at one site, token by token: before the first edit, and of the change after the last. rows: of the batch,
    -1 for what is the same for all."""

    entering: Tensor | None = None
    at: dict[int, Tensor] = field(default_factory=dict[int, Tensor])  # of a state, by packed column
    each: str = "token"  # what counts as one: a token, a text, or "all"
    rows: list[Tensor] = field(default_factory=list[Tensor])
    before: list[Tensor] = field(default_factory=list[Tensor])
    change: list[Tensor] = field(default_factory=list[Tensor])

    def close(self, entering: Tensor | None, leaving: Tensor, real: Tensor) -> None:
        """Note the change where `real`, (B, T) or (B,), is True."""
        assert entering is not None
        axes = tuple(range(real.ndim, leaving.ndim))
        entering, leaving = entering.double(), leaving.double()
        self.before.append((entering**2).sum(axes).sqrt()[real])
        self.change.append(((leaving - entering) ** 2).sum(axes).sqrt()[real])
        self.rows.append(real.nonzero()[:, 0])

    def ratios(self) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, relative changes, where they are defined), each (n,)."""
        before, change = torch.cat(self.before), torch.cat(self.change)
        return torch.cat(self.rows), torch.where(change == 0, 0.0, change / before), (before != 0) | (change == 0)

    def dose(self, site: str, lengths: Sequence[int]) -> SiteDose:
        """Steps at which a state was not computed are tokens that no edit changed."""
        _, ratios, defined = self.ratios()
        tokens = {"token": sum(lengths), "text": len(lengths), "all": 1}[self.each]
        undefined = int((~defined).sum())
        known = ratios[defined]
        moved = known[known != 0]
        return SiteDose(
            site,
            mean=known.sum().item() / (tokens - undefined) if tokens > undefined else None,
            max=max(0.0, known.max().item() if len(known) else 0.0) if tokens > undefined else None,
            changed=len(moved) + undefined,
            mean_changed=moved.mean().item() if len(moved) else None,
            tokens=tokens,
            undefined=undefined,
        )

    def of_rows(self, lengths: Sequence[int]) -> list[float | None]:
        """The mean of each row of a batch; None where none of its tokens has a relative change."""
        rows, ratios, defined = self.ratios()
        if self.each == "all":
            return [ratios[-1].item() if bool(defined[-1]) else None] * len(lengths)
        found: list[float | None] = []
        for row, length in enumerate(lengths):
            mine = rows == row
            tokens = (length if self.each == "token" else 1) - int((mine & ~defined).sum())
            found.append(ratios[mine & defined].sum().item() / tokens if tokens > 0 else None)
        return found


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
            real = torch.arange(x.shape[1], device=x.device)[None, :] < run.lengths[:, None]
            self.seen.close(self.seen.entering, x.detach(), real)
        return x, True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        if not self.after:
            self.seen.at[column] = x.detach().clone()
        else:
            self.seen.close(self.seen.at.pop(column), x.detach(), column < run.lengths)
        return x, True

    def apply_beginning(self, run: Run, begins: Tensor, x: Tensor) -> Tensor:
        if not self.after:
            self.seen.entering = x.detach().clone()
        else:
            self.seen.each = "text"
            self.seen.close(self.seen.entering, x.detach(), begins)
        return x

    def apply_constant(self, x: Tensor) -> Tensor:
        if not self.after:
            self.seen.entering = x.detach().clone()[None]
        else:
            # the same in every batch and pass: the last one counts
            self.seen.each, self.seen.rows, self.seen.before, self.seen.change = "all", [], [], []
            self.seen.close(self.seen.entering, x.detach()[None], torch.ones(1, dtype=torch.bool, device=x.device))
        return x

    def columns(self, run: Run) -> list[int] | None:
        return []


class EditWatch:
    """Looks at `edits` while they act: `model.edit(*watch.edits)` in place of them, forward passes over whole texts,
    and then `sites` or, after one pass, `row_norms`. What the model computes is the same."""

    def __init__(self, model: LanguageModel, edits: Sequence[Edit]) -> None:
        from ..models.access.sites import expand

        there = model.sites()
        names = dict.fromkeys(site.name for edit in edits for site in expand(edit.selection, there))
        self._before = [_Witness(name) for name in names]
        after = [dataclasses.replace(witness, after=True) for witness in self._before]
        self.edits: tuple[Edit, ...] = (*self._before, *edits, *after)

    def sites(self, lengths: Sequence[int]) -> tuple[SiteDose, ...]:
        """The dose of each edited site. lengths: tokens of every text that was read."""
        return tuple(witness.seen.dose(witness.site, lengths) for witness in self._before)

    def row_norms(self, lengths: Sequence[int]) -> list[float | None]:
        """For each row of the one pass that was made: the relative change of a site at a token, as `Dose.norm`."""
        of_sites = [witness.seen.of_rows(lengths) for witness in self._before]
        found: list[float | None] = []
        for row in range(len(lengths)):
            known = [value for of_site in of_sites if (value := of_site[row]) is not None]
            found.append(sum(known) / len(known) if known else None if of_sites else 0.0)
        return found


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
        watch = EditWatch(self._model, edits)
        found: list[Tensor] = []
        for start, rows in self._batches(edits):
            base = self._unsteered(start, rows) if kl else []
            with self._model.edit(*watch.edits):
                logits = read_logits(self._model, rows)
            found += [token_divergence(b, s) for b, s in zip(base, logits, strict=False)]
        sites = watch.sites([len(row) for row in self._rows])
        if not kl:
            return Dose(sites)
        divergences = torch.cat(found)
        return Dose(sites, divergences.mean().item(), divergences.max().item())

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
