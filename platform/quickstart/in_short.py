"""What came out for each model, in a line: exact match as it is, steered and under the best control, price, verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..core.plain_text import Table

if TYPE_CHECKING:
    from ..eval.summary import Summary


class InShort(NamedTuple):
    """One model. unsteered, steered: exact match on n test questions. best_control: the control that does best, and
    control its exact match, a mean over draws; None where no control was run. price: change of bits per byte on
    held-out text, above zero a cost. verdict: its kind. None: not known."""

    model: str
    n: int
    unsteered: float | None
    steered: float | None
    best_control: str | None
    control: float | None
    price: float | None
    verdict: str


def in_short(model: str, summary: Summary) -> InShort:
    """The line of `model`."""
    from ..eval.conditions import CONTROL, STEERED, UNSTEERED

    em, bits = summary.overall.em.conditions, summary.price.bits_per_byte
    means = {name.removeprefix(CONTROL): e.mean for name, e in em.items() if name.startswith(CONTROL)}
    known = {name: mean for name, mean in means.items() if mean is not None}
    best = max(known, key=lambda name: known[name], default=None)
    before, after = (bits[name].mean if name in bits else None for name in (UNSTEERED, STEERED))
    return InShort(
        model=model,
        n=summary.overall.n,
        unsteered=em[UNSTEERED].mean,
        steered=em[STEERED].mean if STEERED in em else None,
        best_control=best,
        control=None if best is None else known[best],
        price=None if before is None or after is None else after - before,
        verdict=summary.verdict.kind,
    )


def table(lines: Sequence[InShort]) -> Table:
    """The lines under names that explain themselves."""
    columns = ["model", "unsteered", "steered", "best control", "price (bits per byte)", "verdict"]
    return Table(columns, [_row(line) for line in lines])


def _row(line: InShort) -> list[object]:
    control = None if line.control is None else f"{line.control:.3f} ({(line.best_control or '').replace('_', ' ')})"
    return [
        line.model, _form(line.unsteered, ".3f"), _form(line.steered, ".3f"), control, _form(line.price, "+.3f"),
        line.verdict.replace("_", " "),
    ]  # fmt: skip


def _form(value: float | None, form: str) -> str | None:
    return None if value is None else f"{value:{form}}"
