"""What a number of questions can find: against simulation, and the three questions against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.scoring.statistics import (
    groups_needed,
    minimum_detectable_effect,
    paired_difference,
    power,
    power_curve,
)


@pytest.mark.parametrize(
    ("n_groups", "size", "icc", "discordance", "difference"),
    [(200, 1, 0.0, 0.1, 0.06), (60, 4, 0.3, 0.3, 0.12), (60, 1, 0.0, 0.15, 0.1)],
)
def test_power_is_the_share_of_samples_in_which_the_difference_is_found(n_groups, size, icc, discordance, difference):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_groups), size)
    p = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    found = 0
    for repeat in range(400):
        own, common = (rng.choice([1, -1, 0], p=p, size=n) for n in (len(groups), n_groups))
        d = np.where(rng.random(len(groups)) < np.sqrt(icc), common[groups], own)
        a, b = np.maximum(d, 0), np.maximum(-d, 0)
        p_value = paired_difference(a, b, seed=repeat, groups=groups.tolist(), n_resamples=199).p
        assert p_value is not None
        found += p_value < 0.05
    expected = power(difference, n_groups, discordance=discordance, icc=icc, group_size=size)
    assert found / 400 == pytest.approx(expected, abs=0.09)


@given(st.integers(20, 2000), st.floats(0.05, 1.0), st.floats(0, 0.6), st.floats(1, 6), st.floats(0.5, 0.95))
def test_the_least_difference_that_is_found_needs_the_groups_it_was_asked_for(n, discordance, icc, size, wanted):
    how = {"discordance": discordance, "icc": icc, "group_size": size}
    least = minimum_detectable_effect(n, **how, power=wanted)
    if least is None:
        assert power(discordance, n, **how) < wanted
        return
    assert power(least, n, **how) >= wanted > power(0.98 * least, n, **how) - 1e-9
    needed = groups_needed(least, **how, power=wanted)
    assert needed is not None and needed <= n
    assert power(least, needed, **how) >= wanted


def test_more_questions_find_more_and_alike_ones_less():
    curve = power_curve([0.02, 0.05, 0.1], [50, 100, 400], discordance=0.2)
    assert (np.diff(curve, axis=0) > 0).all() and (np.diff(curve, axis=1) > 0).all()
    alone = minimum_detectable_effect(400, discordance=0.2)
    alike = minimum_detectable_effect(100, discordance=0.2, icc=0.5, group_size=4)
    assert alone is not None and alike is not None and alone < alike
    assert minimum_detectable_effect(100, discordance=0.2, icc=0.0, group_size=4) == alone
    assert minimum_detectable_effect(20, discordance=0.05) is None, "one change in twenty proves nothing"
    assert groups_needed(0.0, discordance=0.2) is None


def test_numbers_that_are_no_design_are_refused():
    with pytest.raises(UsageError, match="no more than that"):
        power(0.3, 50, discordance=0.2)
    with pytest.raises(UsageError, match="at least two"):
        power(0.1, 1, discordance=0.2)
    with pytest.raises(UsageError, match="must be shares"):
        power(0.1, 50, discordance=0.2, icc=1.5)
    with pytest.raises(UsageError, match="at least one"):
        minimum_detectable_effect(50, discordance=0.2, group_size=0.5)
    with pytest.raises(UsageError, match="power must"):
        minimum_detectable_effect(50, discordance=0.2, power=1.0)


def test_the_tables_in_the_documentation_are_what_these_functions_say():
    page = (Path(__file__).parents[2] / "docs" / "design" / "verdict-statistics.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    least = [row for row in rows if len(row) == 5 and row[0].isdigit()]
    chances = [row for row in rows if len(row) == 4 and row[0].isdigit()]
    assert len(least) == len(chances) == 6
    for n, *cells in least:
        found = [minimum_detectable_effect(int(n), discordance=share) for share in (0.05, 0.1, 0.2, 0.4)]
        assert cells == ["none" if size is None else f"{100 * size:.1f}" for size in found]
    for n, *cells in chances:
        assert cells == [f"{power(gain, int(n), discordance=0.15):.2f}" for gain in (0.02, 0.05, 0.1)]
