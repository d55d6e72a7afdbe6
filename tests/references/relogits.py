"""ReAct, DICE and ASH by their definitions: one image and one activation at a time, in float64, with nothing clever.

A last layer is (weight (C, D), bias (C,), scale); with a scale, logits are scale * cos(h, w_c). Functions return the
new logits (N, C).
"""

from __future__ import annotations

import math

import numpy as np

Layer = tuple[np.ndarray, np.ndarray | None, float | None]


def logits_of(h: np.ndarray, layer: Layer) -> list[float]:
    weight, bias, scale = layer
    values = []
    for c, w in enumerate(np.float64(weight)):
        product = float(sum(a * b for a, b in zip(w, h, strict=True)))
        if scale is None:
            values.append(product + (0.0 if bias is None else float(bias[c])))
        else:
            lengths = math.sqrt(sum(a * a for a in w)) * math.sqrt(sum(a * a for a in h))
            values.append(scale * product / lengths if lengths else 0.0)
    return values


def percentile(values: list[float], p: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * p / 100
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def react(features: np.ndarray, fitting: np.ndarray, layer: Layer, p: float) -> tuple[np.ndarray, float]:
    threshold = percentile([float(value) for h in fitting for value in h], p)
    rows = [logits_of(np.array([min(value, threshold) for value in h]), layer) for h in np.float64(features)]
    return np.array(rows), threshold


def dice(features: np.ndarray, fitting: np.ndarray, layer: Layer, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and which weights are kept (C, D). A cosine layer's terms are those of its unit features and weights."""
    weight, bias, scale = layer
    rows, inputs, effective = np.float64(features), np.float64(fitting), np.float64(weight)
    if scale is not None:
        rows = np.array([h / np.linalg.norm(h) for h in rows])
        inputs = np.array([h / np.linalg.norm(h) for h in inputs])
        effective = np.array([scale * w / np.linalg.norm(w) for w in effective])
    mean = [sum(column) / len(inputs) for column in inputs.T]
    contribution = [[w * m for w, m in zip(row, mean, strict=True)] for row in effective]
    limit = percentile([value for row in contribution for value in row], p)
    kept = np.array([[value >= limit for value in row] for row in contribution])
    logits = []
    for h in rows:
        offsets = np.zeros(len(effective)) if bias is None or scale is not None else np.float64(bias)
        logits.append(
            [
                offset + sum(w * x for w, x, keep in zip(row, h, keeps, strict=True) if keep)
                for row, keeps, offset in zip(effective, kept, offsets, strict=True)
            ]
        )
    return np.array(logits), kept


def ash(h: np.ndarray, k: int, variant: str) -> np.ndarray:
    """One image's features (D,) shaped; the k largest are kept, without zeros. No ties expected at the border."""
    h = np.float64(h)
    order = sorted(range(len(h)), key=lambda i: -h[i])[:k]
    kept = [i for i in order if h[i] != 0]
    shaped = np.zeros(len(h))
    for i in kept:
        shaped[i] = sum(h) / len(kept) if variant == "b" else h[i]
    if variant == "s" and kept:
        shaped *= math.exp(sum(h) / sum(shaped))
    return shaped


def scaled(h: np.ndarray, k: int) -> np.ndarray:
    """h exp(S1 / S2), S2 over the k largest."""
    row = [float(value) for value in h]
    top = sum(sorted(row)[-k:])
    return np.array([value * math.exp(sum(row) / top) for value in row])
