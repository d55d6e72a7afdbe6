"""Thresholds, p-values and intervals against scipy and against simulation."""

import numpy as np
import pytest
from scipy import stats

from guard.calibration.conformal import beta_interval, calibrate, conformal_rank, flag_count_interval, p_values
from guard.errors import CalibrationError
from guard.manifest import Calibration


def _calibration(n: int = 1000, alpha: float = 0.05, seed: int = 0) -> Calibration:
    return calibrate(np.random.default_rng(seed).normal(size=n), alpha=alpha)


# ------------------------------------------------------------------------------------------------- the threshold


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (19, 0.05, 19),
        (20, 0.05, 20),
        (39, 0.05, 38),
        (999, 0.05, 950),
        (1000, 0.05, 951),
        (9, 0.1, 9),
        (999, 0.059, 941),
        (249, 0.172, 207),
    ],
)
def test_the_rank_is_exact_where_floats_would_round_up(n: int, alpha: float, k: int) -> None:
    assert conformal_rank(n, alpha) == k


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (100, 0.05), (1000, 0.05), (1000, 0.001), (57, 0.3)])
def test_the_threshold_lies_midway_between_neighbouring_scores(n: int, alpha: float) -> None:
    scores = np.random.default_rng(n).gumbel(-12, 3, size=n).astype(np.float32)
    calibration = calibrate(scores, alpha=alpha)
    k = conformal_rank(n, alpha)
    ordered = np.sort(scores)
    assert (scores > np.float32(calibration.threshold)).sum() == n - k
    assert calibration.threshold == float(np.float32(calibration.threshold))
    if k < n:
        assert calibration.threshold == pytest.approx((float(ordered[k - 1]) + float(ordered[k])) / 2, abs=1e-6)
    else:
        assert ordered[-1] < calibration.threshold < ordered[-1] + 1e-3


def test_ties_at_the_threshold_are_not_flagged() -> None:
    calibration = calibrate(np.repeat(np.float32([0, 1, 2]), [50, 30, 20]), alpha=0.3)
    assert calibration.threshold == 1.5
    constant = calibrate(np.full(100, -3.0), alpha=0.05)
    assert -3.0 < constant.threshold < -3.0 + 1e-4
    zero = calibrate(np.zeros(100), alpha=0.05)
    assert 0 < zero.threshold < 1e-30


def test_neighbouring_float32_scores_stay_apart() -> None:
    low = np.float32(1.0)
    for _ in range(4):  # round-half-to-even goes up for every other pair
        high = np.nextafter(low, np.float32(2))
        threshold = np.float32(calibrate(np.repeat([low, high], [95, 5]), alpha=0.06).threshold)
        assert low <= threshold < high
        low = high


@pytest.mark.parametrize("scale", [1e-38, 1e-6, 1.0, 1e30, 3.4e38])
@pytest.mark.parametrize("n", [19, 100])
def test_the_threshold_is_finite_at_every_scale(scale: float, n: int) -> None:
    scores = (np.linspace(-1, 1, n) * scale).astype(np.float32)
    calibration = calibrate(scores, alpha=0.05)
    assert np.isfinite(np.float32(calibration.threshold))
    assert (scores > np.float32(calibration.threshold)).sum() == n - conformal_rank(n, 0.05)


def test_scores_survive_the_manifest() -> None:
    scores = np.random.default_rng(1).normal(size=200)
    calibration = calibrate(scores, alpha=0.1)
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    np.testing.assert_array_equal(again.scores, np.sort(scores.astype(np.float32)))
    assert again.n == 200
    assert again.alpha == 0.1


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, float("nan"), float("inf")])
def test_alpha_outside_zero_to_one_is_refused(alpha: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        calibrate(np.arange(100.0), alpha=alpha)


def test_too_few_images_name_the_smallest_n_and_alpha_that_work() -> None:
    with pytest.raises(CalibrationError, match=r"alpha=0.05 needs at least 19 .* got 18; .* at least 0\.053"):
        calibrate(np.arange(18.0), alpha=0.05)
    assert calibrate(np.arange(19.0), alpha=0.05).n == 19
    assert calibrate(np.arange(18.0), alpha=0.053).n == 18


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_scores_that_are_not_finite_float32_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="1 of 51 calibration scores"):
        calibrate(np.append(np.arange(50.0), bad), alpha=0.05)


@pytest.mark.parametrize("scores", [np.zeros(0), np.zeros((5, 5)), np.float32(3)])
def test_no_scores_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="non-empty list"):
        calibrate(scores, alpha=0.05)


# ------------------------------------------------------------------------------------------------------ p-values


def test_p_values_count_calibration_scores_at_or_above() -> None:
    calibration = calibrate(np.round(np.random.default_rng(2).normal(size=300), 1), alpha=0.05)
    scores = np.concatenate([calibration.scores, [-99, 99, 0.05, np.inf, -np.inf]])
    slow = [(1 + sum(calibration.scores >= np.float32(s))) / 301 for s in scores]
    np.testing.assert_array_equal(p_values(scores, calibration), slow)


