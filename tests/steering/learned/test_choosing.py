"""Ways to learn are chosen by examples that were not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from mplat.core.errors import UsageError
from mplat.steering.learned import Example, choose
from mplat.steering.learned.descent import Descent

EXAMPLES = [Example(f"question {i}", f" answer {i}") for i in range(11)]


class Learned(NamedTuple):
    descent: Descent


class Learning:
    """Loses nothing on what it has seen; on the rest what its setting says, from the example's number."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, frozenset[str], tuple[str, ...]]] = []

    def __call__(self, examples: Sequence[Example], development: Sequence[Example], /, **setting: Any) -> Learned:
        known = frozenset(example.prompt for example in examples)
        self.seen.append((setting["worth"], known, tuple(example.prompt for example in development)))
        losses = tuple(
            0.0 if example.prompt in known else setting["worth"] * (1 + int(example.prompt.split()[1]))
            for example in development
        )
        return Learned(Descent((), (), 0, losses, 0))


def test_the_setting_of_the_lowest_loss_on_unseen_examples_is_chosen() -> None:
    learning = Learning()
    chosen = choose([{"worth": 0.3}, {"worth": 0.1}, {"worth": 0.1}], learning, EXAMPLES, folds=3)
    assert chosen.setting == {"worth": 0.1}
    # every example once, none of which was learned from: a mean over 1 to 11
    assert chosen.losses == pytest.approx((0.3 * 6, 0.1 * 6, 0.1 * 6))
    for worth, settings in ((0.3, 1), (0.1, 2)):
        its = [(known, judged) for value, known, judged in learning.seen if value == worth]
        judged = [prompt for _, part in its for prompt in part]
        assert sorted(judged) == sorted([example.prompt for example in EXAMPLES] * settings)
        assert all(not known & set(part) and len(known) + len(part) == 11 for known, part in its)


def test_the_seed_decides_the_parts() -> None:
    parts = []
    for seed in (0, 0, 1):
        learning = Learning()
        choose([{"worth": 1.0}], learning, EXAMPLES, folds=3, seed=seed)
        parts.append([part for _, _, part in learning.seen])
    assert parts[0] == parts[1] != parts[2]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no setting"):
        choose([], Learning(), EXAMPLES)
    with pytest.raises(UsageError, match="2 examples cannot be cut into 3 parts"):
        choose([{"worth": 1.0}], Learning(), EXAMPLES[:2])
