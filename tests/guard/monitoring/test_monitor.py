from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import guard
from guard.errors import CalibrationError, ConfigError, DataError
from guard.monitoring.monitor import DriftMonitor, rate_interval
from guard.monitoring.state import CURVE_POINTS
from guard.verdict import Verdicts
from tests.serving.conftest import calibration_scores, colour_manifest


def test_exchangeable_streams_seldom_raise_the_alarm() -> None:
    """At alpha 10 %, of 200 streams: at most what 1 binomial(200, 0.1) in 1000 exceeds. Ties are common in a third."""
    random = np.random.default_rng(0)
    alarms = 0
    for i in range(200):
        scores = random.normal(size=450).round(1 if i % 3 == 0 else 9)
        monitor = DriftMonitor(scores[:150], alpha=0.1, seed=i)
        monitor.take(scores[150:])
        alarms += monitor.alarm
    assert alarms <= stats.binom.isf(1e-3, 200, 0.1)
    assert alarms > 0  # the test has teeth: it does use what it may


@pytest.mark.parametrize("ordinary", [0, 3000])
@pytest.mark.parametrize("change", ["stranger", "a fifth strange", "more ordinary", "narrower", "stuck"])
def test_a_change_is_found(change: str, ordinary: int) -> None:
    random = np.random.default_rng(1)
    monitor = DriftMonitor(random.normal(size=1000))
    assert not monitor.update(random.normal(size=ordinary)).alarm
    after = random.normal(size=1500)
    if change == "stranger":
        after += 1
    if change == "a fifth strange":
        after[random.random(1500) < 0.2] += 3
    if change == "more ordinary":
        after -= 1
    if change == "narrower":
        after *= 0.3
    if change == "stuck":
        after[:] = 0.3
    report = monitor.update(after)
    assert report.alarm
    assert ordinary < report.alarm_at <= ordinary + 500


def test_batches_change_nothing() -> None:
    random = np.random.default_rng(2)
    scores, labels, flags = random.normal(size=700), random.integers(0, 3, 700), random.random(700) < 0.1
    one, many = (DriftMonitor(np.arange(-3, 3, 0.05), class_names="abc", seed=7) for _ in range(2))
    whole = one.update(scores, labels=labels, flagged=flags, now=5.0)
    for start, end in ((0, 1), (1, 2), (2, 300), (300, 699), (699, 700)):
        part = slice(start, end)
        report = many.update(scores[part], labels=labels[part], flagged=flags[part], now=5.0)
    assert [p.images for p in whole.curve] == [p.images for p in report.curve]
    assert whole.classes == report.classes
    assert whole.log10_capital == pytest.approx(report.log10_capital, rel=1e-9)
    assert whole.late_flag_rate == pytest.approx(report.late_flag_rate, rel=1e-9)


def test_rates_are_counted_by_class_with_exact_intervals() -> None:
    monitor = DriftMonitor(np.arange(100), class_names=("cat", "dog", "owl"))
    labels = np.array([0] * 40 + [1] * 10)
    flagged = np.array([True] * 4 + [False] * 46)
    report = monitor.update(np.linspace(0, 99, 50), labels=labels, flagged=flagged)
    assert [(c.class_name, c.images, c.flagged, c.flag_rate) for c in report.classes] == [
        ("cat", 40, 4, 0.1), ("dog", 10, 0, 0.0), ("owl", 0, 0, None),
    ]  # fmt: skip
    expected = stats.binomtest(4, 40).proportion_ci(0.95, method="exact")
    cat, dog, owl = report.classes
    assert (cat.flag_rate_low, cat.flag_rate_high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert dog.flag_rate_high == pytest.approx(1 - 0.025 ** (1 / 10), rel=1e-9)
    assert (owl.flag_rate_low, owl.flag_rate_high) == (0, 1)
    assert (report.images, report.flagged, report.flag_rate) == (50, 4, 0.08)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (3, 7), (500, 10000), (0, 3000), (3000, 3000)])
