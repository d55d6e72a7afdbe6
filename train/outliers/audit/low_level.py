"""Numbers of an image that say nothing about what it shows; each uint8 (n, H, W, 1 or 3) -> float64 (n,).

sharpness            mean |4 g - its four neighbours| of luminance g, in grey levels (a Laplacian)
relative sharpness   sharpness / contrast
contrast             standard deviation of luminance
saturation           mean over pixels of (largest - smallest channel)
brightness           mean luminance
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


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean magnitude of the Laplacian inside the border; 0 where a side is shorter than 3 pixels."""
    g = luminance(images)
    if min(g.shape[1:]) < 3:
        return np.zeros(len(g))
    around = g[:, :-2, 1:-1] + g[:, 2:, 1:-1] + g[:, 1:-1, :-2] + g[:, 1:-1, 2:]
    magnitude: np.ndarray = np.abs(4 * g[:, 1:-1, 1:-1] - around).mean((1, 2))
    return magnitude


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
    "coded bytes": coded_bytes,
}
# what `match=` equalises each; one of them is enough, and the first is the mildest
REMEDIES = {
    "sharpness": ("spectrum",),
    "relative sharpness": ("spectrum",),
    "contrast": ("contrast", "spectrum"),
    "saturation": ("saturation",),
    "brightness": ("brightness", "spectrum"),
    "coded bytes": ("spectrum",),
}
