"""Edits: what can be done to a site's tensor, as small frozen values that compose and can be stored.

An edit names a site (with `*`, channels and positions, see `sites`) and a phase: "prefill" (whole sequences),
"decode" (one token at a time after them) or "both". Edits act in the order given; every one whose parameters make it
the identity (Scale 1, Add 0, Interpolate weight 0) leaves each bit as it was.

Values broadcast against the selected part of the tensor: (..., C) for all positions, (P, C) for P positions,
(T, C) or (B, T, C) for a whole run, whose time axis then counts from the start of the sequence. The row axis B is that
of the batch at its beginning: in generation, prompt i keeps its entry when others have ended (`rows` of the forward
pass). A position or channel that is named twice is edited once, as its first mention says; a text that has none of
the positions is an error, in a batch and alone (`coverage`). Instead of positions an edit may have a mask `where`,
which names other tokens in each row, and in some rows none (`row_masks`).
Edits are stored as JSON with their tensors in safetensors beside it (`edit_files`), never as pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from .coverage import first_mentions
from .row_masks import acts_in_call, checked_mask
from .run import take
from .sites import Selection, merge, parse

if TYPE_CHECKING:
    from .run import Run

_PHASES = ("both", "prefill", "decode")
Value = float | Tensor | Sequence[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit:
    """Base: selects part of a site and replaces it by `transform(part)`.

    channels, positions: as in `sites`; None is all (or what the name says). phase: where the edit acts.
    where: bool (W,), (1, W) or (B, W), instead of positions: at which tokens of each row, counted from the start of the
    text; beyond: whether also at those after the first W (`row_masks`).
    Raises UsageError where the site, the phase, the mask or a value is none, for positions beside a mask, for a mask
    that is False everywhere, or where a value or mask does not fit what it meets.
    """

    kind: ClassVar[str] = ""
    channels: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    phase: Literal["both", "prefill", "decode"] = "both"
    where: Tensor | None = None
    beyond: bool = False
    site: str = field(kw_only=False)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.selection}{'' if self.where is None else ' where masked'})"

    @cached_property
    def selection(self) -> Selection:
        """The parsed site with positions and channels from either place."""
        return merge(parse(self.site), self.positions, self.channels)

    @property
    def of_rows(self) -> bool:
        """Whether the edit's mask or tensor may have an entry for each row of a batch."""
        if self.where is not None and len(self.where) > 1:
            return True
        value = self._value()
        return value is not None and value.ndim > 2 and value.shape[0] > 1

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        """The new content of `x` (B, P, C, ...); `value` is the edit's tensor, aligned with it."""
        raise UsageError(f"{type(self).__name__} defines no transform")

    def _value(self) -> Tensor | None:
        return None

    def __post_init__(self) -> None:
        if self.phase not in _PHASES:
            raise UsageError(f"edit phase {self.phase!r}: {suggest(self.phase, _PHASES)}")
        positions = self.selection.positions  # parsed now, so that a wrong site name is an error where it is written
        object.__setattr__(self, "where", checked_mask(f"edit {self}", self.where, self.beyond, positions))

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        """Edit `x` (B, T, ...) in packed layout; also whether any real token was touched."""
        if self.selection.positions is None:
            columns, valid = self._whole(run, 0, x.shape[1])
        else:
            columns, valid = self._named(run, self.selection.positions)
        if not bool(valid.any()) and (self.where is not None or self.selection.positions is not None):
            return x, False
        value, valid = self._aligned(run, x, columns, valid)
        columns = columns.clamp(0, x.shape[1] - 1)
        whole = self.selection.positions is None and bool(valid.all())
        part = x if whole else take(x, columns)
        new = self._on_channels(part, value)
        if whole:
            return new, True
        rows = torch.arange(len(x), device=x.device)[:, None].expand_as(columns)
        return x.index_put((rows[valid], columns[valid]), new[valid]), bool(valid.any())

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        """Edit a state `x` (B, ...) that stands at one packed column; also whether any row was touched."""
        if self.selection.positions is None:
            columns, valid = self._whole(run, column, column + 1)
        else:
            columns, valid = self._named(run, self.selection.positions)
            valid = valid & (columns == column)
        if not bool(valid.any()) and (self.where is not None or self.selection.positions is not None):
            return x, False
        value, valid = self._aligned(run, x[:, None], columns, valid)
        for p in range(columns.shape[1]):  # one row's position may stand elsewhere in the list than another's
            rows = valid[:, p]
            if bool(rows.any()):
                here = value[:, p : p + 1] if value is not None and value.shape[1] > 1 else value
                new = self._on_channels(x[:, None], here)[:, 0]
                x = torch.where(rows.view(-1, *[1] * (x.ndim - 1)), new, x)
        return x, bool(valid.any())

    def columns(self, run: Run) -> list[int] | None:
        """Packed columns at which the edit acts in any row of this call, ascending; None: at all of them."""
        if self.selection.positions is not None:
            column, valid = run.positions(self.selection.positions)
        elif self.where is not None:
            column, valid = self._whole(run, 0, run.width)
        else:
            return None
        return sorted(set(column[valid].tolist()))

    def _whole(self, run: Run, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Packed columns (B, stop - start), and at which of them to act: real tokens that the mask names."""
        columns = torch.arange(start, stop, device=run.lengths.device).expand(len(run.lengths), -1)
        valid = columns < run.lengths[:, None]
        if self.where is not None:
            valid = valid & acts_in_call(f"edit {self}", self.where, self.beyond, run, columns)
        return columns, valid

    def _named(self, run: Run, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Packed columns (B, P) of the positions, and at which of them to act: those of this call, each once."""
        columns, valid = run.positions(positions)
        return columns, first_mentions(columns, valid)

    def apply_beginning(self, run: Run, begins: Tensor, x: Tensor) -> Tensor:
        """Edit `x` (B, C, ...), what texts begin with, in the rows that `begins` (B,) names."""
        value = self._value()
        if value is not None:
            value = self._of_call(run, self._with_axes_of(x, value.to(device=x.device, dtype=x.dtype)))
            value = self._checked(value[:, None], x[:, None], 1)
        new = self._on_channels(x[:, None], value)[:, 0]
        return torch.where(begins.view(-1, *[1] * (x.ndim - 1)), new, x)

    def apply_constant(self, x: Tensor) -> Tensor:
        """Edit `x` (C, ...), which has no batch and time axes: a number or a tensor that broadcasts against it."""
        value = self._value()
        if value is not None:
            value = self._with_axes_of(x, value.to(device=x.device, dtype=x.dtype))
            value = self._checked(value[None, None], x[None, None], 1)
        return self._on_channels(x[None, None], value)[0, 0]

    def _on_channels(self, part: Tensor, value: Tensor | None) -> Tensor:
        channels = self.selection.channels
        if channels is None:
            return self.transform(part, value)
        index = torch.as_tensor(channels, device=part.device) % part.shape[2]
        new = self.transform(part.index_select(2, index), value).to(part.dtype)
        first = list({channel: i for i, channel in reversed(list(enumerate(index.tolist())))}.values())
        if len(first) < len(index):
            new, index = new[:, :, first], index[first]
        return part.index_copy(2, index, new)

    def _aligned(self, run: Run, x: Tensor, columns: Tensor, valid: Tensor) -> tuple[Tensor | None, Tensor]:
        """The edit's tensor as (B|1, P|1, C|1, ...), and `valid` cut to where it has an entry."""
        value = self._value()
        if value is None:
            return None, valid
        value = value.to(device=x.device, dtype=x.dtype if x.dtype.is_floating_point else None)
        value = self._with_axes_of(x, value)
        value = self._of_call(run, value)
        if value.shape[1] > 1 and self.selection.positions is None:  # a whole run: pick the time steps of this call
            if run.order is not None and value.shape[0] == len(x) and value.shape[1] == run.width:
                value = run.to_packed(value)
            absolute = columns + run.offset[:, None]
            valid = valid & (absolute < value.shape[1])
            rows = value.expand(len(x), *value.shape[1:]) if value.shape[0] == 1 else value
            value = take(rows, absolute.clamp(0, value.shape[1] - 1))
        return self._checked(value, x, columns.shape[1]), valid

    def _of_call(self, run: Run, value: Tensor) -> Tensor:
        """The entries of `value` (1 or B, ...) for the rows of this call, where some have left the batch."""
        if run.rows is not None and value.shape[0] > 1 and int(run.rows.max()) < len(value):
            return value.index_select(0, run.rows.to(value.device))
        return value

    def _with_axes_of(self, x: Tensor, value: Tensor) -> Tensor:
        """`value` with as many axes as the site's `x`, the missing ones in front."""
        missing = x.ndim - value.ndim
        if missing < 0:
            raise UsageError(
                f"{self}: a value of shape {tuple(value.shape)} has more axes than the site {tuple(x.shape)}"
            )
        return value.reshape((1,) * missing + tuple(value.shape))

    def _checked(self, value: Tensor, x: Tensor, n_positions: int) -> Tensor:
        n_channels = len(self.selection.channels) if self.selection.channels is not None else x.shape[2]
        target = (len(x), n_positions, n_channels, *x.shape[3:])
        if any(v not in (1, t) for v, t in zip(value.shape, target, strict=True)):
            raise UsageError(f"{self}: a value of shape {tuple(value.shape)} does not fit the selected part {target}")
        return value


def as_tensor(value: Value, what: str) -> Tensor:
    """`value`, called `what` in messages, as a tensor of real numbers. Raises UsageError where it is none."""
    # numbers are kept as float64 and cast to the site's dtype when applied, so that 0.1 stays 0.1 in a float64 model
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{what} must be a number, a tensor or a list of numbers, not {value!r}") from None
    if tensor.is_complex():
        raise UsageError(f"{what} must be real, not {tensor.dtype}")
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise UsageError(f"{what} contains values that are not finite")
    return tensor


def as_number(value: float, what: str) -> float:
    """`value`, called `what` in messages, as a float. Raises UsageError where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{what} must be a finite number, not {value!r}") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise UsageError(f"{what} must be a finite number, not {value!r}")
    return number


class _ByTensor(Edit):
    """An edit whose field `tensor_field` is a number or a tensor that broadcasts against the selected part."""

    tensor_field: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.tensor_field
        object.__setattr__(self, name, as_tensor(getattr(self, name), f"{type(self).__name__}: {name}"))

    def _value(self) -> Tensor:
        return getattr(self, self.tensor_field)

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        return self.combined(x, value)

    def combined(self, x: Tensor, value: Tensor) -> Tensor:
        raise UsageError(f"{type(self).__name__} does not say what it does with its tensor")


@dataclass(frozen=True, eq=False)
class Scale(_ByTensor):
    """x -> factor * x; `factor` is a number or a tensor that broadcasts."""

    kind: ClassVar[str] = "scale"
    tensor_field: ClassVar[str] = "factor"
    factor: Value

    def combined(self, x: Tensor, value: Tensor) -> Tensor:
        return x * value


@dataclass(frozen=True, eq=False)
class Add(_ByTensor):
    """x -> x + value."""

    kind: ClassVar[str] = "add"
    value: Value

    def combined(self, x: Tensor, value: Tensor) -> Tensor:
        return x + value


@dataclass(frozen=True, eq=False)
class Replace(_ByTensor):
    """x -> value."""

    kind: ClassVar[str] = "replace"
    value: Value

    def combined(self, x: Tensor, value: Tensor) -> Tensor:
        return value.expand_as(x)


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """x -> min(max(x, low), high); either bound may be None. Raises UsageError without any, and for low above high."""

    kind: ClassVar[str] = "clamp"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        low = None if self.low is None else as_number(self.low, "Clamp: low")
        high = None if self.high is None else as_number(self.high, "Clamp: high")
        if low is None and high is None:
            raise UsageError("Clamp: give low, high or both")
        if low is not None and high is not None and low > high:
            raise UsageError(f"Clamp: low {low} is above high {high}")

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        return x.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class ProjectOut(Edit):
    """x -> x - (x . u) u with u = direction / |direction|: removes one direction of the (selected) channels.

    Raises UsageError for the zero vector and a direction (C,) of another width.
    """

    kind: ClassVar[str] = "project_out"
    direction: Value

    def __post_init__(self) -> None:
        super().__post_init__()
        direction = as_tensor(self.direction, "ProjectOut: direction")
        if float(direction.norm()) == 0.0:
            raise UsageError("ProjectOut: the direction is the zero vector")
        object.__setattr__(self, "direction", direction)

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        features = x.shape[2:]
        direction: Tensor = self.direction  # type: ignore[assignment]
        if tuple(direction.shape) != tuple(features):
            raise UsageError(f"{self}: direction {tuple(direction.shape)} does not have the shape {tuple(features)}")
        unit = (direction / direction.norm()).to(device=x.device, dtype=x.dtype)
        axes = tuple(range(2, x.ndim))
        return x - (x * unit).sum(axes, keepdim=True) * unit


@dataclass(frozen=True, eq=False)
class Interpolate(_ByTensor):
    """x -> x + weight * (mean - x): moves a site towards a mean; weight 1 is mean ablation."""

    kind: ClassVar[str] = "interpolate"
    tensor_field: ClassVar[str] = "mean"
    mean: Value
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weight", as_number(self.weight, "Interpolate: weight"))

    def combined(self, x: Tensor, value: Tensor) -> Tensor:
        return x + self.weight * (value - x)
