"""Images that stand for out-of-distribution ones where none are given: made of in-distribution images, or drawn.

A third each: images of 4 x 4 and of 8 x 8 blocks in another order, and smooth noise. What a network loses in less than
float32 shows on some and not on others: a vision transformer whose patches are as large as the blocks hardly notices
their order.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BLOCKS = (4, 8)  # per side
CELLS = 4  # per side, of smooth noise before it is enlarged


def stand_ins(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """As many, uint8 (n, H, W, channels): of the first, fourth ... image its large blocks, and so on; noise
    by the seed."""
    made = np.array(images)
    for first, blocks in enumerate(BLOCKS):
        made[first::3] = scrambled(images[first::3], blocks)
    made[2::3] = smooth(images[2::3].shape, seed)
    return made


def scrambled(images: np.ndarray, blocks: int) -> np.ndarray:
    """uint8 (n, H, W, channels) with the blocks of each image in another order; a rest at the right and below stays."""
    n, height, width, channels = images.shape
    rows, columns = min(blocks, height), min(blocks, width)
    h, w = height // rows, width // columns
    part = images[:, : h * rows, : w * columns].reshape(n, rows, h, columns, w, channels).swapaxes(2, 3)
    pieces = part.reshape(n, rows * columns, h, w, channels)
    order = np.random.default_rng(0).permutation(rows * columns)
    moved = pieces[:, order].reshape(n, rows, columns, h, w, channels).swapaxes(2, 3)
    out = images.copy()
    out[:, : h * rows, : w * columns] = moved.reshape(n, h * rows, w * columns, channels)
    return out


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """uint8 of `shape` (n, H, W, channels): a few random colours, enlarged bicubically."""
    n, height, width, channels = shape
    cells = np.random.default_rng(seed).integers(0, 256, (n, channels, CELLS, CELLS), dtype=np.uint8)
    enlarged = [
        [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in image]
        for image in cells
    ]
    return np.array(enlarged, np.uint8).reshape(n, channels, height, width).transpose(0, 2, 3, 1)
