"""The drift test by its definition: every score kept, every bet followed from each image where it can begin."""

from __future__ import annotations

import math
from collections.abc import Sequence


def urn_p_values(reference: Sequence[float], stream: Sequence[float], u: Sequence[float]) -> list[float]:
    """Scores without ties. Where an image falls among the reference is its cell; an image counts as level with those
    before it that fell into the same cell, whose one own ball is there from the beginning."""
    cells = [sum(r < s for r in reference) for s in stream]
    p = []
    for t, cell in enumerate(cells):
        above = sum(other > cell for other in cells[:t]) + (len(reference) - cell)
        level = 1 + sum(other == cell for other in cells[:t])
        p.append((above + u[t] * level) / (len(reference) + 1 + t))
    return p


def power(p: float, exponent: float) -> float:
    return exponent * p ** (exponent - 1)


def histogram(before: Sequence[float], p: float, bins: int, half_life: float) -> float:
    """The density at p that the p-values before it estimate, with half a count per bin."""
    weights = [0.5 ** ((len(before) - 1 - i) / half_life) for i in range(len(before))]
    inside = sum(w for w, q in zip(weights, before, strict=True) if int(q * bins) == int(p * bins))
    return bins * (inside + 0.5) / (sum(weights) + bins / 2)


def capital(p: Sequence[float], exponents: Sequence[float], bins: int, half_life: float) -> list[float]:
    """After each p-value: what every bet that began at every image has made of its stake, and what is not staked."""
    n = len(p)
    bets: list[list[float]] = [[power(q, e) for q in p] for e in exponents]
    bets += [[power(1 - q, e) for q in p] for e in exponents]
    bets += [[histogram(p[:t], p[t], bins, life) for t in range(n)] for life in (math.inf, half_life)]
    stakes = [0.5] + [0.5 / math.log(math.e + t - 1) - 0.5 / math.log(math.e + t) for t in range(1, n)]
    found = []
    for t in range(n):
        made = 0.0
        for densities in bets:
            for begin in range(t + 1):
                made += stakes[begin] / len(bets) * math.prod(densities[begin : t + 1])
        found.append(made + 1 - sum(stakes[: t + 1]))
    return found
