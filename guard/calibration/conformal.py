"""Thresholds and p-values from held-out in-distribution scores (split conformal prediction).

Let s_(1) <= ... <= s_(n) be the calibration scores and k = ceil((n + 1)(1 - alpha)). A new image that is exchangeable
with the calibration images has a score above s_(k) with probability at most (n + 1 - k) / (n + 1) <= alpha, whatever
the distribution of the scores. For one given calibration set the rate realised afterwards is itself random, with the
law Beta(n + 1 - k, k) when scores are continuous (ties only lower it); its exact 95 % interval is stored and shown.

Flags and p-values agree: p = (1 + #{s_i >= score}) / (n + 1), so every flagged image has p <= alpha. The converse
holds except in the gap between s_(k) and the threshold, in which no calibration score lies.

One threshold per predicted class, from the same quantile of each class's own scores, is in
`guard.calibration.by_class`.

Needs numpy only: an exported guard recalibrates without scipy. References: Vovk, Gammerman, Shafer, "Algorithmic
Learning in a Random World", 2005; Vovk, "Conditional validity of inductive conformal predictors", 2012.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..errors import CalibrationError
from ..manifest import Calibration

COVERAGE = 0.95  # of every interval here


def calibrate(scores: np.ndarray, *, alpha: float) -> Calibration:
    """The threshold that flags at most `alpha` of exchangeable in-distribution traffic.

    The threshold is not s_(k) itself but lies midway to the next larger calibration score: every t in
    [s_(k), s_(k+1)) flags the same calibration images and keeps the guarantee, and the middle is where the float
    rounding of another runtime cannot flip an image of the calibration set.

    Args:
        scores: (n,) ood_scores of in-distribution images that the classifier was not trained on.
        alpha: target false-alarm rate, in (0, 1) and at least 1 / (n + 1).

    Returns:
        `Calibration`, whose `threshold` is a float32 value.

    Raises:
        CalibrationError: alpha out of reach, no scores, or scores that are not finite numbers.
    """
    scores = _checked(scores)
    n = len(scores)
    k = reachable_rank(n, alpha)
    low, high = beta_interval(n + 1 - k, k)
    return Calibration(
        alpha=float(alpha),
        n=n,
        threshold=_threshold(scores, k),
        rate_low=low,
        rate_high=high,
        scores_base64=base64.b64encode(scores.astype("<f4").tobytes()).decode("ascii"),
    )


def check_spread(scores: np.ndarray) -> None:
    """Refuse scores (n,) that are all equal up to float32's rounding: they rank nothing, so no threshold on them is a
    guard. Some equal ones are no harm.

    Raises:
        CalibrationError: they are.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if len(scores) < 2 or not np.isfinite(scores).all():
        return
    low, high = float(scores.min()), float(scores.max())
    if high - low <= 2 * float(np.spacing(np.float32(max(abs(low), abs(high))))):
        raise CalibrationError(
            f"all {len(scores)} calibration images have the same ood_score, {high:.6g}: it tells nothing apart; check "
            "that the images differ and that the classifier's logits are logits, or use another score"
        )


