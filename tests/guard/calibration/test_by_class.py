"""One threshold per predicted class: the promise, the p-values, what falls back, what is stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from guard.calibration.by_class import MIN_CLASS_IMAGES, calibrate_by_class, expected_flags
from guard.calibration.conformal import calibrate, p_values
from guard.errors import CalibrationError
from guard.manifest import Calibration
from tests.references import calibration as reference

ALPHA = 0.05
SCALES = np.array([1.0, 2.0, 0.5])  # of the three classes' scores


def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Exchangeable images: class 0, 1, 2 in shares 0.5, 0.3, 0.2, whose scores differ in scale and place."""
    labels = generator.choice(3, n, p=[0.5, 0.3, 0.2])
    scores = generator.normal(size=n) * SCALES[labels] + 3 * (labels == 1)
    return scores.astype(np.float32), labels


def by_class(seed: int = 0, n: int = 1500, **options: object) -> Calibration:
    scores, labels = draw(np.random.default_rng(seed), n)
    return calibrate_by_class(scores, labels, classes=3, alpha=ALPHA, **options)  # type: ignore[arg-type]


def flagged(calibration: Calibration, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if calibration.class_conditional:
        return scores > calibration.class_thresholds[labels]
    return scores > np.float32(calibration.threshold)


# ---------------------------------------------------------------------------------------------------- the promise


def test_every_class_keeps_alpha_where_one_threshold_does_not() -> None:
    """400 calibration sets, 300 new images each. Of the 24,000 images of the smallest class 5 % are 1,200 with a
    standard deviation of about 60 (the sets' own luck included), 0.25 points; four of them are allowed."""
    generator = np.random.default_rng(1)
    hits = {name: np.zeros(3) for name in ("pooled", "by class")}
    images = np.zeros(3)
    for _ in range(400):
        scores, labels = draw(generator, 1000)
        new, classes = draw(generator, 300)
        images += np.bincount(classes, minlength=3)
        for name, made in (
            ("pooled", calibrate(scores, alpha=ALPHA)),
            ("by class", calibrate_by_class(scores, labels, classes=3, alpha=ALPHA)),
        ):
            hits[name] += np.bincount(classes[flagged(made, new, classes)], minlength=3)
    assert (hits["by class"] / images <= ALPHA + 0.01).all()
    assert (hits["by class"] / images >= ALPHA - 0.015).all()  # and none is needlessly strict
    pooled = hits["pooled"] / images
    assert pooled[1] > 0.10  # what the option is for
    assert pooled[0] < 0.01
    assert hits["pooled"].sum() / images.sum() == pytest.approx(ALPHA, abs=0.005)


def test_the_threshold_of_a_class_is_that_of_its_scores_alone() -> None:
    scores, labels = draw(np.random.default_rng(0), 1500)
    made = by_class()
    assert made.threshold == calibrate(scores, alpha=ALPHA).threshold
    for c in range(3):
        alone = calibrate(scores[labels == c], alpha=ALPHA)
        assert made.class_thresholds[c] == pytest.approx(alone.threshold, rel=1e-6)
        assert made.class_intervals[c] == (alone.rate_low, alone.rate_high)
        own = np.sort(scores[labels == c])
        k = reference.class_threshold_rank(len(own), ALPHA)
        assert (own > made.class_thresholds[c]).sum() == len(own) - k
        np.testing.assert_array_equal(made.scores_by_class[c], own)
    assert made.class_counts == tuple(np.bincount(labels))
    assert sum(made.class_counts) == made.n


def test_a_small_class_keeps_the_pooled_threshold() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2, 3], [400, MIN_CLASS_IMAGES, MIN_CLASS_IMAGES - 1, 0])
    scores = generator.normal(size=len(labels)) + labels
    made = calibrate_by_class(scores, labels, classes=5, alpha=ALPHA)
    assert made.min_class_images == MIN_CLASS_IMAGES
    assert [interval is None for interval in made.class_intervals] == [False, False, True, True, True]
    assert made.class_offsets[2:] == (0.0, 0.0, 0.0)
    assert made.class_offsets[0] < 0 < made.class_offsets[1]
    assert (made.class_thresholds[2:] == np.float32(made.threshold)).all()
    assert made.class_counts == (400, 50, 49, 0, 0)


