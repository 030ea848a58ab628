"""Controls: recipes that differ from the found one in the single thing that is claimed to matter. One file each.

    @control("random")
    def random_channels(recipe: Recipe, width: int, *, draws: int, seed: int) -> list[Recipe]: ...

A control gets the found recipe and the number of channels of its site and gives one recipe for each draw. They are
run in the same evaluation, on the same questions. "random" asks whether these channels matter: as many others, at the
same site, layer and strength.

Equal arguments give equal controls; draws are distinct, and more draws only add. Whether a control can be drawn as
often as asked depends on the site and the number of channels, never on which they are: so `check_controls` can say it
before a recipe is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ...core.errors import UsageError
from ...core.registry import Registry
from ..recipe import Recipe

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..discovery import Place

Control = Callable[..., list[Recipe]]
CONTROLS: Registry[Control] = Registry("steering control", "control", f"{__name__}.controls")
control, control_names = CONTROLS.itself, CONTROLS.names


def control_recipes(
    names: Sequence[str], recipe: Recipe, width: int, *, draws: int, seed: int
) -> dict[str, list[Recipe]]:
    """Control name -> its draws, in the order of `names`. width: channels of the recipe's site.

    Raises UsageError for fewer draws than 1 or more than can differ, and a control that is none.
    """
    if draws < 1 and names:
        raise UsageError(f"a control needs at least 1 draw, not {draws}; to run none say --controls none")
    return {name: CONTROLS.get(name)(recipe, width, draws=draws, seed=seed) for name in names}


def check_controls(names: Sequence[str], model: LanguageModel, sites: Iterable[Place], *, draws: int) -> None:
    """Raise UsageError where a recipe for one of `sites` could not have its controls `draws` times."""
    if not names:
        return
    for place in sites:
        channels = tuple(range(place.count))
        some = Recipe("any", place.operator, place.site, place.layer, channels, 1.0, 0, model.digest)
        control_recipes(names, some, place.width, draws=draws, seed=0)