def test_p_values_compare_in_float32() -> None:
    calibration = calibrate(np.float32([0.1] * 30), alpha=0.05)
    assert p_values(np.float32([0.1]), calibration) == 1.0
    assert p_values(np.float64([0.1000000001]), calibration) == 1.0


def test_p_values_without_calibration_are_nan_and_of_nan_the_smallest() -> None:
    assert np.isnan(p_values(np.zeros(3), None)).all()
    np.testing.assert_array_equal(p_values(np.array([np.nan, np.inf]), _calibration()), 1 / (_calibration().n + 1))
    assert p_values(np.zeros(0, np.float32), _calibration()).shape == (0,)


def test_a_flagged_image_has_a_p_value_of_at_most_alpha() -> None:
    for seed, alpha in enumerate([0.01, 0.05, 0.2]):
        calibration = _calibration(n=333, alpha=alpha, seed=seed)
        scores = np.random.default_rng(seed + 50).normal(size=20_000).astype(np.float32)
        flagged = scores > np.float32(calibration.threshold)
        p = p_values(scores, calibration)
        assert flagged.sum() > 50
        assert p[flagged].max() <= alpha
        kth = calibration.scores[conformal_rank(333, alpha) - 1]
        np.testing.assert_array_equal(p <= alpha, scores > kth)  # the converse, but for the gap below the threshold


def test_p_values_of_exchangeable_images_are_uniform() -> None:
    """P(p <= j / (n + 1)) = j / (n + 1) over calibration sets; 40,000 draws leave 0.0025 of noise at one sigma."""
    generator = np.random.default_rng(5)
    n, draws = 19, 40_000
    scores = generator.normal(size=(draws, n + 1)).astype(np.float32)
    p = (1 + (scores[:, :n] >= scores[:, n:]).sum(1)) / (n + 1)
    ours = [p_values(row[n:], calibrate(row[:n], alpha=0.05))[0] for row in scores[:300]]
    np.testing.assert_array_equal(ours, p[:300])
    for j in (1, 5, 10, 19):
        assert np.mean(p <= j / (n + 1) + 1e-12) == pytest.approx(j / (n + 1), abs=0.01)


# ----------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1), (1, 19), (50, 951), (2500, 47501), (1, 100_000), (999, 2), (500, 500), (20_000, 30_000), (0.5, 3)],
)
@pytest.mark.parametrize("coverage", [0.5, 0.95, 0.999])
def test_beta_quantiles_equal_scipy(a: float, b: float, coverage: float) -> None:
    expected = stats.beta.ppf([(1 - coverage) / 2, (1 + coverage) / 2], a, b)
    np.testing.assert_allclose(beta_interval(a, b, coverage), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (200, 0.05), (1000, 0.05), (10_000, 0.01)])
@pytest.mark.parametrize("m", [1, 7, 500, 10_000])
def test_flag_counts_equal_scipys_beta_binomial(n: int, alpha: float, m: int) -> None:
    k = conformal_rank(n, alpha)
    law = stats.betabinom(m, n + 1 - k, k)
    low, high = flag_count_interval(m, _calibration(n, alpha))
    assert (low, high) == tuple(law.ppf([0.025, 0.975]))
    assert law.cdf(high) - law.cdf(low - 1) >= 0.95


def test_flag_counts_of_no_images() -> None:
    assert flag_count_interval(0, _calibration()) == (0, 0)
    with pytest.raises(CalibrationError, match="at least 0"):
        flag_count_interval(-1, _calibration())


def test_a_thousand_images_hold_five_percent_within_three_point_seven_and_six_point_four() -> None:
    calibration = _calibration(n=1000, alpha=0.05)
    assert (round(calibration.rate_low, 3), round(calibration.rate_high, 3)) == (0.037, 0.064)


def test_realised_rates_follow_the_stored_law() -> None:
    """2,000 calibration sets of 1,000 uniform scores: the rate realised afterwards is exactly 1 - threshold.

    The threshold midway to the next score moves the rate down by half a rank, 0.0005. Of 2,000 sets, 95 % in the
    interval means 1,900 with a standard deviation of 10.
    """
    generator = np.random.default_rng(11)
    rates = np.array([1 - calibrate(generator.random(1000), alpha=0.05).threshold for _ in range(2000)])
    calibration = calibrate(generator.random(1000), alpha=0.05)
    inside = np.mean((rates >= calibration.rate_low) & (rates <= calibration.rate_high))
    assert inside == pytest.approx(0.95, abs=0.02)
    assert rates.mean() == pytest.approx(50 / 1001 - 0.0005, abs=0.0005)
    assert rates.mean() <= 0.05


def test_new_counts_fall_into_their_interval() -> None:
    """Calibrate on 200, count flags among 300 new: at least 95 % inside; 2,000 repeats leave 0.5 % at one sigma."""
    generator = np.random.default_rng(12)
    low, high = flag_count_interval(300, _calibration(n=200))
    counts = []
    for _ in range(2000):
        calibration = calibrate(generator.normal(size=200), alpha=0.05)
        counts.append(int((generator.normal(size=300) > calibration.threshold).sum()))
    inside = np.mean((np.array(counts) >= low) & (np.array(counts) <= high))
    assert 0.93 <= inside <= 0.98