@pytest.mark.parametrize(("alpha", "least"), [(0.05, 50), (0.01, 99), (0.004, 249)])
def test_the_default_smallest_class_is_one_that_alpha_can_reach(alpha: float, least: int) -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    assert calibrate_by_class(scores, np.arange(1000) % 2, classes=2, alpha=alpha).min_class_images == least


def test_smaller_classes_are_taken_where_asked_for_and_reachable() -> None:
    made = by_class(n=100, min_class_images=19)
    assert None not in made.class_intervals
    with pytest.raises(CalibrationError, match=r"min_class_images must be at least 19 for alpha=0\.05, got 18"):
        by_class(n=100, min_class_images=18)


# ---------------------------------------------------------------------------------------------------------- p-values


def test_p_values_are_those_of_the_predicted_class() -> None:
    scores, labels = draw(np.random.default_rng(0), 300)
    made = calibrate_by_class(scores, labels, classes=3, alpha=ALPHA, min_class_images=80)
    assert made.class_intervals[2] is None  # 79 images: by all scores
    new, classes = draw(np.random.default_rng(9), 200)
    new[:3] = scores[:3]  # ties count as at or above
    classes[:3] = labels[:3]
    slow = [reference.p_value(s, c, scores, labels, 80) for s, c in zip(new, classes, strict=True)]
    np.testing.assert_array_equal(p_values(new, made, classes), slow)


def test_a_flagged_image_has_a_p_value_of_at_most_alpha() -> None:
    for seed, alpha in enumerate([0.02, 0.05, 0.2]):
        scores, labels = draw(np.random.default_rng(seed), 700)
        made = calibrate_by_class(scores, labels, classes=3, alpha=alpha)
        new, classes = draw(np.random.default_rng(seed + 50), 20_000)
        p, flags = p_values(new, made, classes), flagged(made, new, classes)
        for c in range(3):
            assert flags[classes == c].sum() > 20
            assert p[flags & (classes == c)].max() <= alpha
            # the converse, but for the gap below the threshold, in which no calibration score lies
            unflagged = (p <= alpha) & ~flags & (classes == c)
            own = made.scores_by_class[c]
            assert own is not None
            kth = own[reference.class_threshold_rank(len(own), alpha) - 1]
            assert (new[unflagged] > kth).all()
            assert (new[unflagged] <= made.class_thresholds[c]).all()


def test_p_values_of_a_class_conditional_calibration_need_labels() -> None:
    with pytest.raises(CalibrationError, match="need the predicted labels"):
        p_values(np.zeros(3), by_class())
    made = by_class()
    assert p_values(np.zeros(0), made, np.zeros(0, np.int64)).shape == (0,)
    assert p_values(np.array([np.nan]), made, np.array([1])) == 1 / (made.class_counts[1] + 1)


# --------------------------------------------------------------------------------------------- float32, and its ends


