"""The planted model of a quickstart: a shipped one with a known damage, as a folder like that of any other model.

    planted = plant_into(config.plant, out / "models" / "planted-mamba2")
    planted.sentences()

Beside the weights stands `plant.json`: what was done to them. Analyses, search and evaluation read the folder as they
read any model's, and that file not. What the search found is compared with it afterwards.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, UsageError
from ..core.json_files import read_object
from ..core.versions import code_digest
from ..core.whole_files import publish_json

if TYPE_CHECKING:
    from ..eval.planted import Plant
    from ..steering import Recipe

PLANT = "plant.json"
_FORMAT = "mplat-plant-1"


@dataclass(frozen=True)
class PlantedModel:
    """A planted model in its folder. channels: of the plant's site, that are damaged. digest: of the damaged model."""

    plant: Plant
    folder: Path
    channels: tuple[int, ...]
    digest: str

    @property
    def damage(self) -> str:
        """What was done to which model, in a phrase."""
        plant = self.plant
        how = f"turned down {1 / plant.factor:g} times" if plant.factor < 1 else f"turned up {plant.factor:g} times"
        what = plant.full_site
        if plant.site == "mixer_out":
            what = f"what block {plant.layer} adds to the residual stream ({what})"
        return f"{plant.model} with {plant.count} channels of {what} {how}"

    def sentences(self) -> list[str]:
        """What was done to it, and that this is not told."""
        return [
            f"{self.folder.name} has a known damage: it is {self.damage}.",
            "Nothing of this is told to the search, which treats it like any other model.",
        ]

    def found(self, recipe: Recipe) -> str:
        """What of the damage `recipe` acts on, in a sentence."""
        at_site: set[int] = set()
        elsewhere: list[str] = []
        for part in recipe.parts:
            for site in part.full_sites():
                if site == self.plant.full_site and part.channels is not None:
                    at_site |= set(part.channels)
                else:
                    elsewhere.append(site)
        if not recipe.parts:
            return f"{self.folder.name}: the search left it as it is, and found none of the damaged channels."
        hits, others = len(at_site & {*self.channels}), len(at_site - {*self.channels})
        said = f"{hits} of the {len(self.channels)} damaged channels are among those that the search chose"
        said += f", and {others or 'no'} other{'' if others == 1 else 's'} of {self.plant.full_site}" if at_site else ""
        return f"{self.folder.name}: {said}{', and ' + ', '.join(elsewhere) if elsewhere else ''}."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON: the plant, the channels and the digest of the damaged model."""
        return {"plant": dataclasses.asdict(self.plant), "channels": list(self.channels), "digest": self.digest}


def check_plant(name: str) -> Plant:
    """The plant `name`. Raises UsageError for one that is none, that damages nothing, or whose damage is no change of
    weights, so that no folder can hold it."""
    from ..eval.planted import find_plant
    from ..eval.planted.damages import in_weights
    from ..models import load

    plant = find_plant(name)
    if plant.factor == 1:
        raise UsageError(f"plant {name}: nothing is damaged in it, so there is nothing to mend; name a damaged one")
    if not in_weights(load(plant.model), plant.site, plant.layer, [0], 1.0):
        raise UsageError(f"plant {name}: its damage is no change of weights, so no folder can hold it; name another")
    return plant


def plant_into(name: str, folder: Path) -> tuple[PlantedModel, bool]:
    """The planted model in `folder`, and whether it was there already: the same, made by this version."""
    from ..eval.price_texts import TRAINING
    from ..models import load
    from ..models.files.loading import resolve

    plant = check_plant(name)
    made_of = {"plant": dataclasses.asdict(plant), "model": load(plant.model).digest, "code": code_digest()}
    known = _read(folder, made_of)
    if known is not None:
        return PlantedModel(plant, folder, tuple(known["channels"]), known["digest"]), True
    if folder.exists():
        shutil.rmtree(folder)
    grown = plant.grow()
    grown.model.save(folder)
    if (trained := resolve(plant.model) / TRAINING).is_file():  # then both are priced on the same text
        shutil.copyfile(trained, folder / TRAINING)
    planted = PlantedModel(plant, folder, grown.channels, load(folder).digest)
    publish_json({"format": _FORMAT, "made_of": made_of} | planted.to_dict(), folder / PLANT)
    return planted, False


def _read(folder: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """What plant.json says where it and the weights are those of `made_of`; else None."""
    from ..models import load

    if not (folder / PLANT).is_file():
        return None
    try:
        known = read_object(folder / PLANT)
        same = known.get("format") == _FORMAT and known.get("made_of") == made_of
        return known if same and load(folder).digest == known["digest"] and known["channels"] else None
    except (InputError, KeyError):
        return None  # damaged, which growing it anew mends