def p_values(scores: np.ndarray, calibration: Calibration | None, labels: np.ndarray | None = None) -> np.ndarray:
    """(1 + #{calibration scores >= score}) / (n + 1) for each score: small = unlike the calibration images.

    Under a class-conditional calibration the calibration scores are those of the image's predicted class, or all of
    them where that class keeps the pooled threshold.

    Args:
        scores: (N,) ood_scores; compared as float32, like the calibration scores.
        calibration: of the guard that gave the scores; None for an uncalibrated one.
        labels: (N,) predicted classes; needed by a class-conditional calibration only.

    Returns:
        (N,) float64 in [1 / (n + 1), 1]; NaN where there is no calibration. A score that is NaN is above all others.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if calibration is None:
        return np.full(scores.shape, np.nan)
    p = _share_at_or_above(scores, calibration.scores)
    if calibration.class_conditional:
        if labels is None:
            raise CalibrationError("p-values of a class-conditional calibration need the predicted labels")
        for c in np.unique(labels):
            own = calibration.scores_by_class[c]
            if own is not None:
                p[labels == c] = _share_at_or_above(scores[labels == c], own)
    return p


def _share_at_or_above(scores: np.ndarray, calibration_scores: np.ndarray) -> np.ndarray:
    n = len(calibration_scores)
    return (1.0 + n - np.searchsorted(calibration_scores, scores, side="left")) / (n + 1)


def flag_count_interval(m: int, calibration: Calibration) -> tuple[int, int]:
    """Exact 95 % prediction interval of how many of `m` new in-distribution images the pooled threshold flags.

    The count is beta-binomial: binomial(m, rate) with rate ~ Beta(n + 1 - k, k). It covers both the luck of the
    calibration set and that of the m images, so it is wider than `Calibration.rate_low` .. `rate_high`.

    Args:
        m: images that are exchangeable with the calibration images, >= 0.

    Returns:
        (low, high), both included; at least 95 % of the probability lies between.
    """
    k = conformal_rank(calibration.n, calibration.alpha)
    return beta_binomial_interval(m, calibration.n + 1 - k, k)


def reachable_rank(n: int, alpha: float) -> int:
    """`conformal_rank`, where n calibration images support it.

    Raises:
        CalibrationError: alpha is not a share, or too small for n images.
    """
    if not 0 < alpha < 1:
        raise CalibrationError(
            "alpha must be between 0 and 1 (the share of in-distribution images that may be flagged; 5 % is 0.05), "
            f"got {alpha}"
        )
    k = conformal_rank(n, alpha)
    if k > n:
        raise CalibrationError(
            f"alpha={alpha} needs at least {smallest_n(alpha)} calibration images, got {n}; "
            + (f"give more images, or an alpha of at least {_round_up(1 / (n + 1))}" if n else "give some")
        )
    return k


def conformal_rank(n: int, alpha: float) -> int:
    """k = ceil((n + 1)(1 - alpha)), with alpha read as the decimal it was typed as.

    In floats 1000 * (1 - 0.059) comes out above 941, which would make k one too large.
    """
    return math.ceil((n + 1) * (1 - Fraction(str(float(alpha)))))


def beta_binomial_interval(m: int, a: float, b: float) -> tuple[int, int]:
    """Central 95 % interval, ends included, of a binomial(m, rate) count with rate ~ Beta(a, b).

    Raises:
        CalibrationError: m below 0.
    """
    return beta_binomial_sum_interval([(m, a, b)])


def beta_binomial_sum_interval(terms: Sequence[tuple[int, float, float]]) -> tuple[int, int]:
    """`beta_binomial_interval` of a sum of independent counts, each with its own (m, a, b)."""
    pmfs = [_beta_binomial_pmf(m, a, b) for m, a, b in terms if m]
    if len(pmfs) == 1:
        cdf = np.cumsum(pmfs[0])
    else:
        size = sum(len(pmf) - 1 for pmf in pmfs) + 1
        spectrum = np.prod([np.fft.rfft(pmf, size) for pmf in pmfs], axis=0) if pmfs else np.ones(1)
        cdf = np.cumsum(np.fft.irfft(spectrum, size).clip(0) if pmfs else spectrum)
    tail = (1 - COVERAGE) / 2
    return int(np.searchsorted(cdf, tail)), int(np.searchsorted(cdf, 1 - tail))


def _beta_binomial_pmf(m: int, a: float, b: float) -> np.ndarray:
    """(m + 1,) probabilities of 0 .. m."""
    if m < 0:
        raise CalibrationError(f"the number of images must be at least 0, got {m}")
    j = np.arange(m, dtype=np.float64)
    # log pmf(j + 1) - log pmf(j), summed up; normalising afterwards saves the gamma functions
    steps = np.log(m - j) - np.log1p(j) + np.log(j + a) - np.log(m - j - 1 + b)
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)])
    pmf = np.exp(log_pmf - log_pmf.max())
    shares: np.ndarray = pmf / pmf.sum()
    return shares


def beta_interval(a: float, b: float, coverage: float = COVERAGE) -> tuple[float, float]:
    """Central interval of Beta(a, b): the quantiles (1 - coverage) / 2 and (1 + coverage) / 2."""
    tail = (1 - coverage) / 2
    return _beta_quantile(tail, a, b), _beta_quantile(1 - tail, a, b)


def _beta_quantile(q: float, a: float, b: float) -> float:
    """Bisection on the distribution function, down to neighbouring floats."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _beta_cdf(middle, a, b) < q:
            low = middle
        else:
            high = middle
    return high


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 < x < 1, by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):  # converges fast only below the mean
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # Lentz's evaluation of 1 / (1 + d1 / (1 + d2 / (1 + ...)))
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(10_000):
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + numerator * d) or tiny)
        c = (1 + numerator / c) or tiny
        fraction *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return math.exp(log_front) * (fraction - 1) / a


def _threshold(scores: np.ndarray, k: int) -> float:
    """A float32 t with s_(k) <= t < the next larger distinct score; `scores` (n,) float32 in ascending order."""
    at = float(scores[k - 1])
    above = scores[np.searchsorted(scores, scores[k - 1], side="right") :]
    if len(above):
        middle = np.float32((at + float(above[0])) / 2)
        return float(middle) if middle < above[0] else at  # neighbouring float32 values have nothing between them
    # s_(k) is the largest: a hair above it, in the unit of the scores
    hair = max(1e-5 * (at - float(scores[0])), 16 * float(np.spacing(np.abs(scores[k - 1]))))
    return float(np.float32(min(at + hair, float(np.finfo(np.float32).max))))


def _checked(scores: np.ndarray) -> np.ndarray:
    """(n,) float32, ascending."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or len(scores) == 0:
        raise CalibrationError(f"calibration scores must be a non-empty list of numbers, got shape {scores.shape}")
    with np.errstate(over="ignore"):
        scores = np.sort(scores.astype(np.float32))
    bad = int(np.sum(~np.isfinite(scores)))
    if bad:
        raise CalibrationError(
            f"{bad} of {len(scores)} calibration scores are NaN or infinite as float32; "
            "a threshold needs finite scores: check the images and the score's options"
        )
    return scores


def smallest_n(alpha: float) -> int:
    """The smallest n with alpha >= 1 / (n + 1)."""
    return math.ceil(1 / Fraction(str(float(alpha)))) - 1


def _round_up(value: float) -> float:
    """Two significant digits, never below `value`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")
