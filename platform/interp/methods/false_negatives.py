"""How many of the edges that an attribution ranked low may matter after all: a bound from cutting a random few.

An attribution is a slope, and what it overlooks it overlooks silently. So some of the low-ranked edges are drawn at
random and cut one by one (the idea of AtP*'s diagnostics, Kramár et al., arXiv 2403.00745, section 4.3, for counts in
place of the largest effect). With x of n drawn edges mattering, of N low-ranked ones at most

    K = max { K : P(X <= x) > 1 - confidence, X hypergeometric(N, K, n) }

matter, at that confidence: exact, one-sided (Clopper and Pearson's construction for a finite population). Where all are
drawn it is what was counted.
"""

from __future__ import annotations

from math import comb

from ...core.errors import UsageError


def upper_count(population: int, drawn: int, hits: int, confidence: float = 0.95) -> int:
    """K above. Raises UsageError for numbers that do not fit each other, and a confidence not between 0 and 1."""
    if not 0 <= hits <= drawn <= population or not 0 < confidence < 1:
        raise UsageError(f"{hits} hits of {drawn} drawn of {population} at confidence {confidence}: they do not fit")
    if not drawn:
        return population
    ways = comb(population, drawn)
    largest = hits
    for K in range(hits, population - (drawn - hits) + 1):
        below = sum(comb(K, x) * comb(population - K, drawn - x) for x in range(hits + 1) if x <= K)
        if below / ways > 1 - confidence:
            largest = K
    return largest
