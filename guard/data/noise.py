"""Noise as an OOD set: images without anything in them, of the size that a guard takes.

gaussian_noise   each number N(0.5, 1), cut to [0, 1]   (Liang, Li & Srikant, ICLR 2018)
uniform_noise    each number U(0, 1)                    (the same)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..manifest import Preprocess
from .image_data import ImageData
from .loading import load

NOISE = "gaussian_noise", "uniform_noise"
COUNT = 1000  # images, unless another number is asked for


def is_noise(data: Any) -> bool:
    """Whether `data` is the name of a noise set, and not of a file or folder."""
    return isinstance(data, str) and data in NOISE and not Path(data).exists()


def noise_images(
    kind: str, preprocess: Preprocess, count: int | None = None, *, seed: int = 0, name: str = ""
) -> ImageData:
    """uint8 images (count, H, W, channels) of that noise; default 1,000."""
    shape = (count or COUNT, preprocess.height, preprocess.width, preprocess.channels)
    draw = np.random.default_rng([seed, NOISE.index(kind)])
    values = draw.normal(0.5, 1, shape) if kind == "gaussian_noise" else draw.random(shape)
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return load(pixels, preprocess=preprocess, labelled=False, name=name or kind)
