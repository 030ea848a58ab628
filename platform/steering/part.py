"""One part of a recipe: an operator at a site of some layers, on what, how strongly, where in the text and when."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from ..core.errors import InputError, UsageError, suggest
from .layout import Layout, check_positions, mask
from .operators import Operator, Target, check_strength, find_operator, fitting
from .units import unit_called

if TYPE_CHECKING:
    from ..models import Edit, LanguageModel, Site

PHASES = ("both", "prefill", "decode")
Phase = Literal["both", "prefill", "decode"]


@dataclass(frozen=True, eq=False)
class Part:
    """operator: its name. site: what follows `blocks.{layer}.`; "" for the operator's only one. layers: none for a site
    outside of blocks, whose name is then the whole one.
    strength: in `unit`, by default the operator's first. channels: of the site, None for all. tensors, options: what
    the operator asks for. positions: a word of `layout.POSITIONS`, or numbers as edits take them. phase: when the edits
    act. scales: root mean square of the site in each layer, where `unit` is rms.

    Two parts are equal where their digests are. Raises UsageError where a field cannot be, whatever the model."""

    operator: str
    site: str
    layers: tuple[int, ...]
    strength: float
    unit: str = ""
    channels: tuple[int, ...] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positions: str | tuple[int, ...] = "all"
    phase: Phase = "both"
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        op = find_operator(self.operator)
        for name, value in (("unit", self.unit or op.units[0]), ("site", self.site or op.site)):
            object.__setattr__(self, name, value)
        if not op.takes(self.site):
            raise UsageError(f"operator {op.name} acts on {', '.join(op.sites)}, not on {self.site!r}")
        if self.unit not in op.units:
            raise UsageError(f"operator {op.name} has no unit {self.unit!r}; {suggest(self.unit, op.units)}")
        object.__setattr__(self, "strength", check_strength(self.strength, op.name))
        if isinstance(self.positions, str):
            check_positions(self.positions)
        elif not self.positions or any(type(n) is not int for n in self.positions):
            raise UsageError(f"positions of a part are a word or whole numbers, not {self.positions!r}")
        if self.phase not in PHASES:
            raise UsageError(f"there is no phase {self.phase!r}; {suggest(self.phase, PHASES)}")
        for what, numbers in (("layer", self.layers), ("channel", self.channels)):
            _check_numbers(what, numbers, self.operator)
        if self.channels is not None and not op.acts_on:
            raise UsageError(f"operator {op.name} acts on the whole of {self.site}: it takes no channels")
        _check_names("tensor", self.tensors, op.tensors, op.name)
        _check_names("option", self.options, op.options, op.name)
        if "gains" in self.tensors and self.unit != "share":
            raise UsageError(f"operator {op.name} with gains takes a share of them: its unit is 'share'")
        if self.unit == "share" and "gains?" in op.tensors and "gains" not in self.tensors:
            raise UsageError(f"operator {op.name} with unit 'share' needs gains, one for each channel")
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise UsageError(f"tensor {name!r} of operator {op.name} holds values that are not finite numbers")
        if self.unit == "rms" and (len(self.scales) != len(self.layers) or not all(s > 0 for s in self.scales)):
            raise UsageError("a strength in multiples of rms needs the site's rms in each layer (scales), above 0")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def of(self) -> Operator:
        """Its operator."""
        return find_operator(self.operator)

    @property
    def is_identity(self) -> bool:
        """Whether steering with it changes nothing."""
        return self.strength == unit_called(self.unit).identity

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name everything it does."""
        tensors = {name: _tensor_digest(t) for name, t in sorted(self.tensors.items())}
        text = json.dumps(self.described() | {"tensors": tensors}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def full_sites(self) -> list[str]:
        """The names of its sites in the model."""
        return [f"blocks.{layer}.{self.site}" for layer in self.layers] or [self.site]

    def at(self, strength: float) -> Part:
        """The same at another strength."""
        return dataclasses.replace(self, strength=strength)

    def edits(self, model: LanguageModel, layouts: Sequence[Layout] | None = None) -> list[Edit]:
        """What `model.edit` applies, none where the part changes nothing.

        layouts: of the prompts of the batch, in its order; needed where `positions` is not all. Raises UsageError
        without them, InputError where a prompt lacks what `positions` names or the part does not fit the model.
        """
        if self.is_identity:
            return []
        word = self.positions if isinstance(self.positions, str) else "all"
        if word != "all" and layouts is None:
            raise UsageError(f"steering at {self.positions} needs to be told where that is in each prompt (layouts)")
        where = None if layouts is None else mask(word, layouts)
        op, found = self.of, cast("list[Edit]", [])
        for i, site in enumerate(self.full_sites()):
            strength = self.strength * self.scales[i] if self.unit == "rms" else self.strength
            target = Target(
                model, self.layers[i] if self.layers else None, site, self.channels, strength, self.unit,
                {name: tensor.double() for name, tensor in self.tensors.items()}, self.options,
            )  # fmt: skip
            made = op.build(target)
            assert made, f"operator {op.name} made no edit"
            found += made
        for_when = [dataclasses.replace(edit, phase=self.phase) if self.phase != "both" else edit for edit in found]
        if isinstance(self.positions, tuple):
            return [dataclasses.replace(edit, positions=self.positions) for edit in for_when]
        if where is None:
            return for_when
        return [dataclasses.replace(edit, where=where.where, beyond=where.beyond) for edit in for_when]

    def check(self, model: LanguageModel) -> None:
        """Raise InputError where the part does not fit `model`."""
        sites = {site.name: site for site in model.sites()}
        if beyond := [layer for layer in self.layers if layer >= model.n_layers]:
            raise InputError(f"{model.name} has no layer {beyond[0]}; its layers are 0 to {model.n_layers - 1}")
        for name in self.full_sites():
            if name not in sites:
                raise InputError(
                    f"operator {self.operator} steers {name}, which {model.name} does not have; operators that fit "
                    f"it: {', '.join(fitting(model))}"
                )
            if not sites[name].editable:
                raise InputError(f"operator {self.operator} steers {name}, which can be read but not edited")
            if sites[name].constant and (self.positions != "all" or self.phase != "both"):
                raise InputError(f"{name} is the same for all tokens: it has neither positions nor phases")
            _check_widths(self, sites[name])
        felt = self.at(self._another_strength()) if self.is_identity else self
        try:  # what an operator refuses is refused before anything is computed
            dataclasses.replace(felt, positions="all").edits(model)
        except UsageError as error:
            raise InputError(str(error)) from error

    def described(self) -> dict[str, Any]:
        """Plain JSON values in the order of the fields, without the tensors."""
        return {
            "operator": self.operator,
            "site": self.site,
            "layers": list(self.layers),
            "strength": self.strength,
            "unit": self.unit,
            "channels": None if self.channels is None else list(self.channels),
            "options": dict(self.options),
            "positions": self.positions if isinstance(self.positions, str) else list(self.positions),
            "phase": self.phase,
            "scales": list(self.scales),
        }

    def _another_strength(self) -> float:
        op, identity = self.of, unit_called(self.unit).identity
        step = 1.0 if self.unit == "share" else 0.5  # of some changes there is the whole or nothing
        return identity + step if identity + step <= op.high else identity - step


def _check_numbers(what: str, numbers: tuple[int, ...] | None, name: str) -> None:
    if numbers is None:
        return
    if (not numbers and what != "layer") or any(type(n) is not int for n in numbers):
        raise UsageError(f"a part of operator {name} needs at least one {what}, as whole numbers")
    if min(numbers, default=0) < 0 or len(set(numbers)) != len(numbers):
        raise UsageError(f"a part of operator {name} has a {what} that is negative or given twice")


def _check_names(what: str, given: Mapping[str, Any], known: Mapping[str, str], name: str) -> None:
    words = {key.removesuffix("?") for key in known}
    for key in given:
        if key not in words:
            raise UsageError(f"operator {name} has no {what} {key!r}; {suggest(key, words)}")
    for key in known:
        if not key.endswith("?") and key not in given:
            raise UsageError(f"operator {name} needs the {what} {key!r}: {known[key]}")


def _check_widths(part: Part, site: Site) -> None:
    """Raise InputError where channels or tensors do not fit the site."""
    shape = site.axes
    width = site.channels
    if part.channels is not None and isinstance(width, int) and max(part.channels) >= width:
        raise InputError(f"the recipe steers channel {max(part.channels)} of {site.name}, which has {width}")
    n = width if part.channels is None else len(part.channels)
    sizes: dict[str, tuple[int | str, ...]] = {"n": (n,), "C": (width,), "...": shape[1:]}
    for name, axes in part.of.tensors.items():
        key = name.removesuffix("?")
        if key not in part.tensors or axes == "any":
            continue
        wanted = [size for axis in axes.split() for size in sizes.get(axis, ("k",))]
        got = tuple(part.tensors[key].shape)
        if len(got) != len(wanted) or any(isinstance(w, int) and w != g for w, g in zip(wanted, got, strict=True)):
            expected = ", ".join(map(str, wanted))
            raise InputError(
                f"tensor {key!r} of operator {part.operator} has shape {got}; {site.name} takes ({expected})"
            )


def _tensor_digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return hashlib.sha256(head + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
