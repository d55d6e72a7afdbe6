"""Temperature scaling: one number T that calibrates the probabilities, softmax(f / T), fitted on held-out labels.

    T = argmin  mean_i  -log softmax(f_i / T)[y_i]     Guo et al., "On Calibration of Modern Neural Networks", ICML 2017

In b = 1 / T this is convex (a log-likelihood of an exponential family), with

    derivative      mean_i  E_b[f_i] - f_i[y_i]               E_b: expectation of a logit under softmax(b f_i)
    2nd derivative  mean_i  Var_b[f_i]  >=  0

so the zero of the derivative is found by Newton's steps inside a bracket. A finite T > 0 exists where the likelihood
falls in both directions: some image is not classified right, and the labels are likelier than a uniform guess.

Exported guards show probabilities, not logits. That is enough: log p is f less a constant per image, and a softmax does
not see constants. A probability that underflowed to 0 stands for the smallest one that float32 has (log p >= -103.3).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ..errors import CalibrationError
from ..evaluation.metrics import expected_calibration_error
from ..manifest import TemperatureScaling

_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Labelled(NamedTuple):
    """Probabilities (n, C) of labelled images, and their true labels (n,)."""

    probabilities: np.ndarray
    labels: np.ndarray


def fit_temperature(held_out: Labelled, test: Labelled | None = None) -> TemperatureScaling:
    """Fit T on held-out images and measure what it does on the test images, or on the held-out ones without such.

    Raises:
        CalibrationError: labels that are not class indices, or images that no finite T fits best.
    """
    inverse = fit_inverse_temperature(held_out.probabilities, held_out.labels)
    measured_on: Literal["calibration", "test"] = "calibration" if test is None else "test"
    probabilities, labels = held_out if test is None else test
    after = tempered(probabilities, np.float32(inverse))
    return TemperatureScaling(
        value=1 / inverse,
        n=len(held_out.labels),
        measured_on=measured_on,
        measured_images=len(labels),
        ece_before=expected_calibration_error(probabilities, labels),
        ece_after=expected_calibration_error(after, labels),
        nll_before=negative_log_likelihood(probabilities, labels),
        nll_after=negative_log_likelihood(after, labels),
    )


def fit_inverse_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """b = 1 / T of the largest likelihood.

    Args:
        probabilities: (n, C) of images that the classifier was not trained on.
        labels: (n,) their true classes, 0 .. C - 1.
    """
    labels = checked_labels(labels, *np.shape(probabilities))
    logits = _log(probabilities)
    true = logits[np.arange(len(labels)), labels]
    if (true >= logits.max(1)).all():
        raise CalibrationError(
            f"all {len(labels)} labelled images are classified right, so that no temperature fits best (the sharper "
            "the probabilities, the likelier); give more or harder images, or omit temperature_scaling"
        )
    if true.mean() <= logits.mean():
        raise CalibrationError(
            f"the labels of {len(labels)} images are less likely than a uniform guess, so that no temperature fits: "
            "check that they are in the order of the guard's classes"
        )
    low, high, b = 0.0, np.inf, 1.0
    for _ in range(200):
        slope, curvature = _derivatives(logits, true, b)
        newton = b - slope / curvature if curvature > 0 else np.nan
        if abs(newton - b) <= 1e-12 * b:
            break
        low, high = (b, high) if slope < 0 else (low, b)
        b = newton if low < newton < min(high, 4 * b) else (low + high) / 2 if np.isfinite(high) else 2 * b
    return float(b)


def tempered(probabilities: np.ndarray, inverse: np.float32) -> np.ndarray:
    """(N, C) float32: softmax(log p / T), which is softmax(f / T) but for what underflowed; computed in float64."""
    scaled = _log(probabilities) * float(inverse)
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: np.ndarray = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return shares


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p[true class], in nats."""
    return float(-_log(probabilities)[np.arange(len(labels)), labels].mean())


def checked_labels(labels: np.ndarray, n: int, classes: int) -> np.ndarray:
    """(n,) int64 true labels in 0 .. classes - 1.

    Raises:
        CalibrationError: anything else.
    """
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise CalibrationError(
            f"labels must be one class index per image, {n} of them; got {labels.dtype} of shape {labels.shape}"
        )
    if n == 0 or labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}" if n else "none"
        raise CalibrationError(f"labels must be 0 to {classes - 1}, got {found}")
    return labels.astype(np.int64)


def _derivatives(logits: np.ndarray, true: np.ndarray, b: float) -> tuple[float, float]:
    scaled = b * logits
    p = np.exp(scaled - scaled.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mean = (p * logits).sum(1)
    variance = (p * (logits - mean[:, None]) ** 2).sum(1)
    return float((mean - true).mean()), float(variance.mean())


def _log(probabilities: np.ndarray) -> np.ndarray:
    """(n, C) float64."""
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _SMALLEST))