def test_the_interval_is_clopper_and_pearsons(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert rate_interval(hits, n) == pytest.approx((expected.low, expected.high), rel=1e-8, abs=1e-12)


def test_the_late_rate_forgets() -> None:
    monitor = DriftMonitor(np.arange(100))
    monitor.take(np.zeros(1000), flagged=np.zeros(1000))
    report = monitor.update(np.zeros(200), flagged=np.ones(200))
    assert report.flag_rate == pytest.approx(1 / 6)
    assert report.late_flag_rate == pytest.approx(0.5 / (1 - 0.5**6), rel=1e-6)  # half of what all the weights sum to


def test_reset_begins_anew_and_counts() -> None:
    monitor = DriftMonitor(np.arange(100.0))
    assert monitor.update(np.full(300, 1e6)).alarm
    monitor.reset()
    report = monitor.report()
    assert (report.images, report.alarm, report.alarm_at, report.capital, report.resets) == (0, False, None, 1.0, 1)
    fresh = DriftMonitor(np.arange(100.0)).update(np.arange(50.0), now=1.0)
    again = monitor.update(np.arange(50.0), now=1.0)
    assert again.model_copy(update={"resets": 0}) == fresh


def test_a_score_that_is_no_number_takes_no_part() -> None:
    a, b = DriftMonitor(np.arange(100), class_names="xy"), DriftMonitor(np.arange(100), class_names="xy")
    a.take(np.array([5.5, np.nan, 7.5]), labels=np.array([0, 1, 1]), flagged=np.array([True, True, False]), now=1.0)
    b.take(np.array([5.5, 7.5]), labels=np.array([0, 1]), flagged=np.array([True, False]), now=1.0)
    assert a.report().unscored == 1
    assert a.report().model_copy(update={"unscored": 0}) == b.report()
    assert a.update(np.array([np.nan])).unscored == 2


def test_the_curve_stays_small_and_even() -> None:
    monitor = DriftMonitor(np.random.default_rng(0).normal(size=50))
    monitor.take(np.random.default_rng(1).normal(size=5001), flagged=np.ones(5001))
    curve = monitor.report().curve
    assert len(curve) <= CURVE_POINTS + 1
    assert set(np.diff([p.images for p in curve[:-1]])) == {32}
    assert all(p.flagged == p.images for p in curve)
    assert curve[-1].images == 5001
    assert curve[-1].log10_capital == monitor.report().log10_capital


def test_a_guards_own_verdicts() -> None:
    manifest = colour_manifest()
    monitor = guard.DriftMonitor.of(manifest)
    score = calibration_scores()[::-1].copy()
    verdicts = Verdicts(
        label=np.zeros(99, np.int64),
        probabilities=np.ones((99, 3), np.float32),
        ood_score=score,
        is_ood=score > -4.3,
        p_value=np.ones(99),
        threshold=-4.3,
        class_names=manifest.class_names,
    )
    report = monitor.update_verdicts(verdicts)
    assert (report.model, report.target_flag_rate, report.calibration_images) == (manifest.identity, 0.05, 99)
    assert (report.flagged, report.classes[0].images) == (int((score > -4.3).sum()), 99)


def test_an_enormous_capital_is_still_a_report() -> None:
    report = DriftMonitor(np.arange(1000.0)).update(np.full(20000, 1e6))
    assert report.capital is None
    assert report.log10_capital > 308
    assert json.loads(report.model_dump_json())["log10_capital"] == report.log10_capital


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5])
def test_an_alpha_that_is_no_chance_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"between 0 and 1.*got {alpha}"):
        DriftMonitor(np.arange(10), alpha=alpha)


@pytest.mark.parametrize("reference", [np.array([]), np.zeros((2, 2)), np.array([1, np.nan])])
def test_a_reference_that_cannot_be_one_is_refused(reference: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="scores \\(n,\\) of calibration images"):
        DriftMonitor(reference)


def test_an_uncalibrated_guard_has_nothing_to_compare_with() -> None:
    with pytest.raises(CalibrationError, match="not calibrated"):
        DriftMonitor.of(colour_manifest(calibrated=False))


def test_a_rate_of_flags_that_were_not_given_is_unknown() -> None:
    monitor = DriftMonitor(np.arange(99.0), class_names=("cat", "dog"))
    monitor.take(np.arange(300.0) % 99, labels=np.zeros(300, np.int64))
    report = monitor.update(np.arange(20.0), labels=np.ones(20, np.int64), flagged=np.ones(20, np.bool_))
    assert report.images == 320
    assert (report.flagged, report.flag_rate, report.late_flag_rate) == (None, None, None)
    assert (report.flag_rate_low, report.flag_rate_high) == (0, 1)
    assert [(c.flagged, c.flag_rate) for c in report.classes] == [(None, None), (20, 1.0)]
    assert json.loads(report.model_dump_json())["flagged"] is None
    monitor.reset()
    assert monitor.update(np.arange(4.0), flagged=np.array([True, False, False, False])).flag_rate == 0.25


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"scores": np.zeros((3, 2))}, r"scores \(3, 2\)"),
        ({"flagged": np.zeros(2)}, r"got scores \(3,\), flagged \(2,\)"),
        ({"labels": np.zeros(4, np.int64)}, r"labels \(4,\)"),
        ({"labels": np.array([0, 1, 2])}, r"labels must be whole numbers from 0 to 1, got \[.*2"),
        ({"labels": np.array([0, -1, 1])}, r"from 0 to 1, got \[.*-1"),
        ({"labels": np.array([0, 1, 0.5])}, r"from 0 to 1, got \[.*0.5"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_counted(given: dict[str, np.ndarray], sentence: str) -> None:
    monitor = DriftMonitor(np.arange(99.0), class_names=("cat", "dog"))
    before = monitor.state.values.copy()
    with pytest.raises(DataError, match=sentence):
        monitor.take(**{"scores": np.zeros(3), **given})
    assert np.array_equal(monitor.state.values, before)


@pytest.mark.parametrize("alpha", [0, 1, "0.01", np.nan, None, True])
def test_alpha_is_a_share(alpha: object) -> None:
    with pytest.raises(ConfigError, match="alpha of a drift test must be"):
        DriftMonitor(np.arange(99.0), alpha=alpha)  # type: ignore[arg-type]
