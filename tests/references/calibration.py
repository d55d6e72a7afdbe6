"""Calibration by its definitions: loops in float64, nothing shared with the package."""

from __future__ import annotations

import math

import numpy as np


def class_threshold_rank(n: int, alpha: float) -> int:
    """The smallest k with k / (n + 1) >= 1 - alpha, counted up."""
    k = 0
    while k / (n + 1) < 1 - alpha - 1e-12:
        k += 1
    return k


def p_value(score: float, label: int, scores: np.ndarray, labels: np.ndarray, least: int) -> float:
    """Of the predicted class's calibration scores, or of all where it has fewer than `least`."""
    own = [s for s, c in zip(scores, labels, strict=True) if c == label]
    if len(own) < least:
        own = list(scores)
    return (1 + sum(s >= score for s in own)) / (len(own) + 1)


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Sum over bins (i / bins, (i + 1) / bins] of n_b / N |accuracy_b - confidence_b|; a confidence of 0 is in the
    first."""
    total = 0.0
    for i in range(bins):
        members = []
        for row, label in zip(probabilities, labels, strict=True):
            confidence = float(max(row))
            if (i / bins < confidence or i == 0) and confidence <= (i + 1) / bins:
                members.append((confidence, float(int(np.argmax(row)) == label)))
        if members:
            confidence, accuracy = (sum(column) / len(members) for column in zip(*members, strict=True))
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean of log sum_c exp(f_c / T) - f_y / T."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        scaled = [float(f) / temperature for f in row]
        top = max(scaled)
        total += top + math.log(sum(math.exp(f - top) for f in scaled)) - scaled[label]
    return total / len(labels)
