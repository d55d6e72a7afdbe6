"""Exact detection metrics from two lists of ood_scores (higher = more out-of-distribution).

Everything is computed from one table: the distinct scores in ascending order with how many ID and OOD images have each
(`_Counts`). Ties therefore count exactly (a tie is half a win in AUROC, one step of a curve elsewhere), the size of
the scores does not matter, and a bootstrap resample only changes the counts, never the sorting.

FPR at 95 % TPR is two different numbers in the literature; both are here, under names that say which:

    fpr_at_95_id_tpr    OOD accepted when 95 % of ID is accepted    the papers' FPR95 (VOS, NPOS, Dream-OOD, NCIS)
    fpr_at_95_ood_tpr   ID flagged when 95 % of OOD is flagged      OpenOOD's and pytorch-ood's FPR95

AUPR-In has ID as the positive class, AUPR-Out has OOD. Both depend on how many images of each there are, so the counts
belong beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError

Area = Literal["average_precision", "trapezoid"]


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """How well a score separates ID from OOD. All in [0, 1]; for the FPRs lower is better, for the others higher."""

    auroc: float
    fpr_at_95_id_tpr: float
    fpr_at_95_ood_tpr: float
    aupr_in: float
    aupr_out: float


METRICS: tuple[str, ...] = tuple(field.name for field in fields(DetectionMetrics))


class RocCurve(NamedTuple):
    """Points of the ROC curve, OOD positive; an image is flagged when its score is above the threshold.

    Attributes:
        false_alarms: (P,) share of ID flagged, ascending from 0 to 1.
        detected: (P,) share of OOD flagged, ascending from 0 to 1.
        thresholds: (P,) float64, descending from the largest score to -inf.
    """

    false_alarms: np.ndarray
    detected: np.ndarray
    thresholds: np.ndarray


def detection_metrics(id_scores: np.ndarray, ood_scores: np.ndarray) -> DetectionMetrics:
    """All five metrics of (n,) ID and (m,) OOD ood_scores.

    Raises:
        DataError: a list is empty or holds NaN or infinite scores (here and in every function below).
    """
    return _detection_metrics(_count(id_scores, ood_scores))


def auroc(id_scores: np.ndarray, ood_scores: np.ndarray) -> float:
    """P(OOD score > ID score) + 1/2 P(equal) over all n x m pairs."""
    return _auroc(_count(id_scores, ood_scores))


def fpr_at_95_id_tpr(id_scores: np.ndarray, ood_scores: np.ndarray, *, tpr: float = 0.95) -> float:
    """Share of OOD accepted at the smallest threshold that accepts at least `tpr` of ID (accept: score <= t)."""
    return _fpr_at_id_tpr(_count(id_scores, ood_scores), _share(tpr))


def fpr_at_95_ood_tpr(id_scores: np.ndarray, ood_scores: np.ndarray, *, tpr: float = 0.95) -> float:
    """Share of ID flagged at the largest threshold that flags at least `tpr` of OOD (flag: score >= t)."""
    return _fpr_at_id_tpr(_count(id_scores, ood_scores).mirrored(), _share(tpr))


def aupr_in(id_scores: np.ndarray, ood_scores: np.ndarray, *, area: Area = "average_precision") -> float:
    """Area under precision-recall with ID positive: "average_precision" is the step sum over recall (scikit-learn,
    the OE family); "trapezoid" (OpenOOD, pytorch-ood) is optimistic where scores tie."""
    return _aupr_in(_count(id_scores, ood_scores), area)


def aupr_out(id_scores: np.ndarray, ood_scores: np.ndarray, *, area: Area = "average_precision") -> float:
    """`aupr_in` with OOD positive."""
    return _aupr_in(_count(id_scores, ood_scores).mirrored(), area)


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of (N,) predicted labels that equal the true ones."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1 or len(labels) == 0:
        raise DataError(
            f"accuracy needs as many predictions as labels, at least one; got {predicted.shape} and {labels.shape}"
        )
    return float(np.mean(predicted == labels))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """How far the probability of the predicted class is from how often it is right: 0 is calibrated, in [0, 1].

        ECE = sum_b n_b / N |accuracy_b - mean confidence_b|        over bins (0, 1/bins], (1/bins, 2/bins], ...

    of equal width over the largest probability of each image (top-label ECE; Guo et al., ICML 2017). With few images
    per bin it is above 0 for a calibrated classifier too.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) true classes.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or len(labels) == 0 or labels.shape != probabilities.shape[:1]:
        raise DataError(
            "the calibration error needs probabilities (N, C) and labels (N,) of at least one image; got "
            f"{probabilities.shape} and {labels.shape}"
        )
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    inside = np.searchsorted(edges[1:-1], confidence, side="left")  # (lower, upper]
    gap = np.bincount(inside, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share `hits` / `n`, n >= 1; sensible at 0 and at n too (Wilson, 1927)."""
    z = 1.959963984540054
    centre, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, (centre - half) / (n + z * z)), min(1.0, (centre + half) / (n + z * z))


def roc_curve(id_scores: np.ndarray, ood_scores: np.ndarray) -> RocCurve:
    """Every point of the ROC curve, one per distinct score and (0, 0); see `RocCurve`."""
    counts = _count(id_scores, ood_scores)
    flagged_id = np.append(counts.n - np.cumsum(counts.id)[::-1], counts.n)
    flagged_ood = np.append(counts.m - np.cumsum(counts.ood)[::-1], counts.m)
    return RocCurve(flagged_id / counts.n, flagged_ood / counts.m, np.append(counts.values[::-1], -np.inf))


def bootstrap(
    id_scores: np.ndarray, ood_scores: np.ndarray, *, resamples: int = 1000, seed: int = 0, coverage: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of every metric; ID and OOD images are resampled apart, each to its own count.

    It shows how much the numbers would move with other test images, not with another training run. A perfect 1.0
    has the interval 1.0 .. 1.0, for resampling never shows an image that is not there.

    Args:
        resamples: >= 1. A thousand of 10,000 + 2,000 images take well under a second.
        coverage: of the central interval, in (0, 1).

    Returns:
        Metric name -> (low, high).
    """
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}")
    _share(coverage)
    counts = _count(id_scores, ood_scores)
    groups = len(counts.values)
    id_rows = np.repeat(np.arange(groups), counts.id)  # which distinct score each image has
    ood_rows = np.repeat(np.arange(groups), counts.ood)
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(METRICS)))
    for i in range(resamples):
        resampled = _Counts(
            counts.values,
            np.bincount(id_rows[generator.integers(0, counts.n, counts.n)], minlength=groups),
            np.bincount(ood_rows[generator.integers(0, counts.m, counts.m)], minlength=groups),
        )
        metrics = _detection_metrics(resampled)
        drawn[i] = [getattr(metrics, name) for name in METRICS]
    low, high = np.quantile(drawn, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


# ------------------------------------------------------------------------------------------ from the table of counts


@dataclass(frozen=True, slots=True)
class _Counts:
    """Per distinct score, ascending (G,): how many ID and OOD images have it. Counts may be 0 in a resample."""

    values: np.ndarray
    id: np.ndarray
    ood: np.ndarray

    @property
    def n(self) -> int:
        return int(self.id.sum())

    @property
    def m(self) -> int:
        return int(self.ood.sum())

    def mirrored(self) -> _Counts:
        """ID and OOD, and up and down, exchanged: a metric with ID positive becomes the one with OOD positive."""
        return _Counts(-self.values[::-1], self.ood[::-1], self.id[::-1])


def _detection_metrics(counts: _Counts) -> DetectionMetrics:
    mirrored = counts.mirrored()
    return DetectionMetrics(
        auroc=_auroc(counts),
        fpr_at_95_id_tpr=_fpr_at_id_tpr(counts, Fraction(95, 100)),
        fpr_at_95_ood_tpr=_fpr_at_id_tpr(mirrored, Fraction(95, 100)),
        aupr_in=_aupr_in(counts, "average_precision"),
        aupr_out=_aupr_in(mirrored, "average_precision"),
    )


def _auroc(counts: _Counts) -> float:
    below_twice = 2 * np.cumsum(counts.id) - counts.id  # 2 x (ID below + half of the ID equal): integers, exact
    return int(np.dot(counts.ood, below_twice)) / (2 * counts.n * counts.m)


def _fpr_at_id_tpr(counts: _Counts, tpr: Fraction) -> float:
    needed = math.ceil(tpr * counts.n)
    at = np.searchsorted(np.cumsum(counts.id), needed)
    return int(counts.ood[: at + 1].sum()) / counts.m


def _aupr_in(counts: _Counts, area: Area) -> float:
    accepted_id = np.cumsum(counts.id)
    accepted = accepted_id + np.cumsum(counts.ood)
    precision = accepted_id / np.maximum(accepted, 1)  # 0 / 0 only before the first image of a resample
    if area == "trapezoid":
        precision = (precision + np.concatenate([[1.0], precision[:-1]])) / 2
    elif area != "average_precision":
        raise ConfigError(f"area must be 'average_precision' or 'trapezoid', got {area!r}")
    return float(np.dot(counts.id, precision) / counts.n)


def _count(id_scores: np.ndarray, ood_scores: np.ndarray) -> _Counts:
    id_scores, ood_scores = _checked(id_scores, "id_scores"), _checked(ood_scores, "ood_scores")
    values, group = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    n = len(id_scores)
    return _Counts(values, np.bincount(group[:n], minlength=len(values)), np.bincount(group[n:], minlength=len(values)))


def _checked(scores: np.ndarray, name: str) -> np.ndarray:
    """(N,) float64."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise DataError(f"{name} must be a non-empty list of numbers, got shape {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{name} holds {len(bad)} of {len(scores)} scores that are not finite (the first is {scores[bad[0]]} at "
            f"index {bad[0]}); a ranking with them would mean nothing: find the images and why they score so"
        )
    return scores


def _share(value: float) -> Fraction:
    """A share in (0, 1) as the decimal it was typed as, so that 95 % of 20 is 19."""
    if not 0 < value < 1:
        raise ConfigError(f"a share must be between 0 and 1, got {value}")
    return Fraction(str(float(value)))
