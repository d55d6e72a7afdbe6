"""8-bit arithmetic in numpy, as slowly and as plainly as it is defined."""

from __future__ import annotations

import numpy as np


def rounded_weights(weight: np.ndarray, largest: int) -> np.ndarray:
    """(out, ...) rounded to levels -largest .. largest per output channel, symmetric around 0."""
    out = np.empty_like(weight)
    for channel in range(len(weight)):
        scale = np.float32(np.abs(weight[channel]).max()) / np.float32(largest)
        out[channel] = np.clip(np.round(weight[channel] / scale), -largest, largest) * scale
    return out


def activations_in_8_bits(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rounded to 256 levels between the smaller of low and 0 and the larger of high and 0; 0 is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale


def convolution(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, c, h, w) with (out, c, k, k), no padding, step 1."""
    n, _, height, width = x.shape
    out, _, k, _ = weight.shape
    found = np.zeros((n, out, height - k + 1, width - k + 1), np.float32)
    for i in range(height - k + 1):
        for j in range(width - k + 1):
            found[:, :, i, j] = np.einsum("ncij,ocij->no", x[:, :, i : i + k, j : j + k], weight)
    return found
