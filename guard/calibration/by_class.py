"""One threshold per predicted class: at most alpha of each class's in-distribution images is flagged, not only of all.

With one threshold for all, a class whose images score higher than the others' is flagged more often than alpha and
another less often; only the average is promised. Taking the (1 - alpha) conformal quantile over the calibration images
that were PREDICTED as class c (the label that is there when an image is scored) gives

    P(flagged | predicted class = c) <= alpha        for every class c with a threshold of its own

for exchangeable images: among those predicted as c, the calibration images and the new one are exchangeable (Mondrian
conformal prediction: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, section 4.5).

A class with fewer than `min_class_images` calibration images keeps the pooled threshold, of all calibration images.
Nothing is promised about such a class by itself, and where its images score higher than the rest, the rate over all
images can lie above alpha by at most its share of them.
"""

from __future__ import annotations

import base64

import numpy as np

from ..errors import CalibrationError, ConfigError
from ..manifest import Calibration
from .conformal import (
    beta_binomial_sum_interval,
    calibrate,
    conformal_rank,
    flag_count_interval,
    reachable_rank,
    smallest_n,
)

MIN_CLASS_IMAGES = 50  # with 50, a 5 % target realises 0.5 to 10.6 %; a threshold from fewer says little
ALPHA = 0.05  # the target of a guard that has none
_MOST_CLASSES = 2**16  # labels are stored in 16 bits


def calibrate_by_class(
    scores: np.ndarray,
    predicted: np.ndarray,
    *,
    classes: int,
    alpha: float,
    min_class_images: int | None = None,
) -> Calibration:
    """`guard.calibration.conformal.calibrate`, with a threshold of its own for every predicted class that has enough
    images.

    Args:
        scores: (n,) ood_scores of in-distribution images that the classifier was not trained on.
        predicted: (n,) the class that the classifier gave each of them, 0 .. classes - 1.
        classes: C.
        alpha: target false-alarm rate of every class.
        min_class_images: fewest calibration images for a threshold of its own; default 50, or what alpha needs
            (ceil(1 / alpha) - 1) where that is more.

    Raises:
        CalibrationError: as `calibrate`; labels that are not class indices; min_class_images below what alpha needs.
    """
    least = check_asked(alpha, True, min_class_images)
    pooled = calibrate(scores, alpha=alpha)
    scores = np.asarray(scores, dtype=np.float32)
    predicted = _checked(predicted, len(scores), classes)
    order = np.argsort(scores, kind="stable")
    scores, predicted = scores[order], predicted[order]
    counts = np.bincount(predicted, minlength=classes)
    offsets, intervals = [0.0] * classes, list[tuple[float, float] | None]([None] * classes)
    for c in np.flatnonzero(counts >= least):
        own = scores[predicted == c]
        chosen = calibrate(own, alpha=alpha)
        offsets[c] = _offset(pooled.threshold, chosen.threshold, own[conformal_rank(len(own), alpha) - 1])
        intervals[c] = (chosen.rate_low, chosen.rate_high)
    return pooled.model_copy(
        update={
            "class_offsets": tuple(offsets),
            "class_counts": tuple(counts.tolist()),
            "class_intervals": tuple(intervals),
            "min_class_images": least,
            "labels_base64": base64.b64encode(predicted.astype("<u2").tobytes()).decode("ascii"),
        }
    )


def asked_or_own(alpha: float | None, class_conditional: bool | None, own: Calibration | None) -> tuple[float, bool]:
    """The target and whether each class has a threshold: what was asked for, else the guard's own, else 5 % and no."""
    return (
        alpha if alpha is not None else own.alpha if own is not None else ALPHA,
        class_conditional if class_conditional is not None else own is not None and own.class_conditional,
    )


def check_asked(alpha: float, class_conditional: bool, min_class_images: int | None) -> int:
    """Refuse what no images could give; returns the fewest images for a threshold of a class's own.

    Raises:
        CalibrationError, ConfigError: alpha is not a share, or min_class_images below what it needs, or without use.
    """
    reachable_rank(10**9, alpha)
    if min_class_images is None:
        return max(MIN_CLASS_IMAGES, smallest_n(alpha))
    if not class_conditional:
        raise ConfigError("min_class_images is for class_conditional=True")
    if min_class_images < smallest_n(alpha):
        raise CalibrationError(
            f"min_class_images must be at least {smallest_n(alpha)} for alpha={alpha}, got {min_class_images}"
        )
    return min_class_images


def expected_flags(predicted: np.ndarray, calibration: Calibration) -> tuple[int, int] | None:
    """Exact 95 % prediction interval of how many of these new in-distribution images are flagged.

    Given how many images each class was predicted for, the classes' counts are independent beta-binomials.

    Args:
        predicted: (m,) predicted classes of images that are exchangeable with the calibration images.

    Returns:
        (low, high), both included; None where an image belongs to a class that keeps the pooled threshold under a
        class-conditional calibration, for the law of its flags is not known.
    """
    if not calibration.class_conditional:
        return flag_count_interval(len(predicted), calibration)
    terms = []
    for c, m in enumerate(np.bincount(predicted, minlength=len(calibration.class_offsets)).tolist()):
        if m and calibration.class_intervals[c] is None:
            return None
        n = calibration.class_counts[c]
        k = conformal_rank(n, calibration.alpha)
        terms.append((m, n + 1 - k, k))
    return beta_binomial_sum_interval(terms)


def _offset(pooled: float, wanted: float, least: np.float32) -> float:
    """A float32 whose float32 sum with `pooled` is `wanted`, or as near as rounding lets it, and at least `least`.

    The class's k-th score is that least: a threshold below it would flag more than alpha, a hair too high flags less.
    The sum is exact where the two thresholds are within a factor of two of each other, and within an ulp elsewhere.
    """
    threshold = np.float32(pooled)
    with np.errstate(over="ignore"):
        offset = np.float32(wanted - pooled)
        while threshold + offset < least:
            offset = np.nextafter(offset, np.float32(np.inf))
    if not np.isfinite(threshold + offset):
        raise CalibrationError(
            f"the classes' scores are too far apart for float32 (thresholds {pooled:.3g} and {wanted:.3g}); "
            "calibrate without class_conditional"
        )
    return float(offset)


def _checked(predicted: np.ndarray, n: int, classes: int) -> np.ndarray:
    """(n,) int64 labels."""
    predicted = np.asarray(predicted)
    if predicted.shape != (n,) or not np.issubdtype(predicted.dtype, np.integer):
        raise CalibrationError(
            f"a class-conditional calibration needs one predicted class index per score, {n} of them; "
            f"got {predicted.dtype} of shape {predicted.shape}"
        )
    if predicted.min() < 0 or predicted.max() >= classes:
        raise CalibrationError(
            f"predicted classes must be 0 to {classes - 1}, got {predicted.min()} to {predicted.max()}"
        )
    if classes > _MOST_CLASSES:
        raise CalibrationError(f"a class-conditional calibration takes up to {_MOST_CLASSES} classes, got {classes}")
    return predicted.astype(np.int64)