@pytest.mark.parametrize("centre", [0.0, 1e-3, 12.0, 3e4, 1e8, -1e8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_float32_sum_never_flags_more_than_alpha_of_the_calibration_images(centre: float, scale: float) -> None:
    """Where one class's scores are far larger than another's, the sum of threshold and offset is rounded."""
    generator = np.random.default_rng(4)
    labels = np.arange(600) % 3
    scores = (generator.normal(size=600) * scale + centre * (labels - 1)).astype(np.float32)
    made = calibrate_by_class(scores, labels, classes=3, alpha=ALPHA)
    for c in range(3):
        offset = np.float32(made.class_offsets[c])
        assert made.class_offsets[c] == offset
        limit = np.float32(made.threshold) + offset
        assert limit == made.class_thresholds[c]
        own = np.sort(scores[labels == c])
        k = reference.class_threshold_rank(len(own), ALPHA)
        assert own[k - 1] <= limit
        rounding = np.spacing(np.float32(max(abs(made.threshold), abs(offset))))
        assert limit <= calibrate(own, alpha=ALPHA).threshold + rounding
        assert p_values(np.nextafter([limit], np.float32(np.inf)), made, np.array([c]))[0] <= ALPHA


def test_scores_at_the_ends_of_float32_are_refused_or_kept() -> None:
    labels = np.repeat([0, 1], [950, 60])
    apart = np.where(labels == 0, -3e38, 3e38) * np.linspace(0.99, 1, 1010)
    with pytest.raises(CalibrationError, match="too far apart for float32"):
        calibrate_by_class(apart, labels, classes=2, alpha=0.2)
    near = calibrate_by_class(np.abs(apart), labels, classes=2, alpha=0.2)
    assert np.isfinite(near.class_thresholds).all()


# ------------------------------------------------------------------------------------------------- what is expected


def test_the_flag_count_of_one_class_is_beta_binomial() -> None:
    made = by_class()
    n = made.class_counts[1]
    k = reference.class_threshold_rank(n, ALPHA)
    law = stats.betabinom(500, n + 1 - k, k)
    assert expected_flags(np.full(500, 1), made) == tuple(law.ppf([0.025, 0.975]))


def test_the_flag_count_of_several_classes_is_the_sum() -> None:
    """Against the convolution of scipy's laws."""
    made, images = by_class(), np.repeat([0, 1, 2], [300, 80, 1])
    law = np.ones(1)
    for c, m in enumerate([300, 80, 1]):
        n = made.class_counts[c]
        k = reference.class_threshold_rank(n, ALPHA)
        law = np.convolve(law, stats.betabinom(m, n + 1 - k, k).pmf(np.arange(m + 1)))
    low, high = (int(np.searchsorted(np.cumsum(law), q)) for q in (0.025, 0.975))
    assert expected_flags(images, made) == (low, high)
    assert expected_flags(np.zeros(0, np.int64), made) == (0, 0)


def test_new_counts_fall_into_their_interval() -> None:
    """At least 95 % of 400 repeats; 1.1 points of noise at one sigma."""
    generator = np.random.default_rng(6)
    inside = 0
    for _ in range(400):
        made = calibrate_by_class(*draw(generator, 500), classes=3, alpha=ALPHA)
        new, classes = draw(generator, 200)
        low, high = expected_flags(classes, made) or (1, 0)
        inside += low <= flagged(made, new, classes).sum() <= high
    assert 0.92 <= inside / 400 <= 1


def test_nothing_is_expected_of_a_class_that_keeps_the_pooled_threshold() -> None:
    made = by_class(n=300, min_class_images=80)
    assert expected_flags(np.array([0, 2]), made) is None
    assert expected_flags(np.array([0, 1]), made) is not None
    pooled = calibrate(np.arange(200.0), alpha=ALPHA)
    assert expected_flags(np.array([0, 2, 2]), pooled) == (0, 1)


# ---------------------------------------------------------------------------------------------------- what is stored


def test_a_calibration_survives_the_manifest() -> None:
    made = by_class()
    again = Calibration.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.class_conditional
    np.testing.assert_array_equal(again.class_thresholds, made.class_thresholds)
    scores, labels = draw(np.random.default_rng(0), 1500)
    order = np.argsort(scores, kind="stable")
    np.testing.assert_array_equal(again.labels, labels[order])
    np.testing.assert_array_equal(again.scores, scores[order])


def test_a_calibration_without_these_fields_is_one_threshold() -> None:
    old = json.loads(calibrate(np.arange(100.0), alpha=ALPHA).model_dump_json())
    kept = {k: old[k] for k in ("alpha", "n", "threshold", "rate_low", "rate_high", "scores_base64")}
    read = Calibration.model_validate(kept)
    assert not read.class_conditional
    assert read.class_thresholds.shape == (0,)
    assert p_values(np.array([50.0]), read, np.array([7])) == p_values(np.array([50.0]), read)


@pytest.mark.parametrize(
    ("predicted", "sentence"),
    [
        (np.zeros(99, int), r"one predicted class index per score, 100 of them; got int64 of shape \(99,\)"),
        (np.zeros(100), "got float64"),
        (np.full(100, 3), "must be 0 to 2, got 3 to 3"),
        (np.full(100, -1), "must be 0 to 2, got -1 to -1"),
    ],
)
def test_labels_that_are_none_are_refused(predicted: np.ndarray, sentence: str) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        calibrate_by_class(np.arange(100.0), predicted, classes=3, alpha=ALPHA)
