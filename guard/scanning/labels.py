"""What is likely wrong with a data set's own labels, from the guard's verdicts on it.

Mislabelled: confident learning. With p_j(x) the probability of class j and i the given label, the threshold of a class
is its mean self-confidence, and an image is likely of the class j that is predicted where

    t_j = mean of p_j(x) over the images given as j            j != i  and  p_j(x) >= t_j

This is the off-diagonal of the confident joint for the predicted class (the published rule takes the most probable of
all classes above their thresholds, which is another one only where the predicted class is below its own). Images are
ordered by p_i(x) - p_j(x), the normalised margin, smallest first. Northcutt, Jiang & Chuang, "Confident learning:
estimating uncertainty in dataset labels", Journal of Artificial Intelligence Research 70, 2021, equations 1 and 2.

Off-class: conformal p-values with a stated false discovery rate q. With m images and p_(1) <= ... <= p_(m), those with

    p <= p_(k),  k the largest with  p_(k) <= q k / m

are reported, and at most a share q of them is expected to be ordinary (Benjamini & Hochberg, Journal of the Royal
Statistical Society B 57, 1995; for conformal p-values: Bates, Candes, Lei, Romano & Sesia, "Testing for outliers with
conformal p-values", Annals of Statistics 51, 2023). No p-value is below 1 / (n + 1) with n calibration images, so few
of those find few.

Both hold for images that the classifier was not trained on. On its own training images probabilities are too high for
the given label and p-values too large: fewer are found, and no rate is promised. There `cross_fit` judges the images by
each other; its p-values are ranks among them, so those at or below `OFF_CLASS_LEVEL` are listed, and nothing is
promised of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from .extremes import Largest, columns_of
from .result import LabelReport, Pair
from .shards import Columns

FALSE_DISCOVERY_RATE = 0.1
OFF_CLASS_LEVEL = 0.01  # of cross-fitted p-values
_PAIRS = 20


def self_confidence(shards: Iterable[Columns], classes: int) -> np.ndarray:
    """(C,) float64: t_j, the mean probability of the given class by given class; NaN for one without images."""
    total, count = np.zeros(classes), np.zeros(classes)
    for columns in shards:
        given = columns["given_label"]
        total += np.bincount(given, columns["given_probability"], classes)
        count += np.bincount(given, minlength=classes)
    with np.errstate(invalid="ignore"):
        return total / count


def likely_mislabelled(
    given: np.ndarray, predicted: np.ndarray, probability: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """(n,) bool: the predicted class is another one, and as probable as it is on its own images.

    Args:
        given, predicted: (n,) int64 classes.
        probability: (n,) of the predicted class, in [0, 1].
        thresholds: (C,) from `self_confidence`; a class without images has none, and nothing is found to be of it.
    """
    found: np.ndarray = (predicted != given) & (probability >= thresholds[predicted])
    return found


def largest_discovery(counts: Mapping[float, int], rate: float) -> float | None:
    """The largest p-value that Benjamini and Hochberg's procedure rejects; None where it rejects none.

    Args:
        counts: how many images have each p-value.
        rate: q, in (0, 1).
    """
    values = np.array(sorted(counts))
    ranks = np.cumsum([counts[value] for value in values])
    passed = np.flatnonzero(values <= rate * ranks / ranks[-1]) if len(values) else values
    return float(values[passed[-1]]) if len(passed) else None


def label_report(
    shards: Callable[[Sequence[str]], Iterator[Columns]],
    class_names: Sequence[str],
    *,
    calibrated: bool,
    folds: int = 0,
) -> LabelReport:
    """Both lists, in two passes over the shards at constant memory.

    Args:
        shards: gives the columns with these names, one shard after the other.
        class_names: of the guard.
        calibrated: whether there are p-values.
        folds: of cross-fitted shards; 0 for the guard's own verdicts.
    """
    thresholds = self_confidence(shards(["given_label", "given_probability"]), len(class_names))
    worst, strangest = Largest(), Largest()
    pairs, p_values = Counter[tuple[int, int]](), Counter[float]()
    images = agreeing = 0
    for columns in shards([*columns_of(True), "label", "given_label"]):
        given, predicted = columns["given_label"], columns["label"]
        wrong = likely_mislabelled(given, predicted, columns["probability"], thresholds)
        margin = columns["probability"] - columns["given_probability"]
        worst.update(np.where(wrong, margin, np.nan), columns)
        pairs.update(zip(given[wrong].tolist(), predicted[wrong].tolist(), strict=True))
        images, agreeing = images + len(given), agreeing + int((given == predicted).sum())
        if calibrated:
            values, counts = np.unique(columns["p_value"], return_counts=True)
            p_values.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            scored = np.where(np.isnan(columns["ood_score"]), np.nan, columns["p_value"])
            strangest.update(-scored, columns, among_equals=columns["ood_score"])
    limit = OFF_CLASS_LEVEL if folds else largest_discovery(p_values, FALSE_DISCOVERY_RATE)
    return LabelReport(
        images=images,
        agreeing=agreeing,
        mislabelled=pairs.total(),
        worst=worst.images(),
        pairs=_named(pairs, class_names),
        class_thresholds=tuple(None if np.isnan(t) else float(t) for t in thresholds),
        off_class=sum(n for p, n in p_values.items() if limit is not None and p <= limit) if calibrated else None,
        off_class_p_value=limit,
        false_discovery_rate=None if folds else FALSE_DISCOVERY_RATE,
        strangest=strangest.images(),
        folds=folds,
    )


def _named(pairs: Counter[tuple[int, int]], names: Sequence[str]) -> tuple[Pair, ...]:
    """The commonest pairs (given, likely)."""
    most = pairs.most_common(_PAIRS)
    return tuple(Pair(given_class=names[i], class_name=names[j], images=n) for (i, j), n in most)
