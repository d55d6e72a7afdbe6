"""Nearest-neighbour guidance by its definition, in float64, one image at a time."""

from __future__ import annotations

import math

import numpy as np


def energy(row: np.ndarray) -> float:
    return float(max(row)) + math.log(sum(math.exp(value - max(row)) for value in row))


def nnguide(
    features: np.ndarray, logits: np.ndarray, bank_features: np.ndarray, bank_logits: np.ndarray, k: int
) -> np.ndarray:
    """Scores (N,); the bank as features (M, D) and logits (M, C)."""
    bank = [
        (h / np.linalg.norm(h), energy(f))
        for h, f in zip(np.float64(bank_features), np.float64(bank_logits), strict=True)
    ]
    scores = []
    for h, f in zip(np.float64(features), np.float64(logits), strict=True):
        guides = sorted((e * float(z @ h) / np.linalg.norm(h) for z, e in bank), reverse=True)
        scores.append(-energy(f) * sum(guides[:k]) / k)
    return np.array(scores)
