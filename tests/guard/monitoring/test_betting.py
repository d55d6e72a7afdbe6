from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from guard.monitoring.betting import BETS, BINS, EXPONENTS, HALF_LIFE, bet, first_stakes, kept
from tests.references.drift import capital, histogram, power


@pytest.mark.parametrize("drawn", ["even", "small", "large", "middle"])
def test_the_capital_is_that_of_the_definition(drawn: str) -> None:
    p = np.random.default_rng(1).random(60)
    p = {"even": p, "small": p**3, "large": 1 - p**3, "middle": 0.4 + 0.2 * p}[drawn]
    stakes, bins = first_stakes(), np.zeros((2, BINS))
    cuts = (0, 1, 7, 40, 60)
    found = np.concatenate([bet(p[i:j], i, stakes, bins) for i, j in itertools.pairwise(cuts)])
    slow = capital(p.tolist(), EXPONENTS.tolist(), BINS, HALF_LIFE)
    np.testing.assert_allclose(np.exp(found), slow, rtol=1e-9)


def test_every_bet_is_a_density() -> None:
    for exponent in EXPONENTS:
        assert quad(power, 0, 1, args=(exponent,))[0] == pytest.approx(1, abs=1e-6)
    before = np.random.default_rng(2).random(50).tolist()
    grid = (np.arange(1000) + 0.5) / 1000
    assert np.mean([histogram(before, p, BINS, HALF_LIFE) for p in grid]) == pytest.approx(1)


def test_the_next_p_value_changes_the_capital_by_nothing_on_average() -> None:
    stakes, bins = first_stakes(), np.zeros((2, BINS))
    now = bet(np.random.default_rng(4).random(30) ** 1.5, 0, stakes, bins)[-1]
    # in u = p^0.1 and (1 - p)^0.1 the powers' poles are gone
    grid = (np.arange(800) + 0.5) / 800
    middle = 0.5**0.1
    p_low = (grid * middle) ** 10
    weight = 10 * (grid * middle) ** 9 * middle / len(grid)
    both = np.concatenate([p_low, 1 - p_low]).clip(1e-15, 1 - 1e-15)
    after = np.array([np.exp(bet(np.array([p]), 30, stakes.copy(), bins.copy())[0]) for p in both])
    assert (after * np.tile(weight, 2)).sum() == pytest.approx(np.exp(now), rel=3e-3)


def test_what_is_kept_bounds_the_capital_from_below() -> None:
    p = np.random.default_rng(5).random(20000)
    stakes, bins = first_stakes(), np.zeros((2, BINS))
    found = np.concatenate([bet(p[i : i + 200], i, stakes, bins) for i in range(0, len(p), 200)])
    assert (np.exp(found) >= kept(np.arange(len(p)))).all()
    assert kept(0) == 0.5
    assert kept(20000) > 0.05


def test_a_capital_beyond_every_float_stays_a_number() -> None:
    stakes, bins = first_stakes(), np.zeros((2, BINS))
    found = np.concatenate([bet(np.full(200, 1e-15), i * 200, stakes, bins) for i in range(20)])
    assert np.isfinite(found).all()
    assert found[-1] > 5000
    assert len(stakes) == BETS
