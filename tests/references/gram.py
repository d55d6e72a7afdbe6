"""Gram deviations by their definition: whole Gram matrices, one image at a time, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.references.scores import softmax


def row_sums(layer_map: np.ndarray, power: int) -> np.ndarray:
    """(F^p F^p') summed over its columns, then the p-th root that keeps the sign; layer_map (c, ...) -> (c,)."""
    rows = np.float64(layer_map).reshape(len(layer_map), -1)
    matrix = np.array([[float((a**power) @ (b**power)) for b in rows] for a in rows])
    sums = matrix.sum(1)
    return np.sign(sums) * np.abs(sums) ** (1 / power)


def statistics(maps: Sequence[np.ndarray], powers: Sequence[int]) -> list[np.ndarray]:
    """One image's numbers: per layer (c_l len(powers),)."""
    return [np.concatenate([row_sums(layer_map, p) for p in powers]) for layer_map in maps]


def outside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    total = 0.0
    for v, a, b in zip(values, low, high, strict=True):
        if v < a:
            total += (a - v) / (abs(a) + 1e-6)
        if v > b:
            total += (v - b) / (abs(b) + 1e-6)
    return total


class Gram:
    """Fitted to images whose statistics, logits and membership of the held-out tenth are given.

    fitted: per image, per layer, the numbers of `statistics`; logits (n, C); held (n,) bool.
    """

    def __init__(self, fitted: Sequence[Sequence[np.ndarray]], logits: np.ndarray, held: np.ndarray) -> None:
        self.layers = len(fitted[0])
        self.bounds = {}
        predicted = logits.argmax(1)
        for c in range(logits.shape[1]):
            mine = [s for s, p, h in zip(fitted, predicted, held, strict=True) if p == c and not h]
            mine = mine or [s for s, h in zip(fitted, held, strict=True) if not h]
            for layer in range(self.layers):
                rows = np.stack([s[layer] for s in mine])
                self.bounds[c, layer] = rows.min(0), rows.max(0)
        kept = [(s, p) for s, p, h in zip(fitted, predicted, held, strict=True) if h]
        self.expected = []
        for layer in range(self.layers):
            mean = np.mean([outside(s[layer], *self.bounds[p, layer]) for s, p in kept]) if kept else 0.0
            self.expected.append(mean if mean > 0 else 1.0)

    def __call__(self, queries: Sequence[Sequence[np.ndarray]], logits: np.ndarray) -> np.ndarray:
        scores = []
        for query, row in zip(queries, np.float64(logits), strict=True):
            parts = [outside(query[i], *self.bounds[row.argmax(), i]) / self.expected[i] for i in range(self.layers)]
            scores.append(sum(parts) / max(softmax(row)))
        return np.array(scores)
