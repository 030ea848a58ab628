"""A recipe: an ordered list of parts that says how one model is steered, as one value and one file.

A recipe belongs to the model it was found on: `check` refuses a model with another digest, a layer that does not exist
or a channel that does not, before anything is computed. A recipe whose parts are all at the strength that changes
nothing is the identity, which evaluations use to compute nothing twice. On disk it is JSON, with its tensors in a
safetensors file beside it; reading one runs no code. Files of the first format, one operator at one layer, are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .layout import Layout
from .part import Part

if TYPE_CHECKING:
    from ..models import Edit, LanguageModel


@dataclass(frozen=True)
class Recipe:
    """parts: in the order they act; none leaves the model as it is. model_digest: the only model it is for. name: what
    it is called, such as the variant it was found with. seed: of the search. made_from: digests of what it was made of,
    by what that is; `questions` are those on which it was found (`datasets.prompting.asked_before`).

    Raises UsageError for parts that are none."""

    parts: tuple[Part, ...]
    model_digest: str
    name: str = ""
    seed: int = 0
    made_from: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def is_identity(self) -> bool:
        """Whether steering with it changes nothing."""
        return all(part.is_identity for part in self.parts)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name everything it does to which model."""
        text = ",".join([self.model_digest, *(part.digest for part in self.parts)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def decided_on(self) -> tuple[str, ...] | None:
        """Digests of the questions on which it was found; None where that is not known."""
        found = self.made_from.get("questions")
        return None if found is None else tuple(found)

    @property
    def operators(self) -> list[str]:
        """The operators of its parts, each once, in their order."""
        return list(dict.fromkeys(part.operator for part in self.parts))

    @property
    def sites(self) -> list[str]:
        """The full names of the sites that its parts act on, each once, in their order."""
        return list(dict.fromkeys(site for part in self.parts for site in part.full_sites()))

    @property
    def positions(self) -> list[str]:
        """The words for positions that its parts use, without `all`."""
        words = {part.positions for part in self.parts if not part.is_identity and isinstance(part.positions, str)}
        return sorted(words - {"all"})

    def edits(self, model: LanguageModel, layouts: Sequence[Layout] | None = None) -> list[Edit]:
        """What `model.edit(*recipe.edits(model))` applies; see `Part.edits`."""
        return [edit for part in self.parts for edit in part.edits(model, layouts)]

    def everywhere(self) -> Recipe:
        """The same at every position and in every phase, for texts that are no prompts."""
        parts = tuple(dataclasses.replace(part, positions="all", phase="both") for part in self.parts)
        return dataclasses.replace(self, parts=parts)

    def scaled(self, share: float) -> Recipe:
        """The same with the distance of every strength from its identity multiplied: 0 is the identity, 1 the same.

        Raises UsageError where a strength leaves what its operator allows.
        """
        from .units import unit_called

        def moved(part: Part) -> Part:
            identity = unit_called(part.unit).identity
            return part.at(identity + share * (part.strength - identity))

        return dataclasses.replace(self, parts=tuple(moved(part) for part in self.parts))

    def check(self, model: LanguageModel) -> None:
        """Raise InputError where this recipe is not for `model`."""
        if model.digest != self.model_digest:
            dtype = str(model.dtype).removeprefix("torch.")  # rounded weights are another model
            raise InputError(
                f"the recipe was found on the model with digest {self.model_digest[:12]}, and {model.name} in {dtype} "
                f"has {model.digest[:12]}; find one for this model in this dtype with `mplat steer discover`"
            )
        for part in self.parts:
            part.check(model)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values that hold the tensors too, for a process elsewhere."""
        from .recipe_files import inline

        return inline(self)

    @classmethod
    def from_dict(cls, values: Any, *, source: str) -> Recipe:
        """The inverse of `to_dict`, also of a recipe of the first format; InputError naming `source` for anything
        else."""
        from .recipe_files import parse

        return parse(values, {}, source)

    def save(self, path: str | Path) -> Path:
        """Write the recipe as JSON in place of what may be there, its tensors in a .safetensors file of the same name.

        Raises UsageError where it cannot be written, ClusterError where the disk is full."""
        from .recipe_files import write

        return write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, model: LanguageModel | None = None) -> Recipe:
        """Read a recipe; with `model` it must be for that model. Raises InputError naming the file."""
        from .recipe_files import read

        recipe = read(Path(path))
        if model is not None:
            try:
                recipe.check(model)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return recipe


def one_part(operator: str, site: str, layer: int, channels: Sequence[int] | None, strength: float) -> Part:
    """A part at one layer, acting everywhere in the text: what searches over channels try."""
    return Part(operator, site, (layer,), strength, channels=None if channels is None else tuple(channels))


def site_width(model: LanguageModel, full_site: str) -> int | None:
    """Number of channels of a site, or None where the model has no such site."""
    for site in model.sites():
        if site.name == full_site:
            return int(site.channels)
    return None
