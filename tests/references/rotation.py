"""The rotation score by its definition, and as OpenOOD and the official code compute it: one image at a time."""

from __future__ import annotations

import math

import numpy as np

from tests.references.scores import softmax


def rotation(logits: np.ndarray, turn_logits: np.ndarray) -> np.ndarray:
    """logits (N, C) of upright images; turn_logits (N, R, 4) of each image's first R turns. Natural logarithm."""
    scores = []
    for f, turns in zip(np.float64(logits), np.float64(turn_logits), strict=True):
        u = 1 / len(f)
        divergence = sum(u * math.log(u / p) for p in softmax(f))
        cross_entropy = [-math.log(softmax(g)[r]) for r, g in enumerate(turns)]
        scores.append(sum(cross_entropy) / len(cross_entropy) - divergence)
    return np.array(scores)


def published(logits: np.ndarray, turn_logits: np.ndarray) -> np.ndarray:
    """Theirs, higher = in-distribution: divergences from one-hot targets, in bits."""

    def divergence(target: np.ndarray, p: np.ndarray) -> float:
        return sum(t * math.log2(t / q) for t, q in zip(target, p, strict=True) if t)

    scores = []
    for f, turns in zip(np.float64(logits), np.float64(turn_logits), strict=True):
        of_class = divergence(np.full(len(f), 1 / len(f)), softmax(f))
        of_turns = [divergence(np.eye(4)[r], softmax(g)) for r, g in enumerate(turns)]
        scores.append(of_class - sum(of_turns) / 4)
    return np.array(scores)
