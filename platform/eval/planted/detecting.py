"""What the detectors of `mplat.steering` make of planted channels: found, missed, or claimed though they do nothing.

For a plant with k channels at a site with C: `precision` is the share of planted channels among the k that a detector
ranks first, `recall` the share of planted ones among its first 2 k; whoever guesses gets k / C and 2 k / C. Its *lift*
is (precision - k / C) / (1 - k / C): 0 is chance, 1 is perfect. A detector finds a plant at a lift of .5 or more, and
claims a decoy at one of .1 or more.

Where a damage stands behind the site in the weights (`damages`), the site's value is as it was and its gradient is
quiet; where it stands before it, it is the other way round. Detectors that look at one of the two alone see one of the
two cases.

`EXPECTED` says what each detector is for: which kinds it must find and which it must not claim. A detector looks at the
plant's own site; which site is the damaged one is for a search to find out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ...datasets.facts import prompts
from ...steering.answered import ask, batches
from ...steering.detectors import channels_of, detector_names, find_detector, observe
from .catalogue import find_plant
from .plant import Plant

FINDS, CLAIMS = 0.5, 0.1  # lifts


@dataclass(frozen=True)
class Expected:
    """Kinds of plants that a detector must find, and those that it must not claim; of the others nothing is asked."""

    must_find: tuple[str, ...] = ()
    must_not_claim: tuple[str, ...] = ()


#: a detector that is not named here is measured, and nothing is asked of it
EXPECTED: dict[str, Expected] = {
    "attribution_size": Expected(("carrier",), ("decoy",)),
    "attribution_t": Expected((), ("decoy",)),
    "cosine": Expected((), ("decoy",)),
    "gradient_norm": Expected(("damaged",), ("decoy",)),
    "mean_ablation": Expected(("carrier",), ("decoy",)),
    "quiet_but_heard": Expected(("damaged",), ("decoy",)),
    "variance": Expected(("carrier", "loud"), ()),
}


@dataclass(frozen=True)
class Detection:
    """A detector on a plant with the questions of a seed. planted, width: k and C. precision, recall: None where the
    site has no value per token and channel, and detectors see nothing. right_sign: of a signed detector, the share of
    planted channels whose sign says what undoes the damage; None for others and where nothing was damaged."""

    plant: str
    kind: str
    detector: str
    seed: int
    planted: int
    width: int
    precision: float | None
    recall: float | None
    right_sign: float | None = None

    @property
    def lift(self) -> float | None:
        """0 for chance, 1 for all planted channels first, negative for less than chance."""
        chance = self.planted / self.width
        return None if self.precision is None or chance == 1 else (self.precision - chance) / (1 - chance)

    @property
    def verdict(self) -> str:
        """finds, misses, claims or spares; "sees nothing" where there is nothing to see; with "as expected" or "against
        expectation" where something is expected."""
        if self.lift is None:
            return "sees nothing"
        expected = EXPECTED.get(self.detector, Expected())
        if self.kind == "decoy":
            said, good = ("claims", False) if self.lift >= CLAIMS else ("spares", True)
            asked = self.kind in expected.must_not_claim
        else:
            said, good = ("finds", True) if self.lift >= FINDS else ("misses", False)
            asked = self.kind in expected.must_find
        return f"{said}, {'as expected' if good else 'against expectation'}" if asked else said


def detect(
    plants: Iterable[str | Plant], *, seed: int = 0, per_level: int = 12, detectors: Iterable[str] | None = None
) -> list[Detection]:
    """Every detector (default: all registered) on every plant, at the plant's site.

    Raises UsageError for a plant or detector that is none, InputError where no question has finite scores.
    """
    names = list(detectors) if detectors is not None else detector_names()
    found: list[Detection] = []
    for plant in (find_plant(p) if isinstance(p, str) else p for p in plants):
        planted = plant.grow()
        seen = None
        if channels_of(planted.model, plant.full_site) is not None:
            asked = batches(ask(planted.model, prompts(per_level, seed, stream="planted-development")))
            with planted.applied() as model:
                seen = observe(model, asked, [plant.full_site])[plant.full_site]
        for name in names:
            about = (plant.name, plant.kind, name, seed, plant.count, planted.width)
            if seen is None:
                found.append(Detection(*about, None, None))
                continue
            detector = find_detector(name)
            order = detector.order(seen)
            hits = planted.truth[order]
            sign = None
            if detector.signed and abs(plant.factor) != 1:
                larger = detector(seen)[list(planted.channels)] > 0
                sign = float((larger == (abs(plant.factor) < 1)).double().mean())
            count = plant.count
            found.append(Detection(*about, _share(hits[:count], count), _share(hits[: 2 * count], count), sign))
    return found


def _share(hits: torch.Tensor, count: int) -> float:
    return float(hits.sum()) / count
