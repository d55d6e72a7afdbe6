"""Bet against uniform p-values: a capital of 1 that is a test martingale, so that it rarely grows by luck.

A bet is a density f on [0, 1], chosen before p is seen: f >= 0 with integral 1. The capital is multiplied by f(p), and
for uniform p its expectation stays what it was. By Ville's inequality (1939)

    P(capital ever reaches 1 / alpha) <= alpha.

Bets, each a share of the capital:
    power, small p    e p^(e - 1)            too many strange images; e in `EXPONENTS`
    power, large p    e (1 - p)^(e - 1)      too many ordinary ones, such as a camera that is stuck
    histogram         K (c_k + 1/2) / (c + K/2), k the bin of p, c_k its count so far (Krichevsky & Trofimov 1981): any
                      other shape; once with all earlier p-values, once with those of late (`HALF_LIFE`)

Traffic drifts after a good while, when a bet made on day one has long been lost. So the stake goes in by and by: half
at the start, and 1/2 (1/ln(e + t - 1) - 1/ln(e + t)) after t images, spread over all bets. What is not staked yet is
kept, so the capital never falls below 1 / (2 ln(e + t)), and a change after a million images costs no more than the
logarithm of that. A mixture of martingales, over bets and over when they begin, is one. Everything is computed in
logarithms.

Sources: Vovk, Nouretdinov & Gammerman, "Testing exchangeability on-line", ICML 2003 (power martingales and their
mixture); Fedorova, Gammerman, Nouretdinov & Vovk, "Plug-in martingales for testing exchangeability on-line", ICML 2012
(a density estimated from earlier p-values); Volkhonskiy et al., "Inductive conformal martingales for change-point
detection", COPA 2017 (histogram bets; their p-values come from a fixed calibration set, `ranks` says why ours do not).
"""

from __future__ import annotations

import math

import numpy as np

EXPONENTS = np.array([0.3, 0.5, 0.7, 0.85, 0.95])
BINS = 10
HALF_LIFE = 200.0  # images after which a p-value counts half in the second histogram
BETS = 2 * len(EXPONENTS) + 2

_FADING = 0.5 ** (1 / HALF_LIFE)
_LOG_EXPONENTS = np.log(EXPONENTS)


def kept(t: np.ndarray | int) -> np.ndarray:
    """The share of the capital that is not staked yet after t images."""
    share: np.ndarray = 0.5 / np.log(math.e + np.asarray(t))
    return share


def first_stakes() -> np.ndarray:
    """(BETS,) logarithms of the capital on each bet before the first image."""
    return np.full(BETS, math.log(0.5 / BETS))


def bet(p: np.ndarray, t: int, log_stakes: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Bet on p-values in order.

    With L_i the sum of the logarithms of a bet's first i densities, what is on it after i + 1 of them is
    exp L_{i+1} (stake + sum_{j <= i} exp(-L_j) new stake_j): one running sum for all of them.

    Args:
        p: (N,) in (0, 1), N at most some hundreds.
        t: images before the first of them.
        log_stakes: (BETS,) float64, changed in place.
        bins: (2, BINS) float64 counts of earlier p-values, all and fading; changed in place.

    Returns:
        (N,) the logarithm of the capital after each.
    """
    low, high = np.log(p)[:, None], np.log1p(-p)[:, None]
    power = (_LOG_EXPONENTS + (EXPONENTS - 1) * low, _LOG_EXPONENTS + (EXPONENTS - 1) * high)
    grown = np.hstack([*power, _histograms(p, bins)]).cumsum(0)
    times = t + np.arange(len(p))
    with np.errstate(divide="ignore"):  # nothing is added before the very first image
        new = np.log((kept(np.maximum(times - 1, 0)) - kept(times)) / BETS)[:, None]
    added = new - np.vstack([np.zeros(BETS), grown[:-1]])
    on_each = grown + np.logaddexp.accumulate(np.vstack([log_stakes, added]))[1:]
    log_stakes[:] = on_each[-1]
    largest = on_each.max(1)
    capital: np.ndarray = largest + np.log(np.exp(on_each - largest[:, None]).sum(1) + kept(times) * np.exp(-largest))
    return capital


def _histograms(p: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(N, 2) logarithms of the two histogram densities at p, each before p itself is counted."""
    n = len(p)
    at = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    seen = np.zeros((n + 1, BINS))
    seen[np.arange(n) + 1, at] = 1
    fade = _FADING ** np.arange(n + 1)[:, None]
    every = bins[0] + seen.cumsum(0)
    late = fade * (bins[1] + (seen / fade).cumsum(0))
    densities = [
        np.log(BINS * (counts[np.arange(n), at] + 0.5) / (counts[:-1].sum(1) + BINS / 2)) for counts in (every, late)
    ]
    bins[0], bins[1] = every[-1], late[-1]
    return np.stack(densities, 1)
