"""Numbers of an image that say nothing about what it shows; each uint8 (n, H, W, 1 or 3) -> float64 (n,).

sharpness            mean |4 g - its four neighbours| of luminance g, in grey levels (a Laplacian)
relative sharpness   sharpness / contrast
contrast             standard deviation of luminance
saturation           mean over pixels of (largest - smallest channel)
brightness           mean luminance
kurtosis             of the Laplacian's values: 3 for normal noise, larger where edges stand in smooth surfaces
noise level          sqrt(pi / 2) / 6 times the mean |x * [1 -2 1; -2 4 -2; 1 -2 1]|, grey levels (Immerkaer, CVIU 1996)
clipped share        of the values that are 0 or 255
coded bytes          length of the image as a JPEG of quality 95, colour not subsampled
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from ..matching import LUMINANCE

_FLAT = 0.5  # grey levels of contrast below which an image has nothing to be sharp about


def luminance(images: np.ndarray) -> np.ndarray:
    """Grey levels, float64 (n, H, W)."""
    return images[..., 0].astype(np.float64) if images.shape[-1] == 1 else images @ np.array(LUMINANCE)


def laplacian(images: np.ndarray) -> np.ndarray:
    """4 g less its neighbours inside the border, (n, H - 2, W - 2); (n, 1, 1) of 0 where a side is under 3 pixels."""
    g = luminance(images)
    if min(g.shape[1:]) < 3:
        return np.zeros((len(g), 1, 1))
    around = g[:, :-2, 1:-1] + g[:, 2:, 1:-1] + g[:, 1:-1, :-2] + g[:, 1:-1, 2:]
    difference: np.ndarray = 4 * g[:, 1:-1, 1:-1] - around
    return difference


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean magnitude of the Laplacian inside the border; 0 where a side is shorter than 3 pixels."""
    magnitude: np.ndarray = np.abs(laplacian(images)).mean((1, 2))
    return magnitude


def kurtosis(images: np.ndarray) -> np.ndarray:
    """E (l - E l)^4 / (E (l - E l)^2)^2 of the Laplacian's values l; 0 where they are all alike."""
    values = laplacian(images).reshape(len(images), -1)
    squares = (values - values.mean(1, keepdims=True)) ** 2
    second = squares.mean(1)
    ratio: np.ndarray = np.where(second > 1e-6, (squares**2).mean(1) / np.maximum(second, 1e-6) ** 2, 0.0)
    return ratio


def noise_level(images: np.ndarray) -> np.ndarray:
    """Deviation of white noise, estimated; 0 where a side is shorter than 3 pixels."""
    g = luminance(images)
    if min(g.shape[1:]) < 3:
        return np.zeros(len(g))
    rows = g[:, :-2] - 2 * g[:, 1:-1] + g[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    level: np.ndarray = np.sqrt(np.pi / 2) / 6 * np.abs(both).mean((1, 2))
    return level


def clipped_share(images: np.ndarray) -> np.ndarray:
    share: np.ndarray = ((images == 0) | (images == 255)).mean((1, 2, 3))
    return share


def relative_sharpness(images: np.ndarray) -> np.ndarray:
    """Sharpness that scaling the contrast does not change."""
    ratio: np.ndarray = sharpness(images) / contrast(images).clip(_FLAT)
    return ratio


def contrast(images: np.ndarray) -> np.ndarray:
    deviation: np.ndarray = luminance(images).std((1, 2))
    return deviation


def saturation(images: np.ndarray) -> np.ndarray:
    """0 for grey images."""
    spread: np.ndarray = (images.max(-1).astype(np.float64) - images.min(-1)).mean((1, 2))
    return spread


def brightness(images: np.ndarray) -> np.ndarray:
    mean: np.ndarray = luminance(images).mean((1, 2))
    return mean


def coded_bytes(images: np.ndarray) -> np.ndarray:
    return np.array([_jpeg_length(image) for image in images], np.float64)


def _jpeg_length(pixels: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.tell()


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sharpness": sharpness,
    "relative sharpness": relative_sharpness,
    "contrast": contrast,
    "saturation": saturation,
    "brightness": brightness,
    "kurtosis": kurtosis,
    "noise level": noise_level,
    "clipped share": clipped_share,
    "coded bytes": coded_bytes,
}
# what `match=` equalises each; one of them is enough, and the first is the mildest
REMEDIES = {
    "sharpness": ("spectrum",),
    "relative sharpness": ("spectrum",),
    "contrast": ("contrast", "spectrum", "histogram"),
    "saturation": ("saturation",),
    "brightness": ("brightness", "spectrum", "histogram"),
    "kurtosis": ("detail",),
    "noise level": ("spectrum", "detail"),
    "clipped share": ("histogram",),
    "coded bytes": ("spectrum",),
}
