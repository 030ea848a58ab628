"""Finding a recipe: every operator x layer x strength of a grid is tried on the development questions, and one is
chosen.

The channels of a (site, layer) are found once, from the model's activity on the same development questions, and
shared by all strengths. The choice is a fixed rule: best mean exact match, then best mean F1, then the mildest
strength (smallest |log strength|), then the lowest layer, then the order of the grid. A candidate under which the
model's scores were not finite on any question cannot be chosen: leaving its failed rows out would reward it for
failing.

The whole table is kept, the losers too. Nothing here may see a test question, and nothing here is evidence: the chosen
candidate looks good because it was chosen. Running the model on the candidates is the caller's (`score`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ..core.errors import InputError, UsageError
from .operators import find_operator
from .recipe import Recipe, one_part, site_width

if TYPE_CHECKING:
    from ..models import LanguageModel

#: (site without layer, layer, number of channels) -> channels
FindChannels = Callable[[str, int, int], list[int]]

DISCOVERY_SCHEMA = pa.schema(
    [
        pa.field("candidate", pa.string(), nullable=False),
        pa.field("operator", pa.string(), nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("strength", pa.float64(), nullable=False),
        pa.field("channels", pa.list_(pa.int32()), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("n_failed", pa.int32(), nullable=False),
        pa.field("em", pa.float64()),
        pa.field("f1", pa.float64()),
        pa.field("em_unsteered", pa.float64()),
        pa.field("f1_unsteered", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("chosen", pa.bool_(), nullable=False),
    ]
)


#: where an operator that acts on many sites is tried
DEFAULT_SITES = {"scale_channels": "mixer_out"}


@dataclass(frozen=True)
class Scored:
    """What the development questions said about one candidate. n: answers scored; n_failed: scores not finite."""

    recipe: Recipe
    n: int
    n_failed: int
    em: float | None
    f1: float | None


def channel_count(width: int, share: float) -> int:
    """How many of `width` channels are steered: at least one, and never all where there is a choice.

    share: of the channels. Raises UsageError where it does not lie above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of steered channels must lie above 0 and be at most 1, not {share}")
    return max(1, min(round(width * share), width - 1))


@dataclass(frozen=True)
class Place:
    """Where an operator acts in a layer: its site, how many channels that has, and how many of them are steered."""

    operator: str
    site: str
    layer: int
    width: int
    count: int


def places(
    model: LanguageModel, operators: Iterable[str], layers: Sequence[int], channel_share: float
) -> Iterator[Place]:
    """Every operator in every layer. Raises UsageError for a site that a layer does not have."""
    for name in operators:
        site = DEFAULT_SITES.get(name, find_operator(name).site)
        for layer in layers:
            width = site_width(model, f"blocks.{layer}.{site}")
            if width is None:
                raise UsageError(
                    f"operator {name} steers {site} in layer {layer}, which {model.name} does not have; "
                    f"its layers are 0 to {model.n_layers - 1}"
                )
            yield Place(name, site, layer, width, channel_count(width, channel_share))


def grid(
    model: LanguageModel,
    *,
    variant: str,
    strengths: Mapping[str, Sequence[float]],
    layers: Sequence[int],
    channel_share: float,
    find_channels: FindChannels,
    seed: int,
) -> list[Recipe]:
    """Every candidate, operators in the order given, then layers, then strengths.

    strengths: factors, by operator. Raises UsageError as `places` does, and where there is no candidate.
    """
    recipes: list[Recipe] = []
    for place in places(model, strengths, layers, channel_share):
        channels = tuple(sorted(find_channels(place.site, place.layer, place.count)))
        recipes += [
            Recipe(
                (one_part(place.operator, place.site, place.layer, channels, float(strength)),),
                model.digest, variant, seed,
            )
            for strength in strengths[place.operator]
        ]  # fmt: skip
    if not recipes:
        raise UsageError("the discovery grid is empty; give at least one operator, one layer and one strength")
    return recipes


def ranked(scored: Sequence[Scored]) -> list[Scored]:
    """The candidates that may be chosen, best first."""
    able = [s for s in scored if s.n > 0 and s.n_failed == 0 and s.em is not None]
    return sorted(able, key=_preference)


def choose(scored: Sequence[Scored]) -> Scored:
    """The best candidate; InputError where there is none."""
    order = ranked(scored)
    if not order and all(s.n == 0 for s in scored):
        raise InputError(
            f"not one development question could be scored under any of the {len(scored)} steering candidates; "
            "look at the status and reason of the rows, or give other questions"
        )
    if not order:
        raise InputError(
            f"under each of the {len(scored)} steering candidates the model's scores were not finite on some "
            "development question; try milder strengths with --strength"
        )
    return order[0]


def discovery_table(
    scored: Sequence[Scored], names: Sequence[str], unsteered: tuple[float | None, float | None]
) -> pa.Table:
    """All candidates in grid order, with their rank; `names` are their conditions, `unsteered` is (EM, F1)."""
    order = ranked(scored)
    rows = [
        {
            "candidate": name,
            "operator": s.recipe.parts[0].operator,
            "site": s.recipe.parts[0].site,
            "layer": s.recipe.parts[0].layers[0],
            "strength": s.recipe.parts[0].strength,
            "channels": list(s.recipe.parts[0].channels or ()),
            "n": s.n,
            "n_failed": s.n_failed,
            "em": s.em,
            "f1": s.f1,
            "em_unsteered": unsteered[0],
            "f1_unsteered": unsteered[1],
            "rank": order.index(s) + 1 if s in order else None,
            "chosen": bool(order) and s is order[0],
        }
        for name, s in zip(names, scored, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=DISCOVERY_SCHEMA)


def _preference(s: Scored) -> tuple[float, float, float, int]:
    assert s.em is not None
    f1 = -math.inf if s.f1 is None else s.f1
    part = s.recipe.parts[0]
    return (-s.em, -f1, abs(math.log(part.strength)), part.layers[0])
