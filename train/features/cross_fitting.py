"""Cross-fitting: what the other folds of a labelled data set say of each of its images.

The images are cut into K folds, each class in equal shares. For each fold, on the features h of the others,

    f(h) = W (h - mean) / sd + b    multinomial logistic regression on standardised features, L2 with C = 1
    s(h, f(h))                      the guard's score, fitted

and both are asked about the fold, so no image is judged by what was fitted on it (Stone, Journal of the Royal
Statistical Society B 36, 1974; such probabilities for label errors: Northcutt, Jiang & Chuang, Journal of Artificial
Intelligence Research 70, 2021). Copies of an image lie in one fold, for they would vouch for each other. The features
themselves stay as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.data.copies import originals
from guard.errors import DataError
from guard.heads import LastLayer
from guard.scores.base import Score, create_score

from ..engine.progress import progress_bar

FALLBACK = "knn"
_READS = {"logits", "features", "weights"}
_STEPS = 1000  # of the regression, at most; it stops where it has converged


@dataclass(frozen=True)
class CrossFitted:
    """`probabilities` (N, C) float32 and `ood_score` (N,) float32: each row from what was fitted on the other folds."""

    probabilities: np.ndarray
    ood_score: np.ndarray


def fresh_score(name: str, options: Mapping[str, Any]) -> Score:
    """The score to fit in every fold: the one with this name, or `FALLBACK` where that is not made from features alone
    (it reads maps or gradients, or was learned in training)."""
    score = create_score(name, **options)
    fits = set(score.needs) <= _READS and not score.trained_by and not score.uses_map
    return score if fits else create_score(FALLBACK)


def cross_fit(
    features: np.ndarray,
    labels: np.ndarray,
    digests: np.ndarray,
    score: Score,
    *,
    class_names: Sequence[str],
    folds: int,
    seed: int,
) -> CrossFitted:
    """Judge every image by the other folds.

    Args:
        features: (N, D) float32. labels: (N,) int64 in [0, C).
        digests: (N,) uint64 of the images' pixels; equal ones lie in one fold.
        score: unfitted; it stays so.
        class_names: (C,). folds: K >= 2. seed: of the cut.

    Raises:
        DataError: features that are not finite, images of one class, a class with fewer than two different images, or
            fewer different images than folds.
    """
    if broken := int((~np.isfinite(features)).any(1).sum()):
        raise DataError(
            f"the guard's features are NaN or infinite for {broken} of {len(features)} images; check its weights (a "
            "training that diverged leaves such)"
        )
    first = originals(digests)
    _check(np.bincount(labels[np.unique(first)], minlength=len(class_names)), np.unique(labels), class_names, folds)
    fold = folds_of(labels, first, folds, seed)
    probabilities = np.zeros((len(labels), len(class_names)), np.float32)
    ood_score = np.zeros(len(labels), np.float32)
    with progress_bar(f"cross-fit {score.name}", folds) as advance:
        for k in range(folds):
            mine = fold == k
            known, p, s = _judged(features[~mine], labels[~mine], features[mine], copy.deepcopy(score))
            probabilities[np.ix_(np.flatnonzero(mine), known)] = p
            ood_score[mine] = s
            advance()
    return CrossFitted(probabilities, ood_score)


def folds_of(labels: np.ndarray, first: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) int64 in [0, folds): the different images of every class in turn, in random order, and copies with theirs.

    Args:
        first: (N,) of each image the first one with its pixels (`guard.data.copies.originals`).
    """
    rng = np.random.default_rng([seed, 0xF01D])
    own = rng.permutation(np.unique(first))
    own = own[np.argsort(labels[own], kind="stable")]  # a class goes on where the last one ended: folds of equal size
    fold = np.zeros(len(labels), np.int64)
    fold[own] = np.arange(len(own)) % folds
    of_originals: np.ndarray = fold[first]
    return of_originals


def _check(different: np.ndarray, present: np.ndarray, class_names: Sequence[str], folds: int) -> None:
    """Raises: DataError: too few images; `different` (C,) counts those that are no copies."""
    if len(present) < 2:
        raise DataError(f"cross_fit needs images of at least two classes, got {len(present)}; omit cross_fit=")
    if few := [class_names[c] for c in present if different[c] < 2]:
        raise DataError(
            f"cross_fit judges an image by others of its class, and class {few[0]!r} has fewer than two different "
            "images that can be read; add some, omit the class, or omit cross_fit="
        )
    if different.sum() < folds:
        raise DataError(f"cross_fit={folds} needs as many different images, got {different.sum()}; give fewer folds")


def _judged(
    fitting: np.ndarray, labels: np.ndarray, asked: np.ndarray, score: Score
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(c,) the classes of the fitting images; probabilities (m, c) and ood_score (m,) of the images that are asked
    about."""
    known, own = np.unique(labels, return_inverse=True)
    last = logistic_regression(fitting, own)
    h, of = torch.from_numpy(fitting), torch.from_numpy(asked)
    with torch.no_grad():
        score.fit(h, _logits(h, last), torch.from_numpy(own), last)
        logits = _logits(of, last)
        found = score(of, logits)
    return known, logits.softmax(-1).numpy(), found.float().numpy()


def logistic_regression(features: np.ndarray, labels: np.ndarray) -> LastLayer:
    """Weights (C, D) and bias (C,) float32 of a multinomial logistic regression on features (N, D), with labels (N,)
    from 0 to C - 1, each there."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread[spread == 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near its optimum it decides alike
        fitted = LogisticRegression(max_iter=_STEPS).fit((features - mean) / spread, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # of two classes: the logit of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return LastLayer(torch.from_numpy(weight).float(), torch.from_numpy(bias - weight @ mean).float())


def _logits(features: Tensor, last: LastLayer) -> Tensor:
    return torch.nn.functional.linear(features, last.weight, last.bias)
