"""What the test questions of a plan can find, before anything is spent on asking them.

How many answers a steering will change, and how alike those of one document are, is not known before. So the smallest
detectable gain is said for several shares of changed answers, with an assumed correlation within groups.

A pure function of questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..datasets.records import Question
from ..scoring.statistics import minimum_detectable_effect

CHANGED = (0.05, 0.1, 0.2, 0.4)  # shares of answers that change
ICC = 0.25  # assumed: how alike the changes within a document are
POWER = 0.8


@dataclass(frozen=True)
class Detectable:
    """questions in groups; gains: share of changed answers -> the least difference in exact match that is found with
    the chance `power`, None where none is."""

    questions: int
    groups: int
    icc: float
    power: float
    gains: dict[float, float | None]


def detectable(test: Sequence[Question], *, alpha: float) -> Detectable:
    """What `test` can find at the level alpha, against one other condition. Fewer than two groups find nothing.

    Raises UsageError for an alpha outside 0 to 1.
    """
    asked = len({question.original for question in test})
    groups = len({question.origin for question in test})
    gains: dict[float, float | None] = dict.fromkeys(CHANGED)
    if groups > 1:
        size = asked / groups
        for share in CHANGED:
            gains[share] = minimum_detectable_effect(
                groups, discordance=share, icc=ICC, group_size=size, alpha=alpha, power=POWER
            )
    return Detectable(asked, groups, ICC, POWER, gains)


def in_words(found: Detectable) -> str:
    """One line of a plan."""
    kept = [(share, gain) for share, gain in found.gains.items() if gain is not None]
    of = f"{found.questions} test questions in {found.groups} groups"
    if not kept:
        return f"power: {of} are too few to find any gain; ask more"
    gains = ", ".join(f"{100 * gain:.1f} points if {100 * share:.0f} %" for share, gain in kept)
    often = f"{100 * found.power:.0f} % of the time"
    return f"power: {of} find a gain in exact match of {gains} of the answers change, {often}"
