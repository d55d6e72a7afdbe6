"""Out-of-distribution images made on the spot, for the demo: nothing is downloaded, every image follows from a seed.

Each function returns uint8 images of `side` x `side` pixels: (n, side, side, 3), or grey (n, side, side) for `letters`.
"""

from __future__ import annotations

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import MissingExtraError

#: Drawn like a digit by most people and fonts: I 1, O 0, S 5, Z 2. They would not be out-of-distribution.
AMBIGUOUS = "IOSZ"
LETTERS = "".join(c for c in string.ascii_uppercase if c not in AMBIGUOUS)


def photo_patches(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Square patches of scikit-learn's two sample photographs (a temple, a flower), `side` to 6 `side` pixels wide,
    scaled down to `side`."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise MissingExtraError("scikit-learn, which brings the photographs,", "train") from error
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    random = np.random.default_rng(seed)
    patches = []
    for index in range(n):
        photo = photos[index % len(photos)]
        width = int(random.integers(side, min(6 * side, *photo.size) + 1))
        left, top = (int(random.integers(0, extent - width + 1)) for extent in photo.size)
        box = (left, top, left + width, top + width)
        patches.append(np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR, box=box)))
    return np.stack(patches)


def uniform_noise(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Every value of every pixel uniform in 0 .. 255."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def smooth_noise(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Low-pass noise: a random 5 x 5 image enlarged by Pillow's bicubic filter, stretched to 0 .. 255 per channel."""
    random = np.random.default_rng(seed)
    images = np.empty((n, side, side, 3), np.uint8)
    for index in range(n):
        for channel in range(3):
            coarse = Image.fromarray(random.random((5, 5), dtype=np.float32))
            fine = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
            images[index, :, :, channel] = np.rint(255 * (fine - fine.min()) / np.ptp(fine))
    return images


def letters(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Capital letters in Pillow's built-in font, white on black like the digits; size, angle and place vary.

    The letters of `AMBIGUOUS` are left out.
    """
    random = np.random.default_rng(seed)
    images = []
    for index in range(n):
        font = ImageFont.load_default(size=side * random.uniform(0.75, 1.0))
        canvas = Image.new("L", (side, side))
        x, y = side / 2 + random.uniform(-0.05, 0.05, 2) * side
        ImageDraw.Draw(canvas).text((x, y), LETTERS[index % len(LETTERS)], fill=255, font=font, anchor="mm")
        images.append(np.asarray(canvas.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)))
    return np.stack(images)
