"""Sites: the names of the tensors inside a forward pass, and the text form that selects part of one.

A selection is written `NAME[CHANNELS]@POSITIONS`, both suffixes optional and in either order:
`blocks.5.mixer.h@[3,-1]`, `blocks.*.mixer.delta`, `blocks.2.mixer_out[4,38]@-1`. `*` stands for any one part of a
name, so `blocks.*.mixer.delta` is one site per layer.

Positions count the real tokens of each sequence from 0, padding left out, so that padding never moves an edit;
negative ones count from the end of the sequence (in generation: of the prompt). Channels index the first axis after
(batch, time): for `mixer.h` (B, T, E, N) they select whole channels e with all their N coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...core.errors import UsageError, suggest


class Site(NamedTuple):
    """One site of a model.

    name: as used in captures and edits. shape: symbolic, e.g. ("B", "T", 256). dtype: e.g. "float32".
    readable, editable: what captures and edits may do. meaning: one sentence.
    """

    name: str
    shape: tuple[str | int, ...]
    dtype: str
    readable: bool
    editable: bool
    meaning: str

    @property
    def constant(self) -> bool:
        """Whether the site has no time axis: it is the same for all tokens, or what a text begins with."""
        return self.shape[:2] != ("B", "T")

    @property
    def initial(self) -> bool:
        """Whether the site is what a text begins with: it has the batch axis and no time axis."""
        return self.constant and self.shape[0] == "B"

    @property
    def axes(self) -> tuple[str | int, ...]:
        """The shape without batch and time: channels first."""
        return self.shape[1 if self.initial else 0 if self.constant else 2 :]

    @property
    def channels(self) -> str | int:
        """Size of the axis that channels index."""
        return self.axes[0]


@dataclass(frozen=True)
class Selection:
    """A parsed selection: a name (perhaps with `*`), positions and channels (None: all)."""

    name: str
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    def __str__(self) -> str:
        channels = "" if self.channels is None else f"[{','.join(map(str, self.channels))}]"
        positions = "" if self.positions is None else f"@[{','.join(map(str, self.positions))}]"
        return self.name + channels + positions


_SELECTION = re.compile(r"(?P<name>[A-Za-z0-9_.*]+)(?P<rest>.*)", re.S)
_SUFFIX = re.compile(r"\s*(?P<at>@)?\s*(?:\[(?P<list>[^\]]*)\]|(?P<one>-?\d+(?::-?\d+)?))\s*")


def _integers(text: str, whole: str) -> tuple[int, ...]:
    values: list[int] = []
    for part in text.split(","):
        bounds = part.strip().split(":")
        try:
            numbers = [int(b) for b in bounds]
        except ValueError:
            raise UsageError(f"site selection {whole!r}: {part.strip()!r} is not an integer or a range a:b") from None
        if len(numbers) > 2:
            raise UsageError(f"site selection {whole!r}: {part.strip()!r} is not an integer or a range a:b")
        if len(numbers) == 1:
            values.append(numbers[0])
            continue
        if numbers[0] < 0 or numbers[1] <= numbers[0]:
            raise UsageError(f"site selection {whole!r}: the range {part.strip()} is empty or starts below 0")
        values.extend(range(numbers[0], numbers[1]))
    return tuple(values)


def parse(text: str) -> Selection:
    """Parse `NAME[CHANNELS]@POSITIONS`. Raises UsageError showing the form that is expected."""
    form = "NAME, NAME@[3,-1], NAME[4,38] or NAME[4,38]@[3,-1]"
    match = _SELECTION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(f"site selection {text!r} is not of the form {form}")
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    rest = match["rest"]
    while rest:
        suffix = _SUFFIX.match(rest)
        if suffix is None or (not suffix["at"] and suffix["list"] is None):
            raise UsageError(f"site selection {text!r} is not of the form {form}; the part {rest!r} does not fit")
        values = _integers(suffix["list"] if suffix["list"] is not None else suffix["one"], text)
        if suffix["at"] and positions is None:
            positions = values
        elif not suffix["at"] and channels is None:
            channels = values
        else:
            raise UsageError(f"site selection {text!r} names its {'positions' if suffix['at'] else 'channels'} twice")
        rest = rest[suffix.end() :]
    return Selection(match["name"], positions, channels)


def merge(selection: Selection, positions: Sequence[int] | None, channels: Sequence[int] | None) -> Selection:
    """`selection` with positions and channels given as arguments; giving either in both places raises."""
    for label, inline, given in (
        ("positions", selection.positions, positions),
        ("channels", selection.channels, channels),
    ):
        if inline is not None and given is not None:
            raise UsageError(f"site {str(selection)!r}: {label} are given both in the name and as an argument")
    return Selection(
        selection.name,
        _as_tuple(positions, "positions") if positions is not None else selection.positions,
        _as_tuple(channels, "channels") if channels is not None else selection.channels,
    )


def _as_tuple(values: Sequence[int] | int, label: str) -> tuple[int, ...]:
    try:
        items = (values,) if isinstance(values, int) else tuple(int(v) for v in values)
    except (TypeError, ValueError):
        raise UsageError(f"{label} must be integers, not {values!r}") from None
    if not items:
        raise UsageError(f"{label} is an empty list: leave it out to select all, or drop the edit")
    return items


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, in which `*` stands for exactly one dot-separated part (or a part of it)."""
    if "*" not in pattern:  # a model has hundreds of sites, and a capture may name all of them one by one
        return pattern == name
    left, right = pattern.split("."), name.split(".")
    return len(left) == len(right) and all(
        re.fullmatch(re.escape(p).replace(r"\*", ".*"), part) is not None for p, part in zip(left, right, strict=True)
    )


def expand(selection: Selection, sites: Iterable[Site]) -> list[Site]:
    """The sites that `selection` names.

    Raises UsageError, listing what the model has, when the name fits none, and when a channel is out of range.
    """
    all_sites = list(sites)
    found = [s for s in all_sites if matches(selection.name, s.name)]
    if not found:
        layers = sorted({int(s.name.split(".")[1]) for s in all_sites if s.name.startswith("blocks.")})
        generic = {re.sub(r"^blocks\.\d+\.", "blocks.{i}.", s.name): None for s in all_sites}
        wanted = re.sub(r"^blocks\.(\d+|\*)\.", "blocks.{i}.", selection.name)
        if wanted in generic and layers:
            raise UsageError(f"no site {selection.name!r}: this model has layers {layers[0]} to {layers[-1]}")
        raise UsageError(f"no site {selection.name!r} in this model; {suggest(wanted, generic, limit=40)}")
    for site in found:
        if site.constant and selection.positions is not None:
            why = "it is there before the first token" if site.initial else "it is the same for all tokens"
            raise UsageError(f"site {site.name!r} has no positions: {why}")
        width = site.channels
        for channel in selection.channels or ():
            if isinstance(width, int) and not -width <= channel < width:
                raise UsageError(f"site {site.name!r} has channels 0 to {width - 1}; {channel} is out of range")
    return found
