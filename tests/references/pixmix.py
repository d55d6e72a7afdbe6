"""PixMix, one image and one number at a time: its operations with Pillow, its mixers in numpy, and what a pixel becomes
with which probability."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def mixed(mixer: str, x: np.ndarray, m: np.ndarray, a: float, b: float) -> np.ndarray:
    """x and m in [0, 1]; clipped."""
    if mixer == "add":
        made = (a * (2 * x - 1) + b * (2 * m - 1) + 1) / 2
    else:
        made = (2 * x) ** a * np.clip(2 * m, 2e-37, None) ** b / 2
    return np.clip(made, 0, 1)


def outcomes(x: float, m: float, a: float, b: float, rounds: int) -> dict[float, float]:
    """Value -> probability of a pixel x with the picture's pixel m, where copies are not varied and a and b fixed."""
    found: dict[float, float] = defaultdict(float)
    now: dict[float, float] = {x: 1.0}
    for _ in range(rounds + 1):
        after: dict[float, float] = defaultdict(float)
        for value, probability in now.items():
            found[value] += probability / (rounds + 1)
            for source in (x, m):
                for mixer in ("add", "multiply"):
                    after[float(mixed(mixer, np.array(value), np.array(source), a, b))] += probability / 4
        now = after
    return found


def operation(name: str, image: Image.Image, strength: float, negative: bool) -> Image.Image:
    """The operation `name` of PixMix's official code at severity 3, for a uniform `strength` in [0, 1)."""
    level, sign = 0.1 + 2.9 * strength, -1 if negative else 1
    width, height = image.size

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    def enhanced(kind: type) -> Image.Image:
        made: Image.Image = kind(image).enhance(level * 0.18 + 0.1)
        return made

    match name:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "posterize":
            return ImageOps.posterize(image, 4 - int(level * 4 / 10))
        case "solarize":
            return ImageOps.solarize(image, 256 - int(level * 25.6))
        case "rotate":
            return image.rotate(sign * int(level * 3), resample=Image.Resampling.BILINEAR)
        case "shear_x":
            return affine(1, sign * level * 0.03, 0, 0, 1, 0)
        case "shear_y":
            return affine(1, 0, 0, sign * level * 0.03, 1, 0)
        case "translate_x":
            return affine(1, 0, sign * int(level * width / 30), 0, 1, 0)
        case "translate_y":
            return affine(1, 0, 0, 0, 1, sign * int(level * height / 30))
        case "colour":
            return enhanced(ImageEnhance.Color)
        case "contrast":
            return enhanced(ImageEnhance.Contrast)
        case "brightness":
            return enhanced(ImageEnhance.Brightness)
        case "sharpness":
            return Image.blend(image.filter(ImageFilter.SMOOTH), image, level * 0.18 + 0.1)
    raise AssertionError(name)
