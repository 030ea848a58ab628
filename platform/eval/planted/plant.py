"""A plant: a shipped model with a known damage that hurts and can be undone.

    planted = find_plant("tiny-mamba:damaged").grow()
    with planted.applied():                     # where the damage is no change of weights; otherwise it changes nothing
        planted.model.generate(["..."])
        with planted.model.edit(*planted.undo()): ...

Everything follows from the plant's few fields and its seed; no weights are stored. A plant may be grown on a model
whose residual stream was turned first (`turned`): the answers are the same, and the loudest subspace of a mixer's
output has become channels, so that a damage of those channels really is a damage of what carries the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ...core.errors import UsageError
from ...datasets.facts import prompts
from ...models import load
from ...models.access.edits import Edit, Scale
from .choosing import hurting_channels
from .damages import in_weights
from .decoys import SITE as DECOYS_AT
from .decoys import plant_decoys
from .forced import forced_batches
from .turned import loudest_axes, turned

if TYPE_CHECKING:
    from ...models import LanguageModel

Kind = Literal["carrier", "damaged", "loud", "state_only", "convolution_only", "decoy"]
KINDS: dict[str, str] = {
    "carrier": "loud channels that carry the answer, undamaged: taking them away hurts",
    "damaged": "channels that carried the answer, made quiet by a factor",
    "loud": "channels that a factor made so loud that they drown the others",
    "state_only": "a factor that acts on what is written to or read from the recurrent state, and on nothing else",
    "convolution_only": "a factor on the taps of the short convolution alone",
    "decoy": "channels whose activity follows a carrier's, and which nothing reads",
}
PER_LEVEL = 12  # questions of each level on which a plant looks where its model is loud; no benchmark asks them
STREAM = "planting"


@dataclass(frozen=True)
class Plant:
    """name: unique. kind: of `KINDS`. model: a shipped one. site, layer: where it is damaged. count: how many channels.
    factor: on each of them, 1 in a carrier. seed: of everything drawn. turned: whether the residual stream is turned
    first, so that the channels are the loudest subspace; else they are those whose loss costs most."""

    name: str
    kind: Kind
    model: str
    site: str
    layer: int
    count: int
    factor: float
    seed: int = 0
    turned: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"plant {self.name}: {self.kind!r} is no kind; there are {', '.join(KINDS)}")
        if self.turned and self.site != "mixer_out":
            raise UsageError(f"plant {self.name}: turning makes channels of mixer_out, not of {self.site}")
        if self.kind == "decoy" and (self.site, self.factor) != (DECOYS_AT, 1):
            raise UsageError(f"plant {self.name}: decoys are channels of {DECOYS_AT}, and nothing is damaged")
        if self.factor == 0 or self.count < 1:
            raise UsageError(f"plant {self.name}: a damage needs a channel, and a factor that can be undone")

    @property
    def full_site(self) -> str:
        """The site's name in the model."""
        return f"blocks.{self.layer}.{self.site}"

    def grow(self) -> Planted:
        """The damaged model, the clean one, and the truth."""
        clean = load(self.model)
        batches = forced_batches(clean, prompts(PER_LEVEL, self.seed, stream=STREAM))
        if self.turned:
            axes = loudest_axes(clean, self.layer, self.count, batches, self.seed)
            clean, channels = turned(clean, axes.turn), axes.channels
        elif self.kind == "decoy":
            channels = plant_decoys(clean, self.layer, self.count, batches)
        else:
            channels = hurting_channels(clean, self.full_site, self.count, batches)
        damaged = copy.deepcopy(clean)
        held: tuple[Edit, ...] = ()
        if self.factor != 1 and not in_weights(damaged, self.site, self.layer, channels, self.factor):
            held = (Scale(self.full_site, self.factor, channels=channels),)
        damaged.name = f"{self.model} ({self.name})"
        return Planted(self, damaged, clean, channels, held)


@dataclass(frozen=True)
class Planted:
    """A plant that was grown. model: damaged. clean: what undoing must give. channels: the truth. held: edits that are
    the damage, where it is no change of weights."""

    plant: Plant
    model: LanguageModel
    clean: LanguageModel
    channels: tuple[int, ...]
    held: tuple[Edit, ...] = ()

    @contextmanager
    def applied(self) -> Iterator[LanguageModel]:
        """`model` with its damage in force."""
        with self.model.edit(*self.held):
            yield self.model

    def undo(self) -> list[Edit]:
        """The edits that restore the clean model; none where nothing was damaged."""
        if self.plant.factor == 1:
            return []
        return [Scale(self.plant.full_site, 1 / self.plant.factor, channels=self.channels)]

    @property
    def width(self) -> int:
        """How many channels the damaged site has."""
        return next(int(s.channels) for s in self.model.sites() if s.name == self.plant.full_site)

    @property
    def truth(self) -> torch.Tensor:
        """(C,) bool: which channels of the damaged site are the planted ones."""
        found = torch.zeros(self.width, dtype=torch.bool)
        found[list(self.channels)] = True
        return found
