"""Controls: recipes that differ from the one found in the one thing that is claimed to matter. One file each, found by
looking.

    @control("random")
    def random_channels(comparison: Comparison) -> Drawn: ...

A control gives its draws, all of which are answered on the same test questions in the same run, or the reason why it
cannot exist for this recipe, which stands in the result. The contract, checked by a test that runs over everything
registered: the draws differ from each other, more draws only add, the same seed gives the same ones, and each is a
recipe for the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.registry import Registry
from ..part import Part
from ..recipe import Recipe

if TYPE_CHECKING:
    from ...models import LanguageModel


class Activity(NamedTuple):
    """What a site did on the development texts, channel by channel (C,), float64: mean and variance over tokens."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Comparison:
    """What a control is made from. draws: how many at most. activity: of a site by its full name, None for one that
    has none, such as a state; search: the whole search repeated with answers dealt anew by a seed. None: not at hand,
    and the control says so."""

    recipe: Recipe
    model: LanguageModel
    draws: int
    seed: int
    activity: Callable[[str], Activity | None] | None = None
    search: Callable[[int], Recipe] | None = None

    def activity_at(self, site: str) -> Activity | None:
        """The activity of a site by its full name; None where it is not known."""
        return None if self.activity is None else self.activity(site)

    def activity_of(self, part: Part) -> Activity | None:
        """The activity of a part's site; in several layers their sum, since one part changes all of them alike. None
        where that of a layer is not known."""
        found = [self.activity_at(site) for site in part.full_sites()]
        known = [activity for activity in found if activity is not None]
        if len(known) < len(found):
            return None
        if len(known) == 1:
            return known[0]
        squares = torch.stack([activity.mean**2 for activity in known]).sum(0)
        return Activity(squares.sqrt(), torch.stack([activity.variance for activity in known]).sum(0))


class Drawn(NamedTuple):
    """The draws of a control, none where it cannot exist: then reason says why."""

    recipes: tuple[Recipe, ...]
    reason: str = ""


Control = Callable[[Comparison], Drawn]
CONTROLS: Registry[Control] = Registry("steering control", "control", f"{__name__}.controls")
control, control_names = CONTROLS.itself, CONTROLS.names


def control_recipes(names: Sequence[str], comparison: Comparison) -> dict[str, Drawn]:
    """Control name -> its draws, in the order of `names`.

    Raises UsageError for fewer draws than 1 and a control that is none.
    """
    if comparison.draws < 1 and names:
        raise UsageError(f"a control needs at least 1 draw, not {comparison.draws}; to run none say --controls none")
    return {name: CONTROLS.get(name)(comparison) for name in names}
