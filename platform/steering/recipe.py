"""A recipe: everything that says how one model is steered, as one frozen value and one JSON file.

A recipe belongs to the model it was found on: `check` refuses a model with another digest, a layer that does not
exist or a channel that does not, before anything is computed. Strength 1 is the identity, which evaluations use to
compute nothing twice. The file holds numbers and names only; reading one runs no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, UsageError, suggest
from ..core.json_files import Plain
from .operators import build, check_strength, find_operator

if TYPE_CHECKING:
    from ..models import Edit, LanguageModel

FORMAT = "mplat-recipe-1"


@dataclass(frozen=True)
class Recipe:
    """variant: for whom it was made. operator, layer, channels, strength: what it does. site: the operator's, for
    reading.
    seed: of the discovery that found it. model_digest: the only model it is for. decided_on: digests of the questions
    on which it was found (`datasets.asked_before`); None where that is not known.

    Raises UsageError for an operator that is none or acts elsewhere, a strength out of range, channels or a layer that
    cannot be."""

    variant: str
    operator: str
    site: str
    layer: int
    channels: tuple[int, ...]
    strength: float
    seed: int
    model_digest: str
    decided_on: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        expected = find_operator(self.operator).site
        if self.site != expected:
            raise UsageError(f"operator {self.operator} acts on {expected}, not on {self.site!r}")
        check_strength(self.strength)
        if not self.channels or min(self.channels) < 0 or len(set(self.channels)) != len(self.channels):
            raise UsageError("a recipe needs at least one channel, none of them negative or given twice")
        if self.layer < 0:
            raise UsageError(f"layer {self.layer} of a recipe is negative")

    @property
    def is_identity(self) -> bool:
        """Whether steering with it changes nothing."""
        return self.strength == 1.0

    @property
    def channels_digest(self) -> str:
        """16 hexadecimal digits that name the set of channels."""
        return hashlib.sha256(",".join(map(str, sorted(self.channels))).encode()).hexdigest()[:16]

    @property
    def full_site(self) -> str:
        """The site's name in the model."""
        return f"blocks.{self.layer}.{self.site}"

    def edits(self) -> list[Edit]:
        """What `model.edit(*recipe.edits())` applies."""
        return build(self.operator, self.layer, self.channels, self.strength)

    def check(self, model: LanguageModel) -> None:
        """Raise InputError where this recipe is not for `model`."""
        if model.digest != self.model_digest:
            raise InputError(
                f"the recipe was found on the model with digest {self.model_digest[:12]}, and {model.name} has "
                f"{model.digest[:12]}; find one for this model with `mplat eval`"
            )
        width = site_width(model, self.full_site)
        if width is None:
            raise InputError(f"the recipe steers {self.full_site}, which {model.name} does not have")
        if max(self.channels) >= width:
            raise InputError(f"the recipe steers channel {max(self.channels)} of {self.full_site}, which has {width}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields; without `decided_on` where that is not known."""
        values = {"format": FORMAT, **dataclasses.asdict(self), "channels": list(self.channels)}
        decided_on = values.pop("decided_on")
        return values if decided_on is None else values | {"decided_on": list(decided_on)}

    @classmethod
    def from_dict(cls, values: Any, *, source: str) -> Recipe:
        """The inverse of `to_dict`; InputError naming `source` for anything else."""
        recorded: Plain = values
        if not isinstance(recorded, dict) or recorded.get("format") != FORMAT:
            raise InputError(f"{source}: not a steering recipe of format {FORMAT}")
        content: dict[str, Any] = {k: v for k, v in recorded.items() if k not in ("format", "decided_on")}
        decided_on = recorded.get("decided_on")
        if decided_on is not None and not (
            isinstance(decided_on, list) and all(isinstance(d, str) for d in decided_on)
        ):
            raise InputError(f"{source}: decided_on must be a list of digests of questions")
        kinds: dict[str, type | tuple[type, ...]] = {
            "variant": str, "operator": str, "site": str, "layer": int, "channels": list, "strength": (int, float),
            "seed": int, "model_digest": str,
        }  # fmt: skip
        for name in content:
            if name not in kinds:
                raise InputError(f"{source}: unknown key {name!r}; {suggest(name, kinds)}")
        for name, kind in kinds.items():
            if not isinstance(content.get(name), kind) or isinstance(content[name], bool):
                raise InputError(f"{source}: {name} is missing or has the wrong type ({content.get(name)!r})")
        if not all(isinstance(c, int) and not isinstance(c, bool) for c in content["channels"]):
            raise InputError(f"{source}: channels must be whole numbers")
        content["channels"], content["strength"] = tuple(content["channels"]), float(content["strength"])
        content["decided_on"] = None if decided_on is None else tuple(decided_on)
        try:
            return cls(**content)
        except UsageError as error:
            raise InputError(f"{source}: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write the recipe as JSON in place of what may be there. Raises UsageError where it cannot be written,
        ClusterError where the disk is full."""
        from ..core.whole_files import publish_json

        publish_json(self.to_dict(), Path(path))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, model: LanguageModel | None = None) -> Recipe:
        """Read a recipe; with `model` it must be for that model. Raises InputError naming the file."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from error
        recipe = cls.from_dict(values, source=str(path))
        if model is not None:
            try:
                recipe.check(model)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return recipe


def site_width(model: LanguageModel, full_site: str) -> int | None:
    """Number of channels of a site, or None where the model has no such site."""
    for site in model.sites():
        if site.name == full_site:
            return int(site.channels)
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
