"""From an 8-bit image of any size to the input's size: the arithmetic of torchvision, timm and Hugging Face.

    squash   Resize((h, w))     the size before the cut is that of the input, or `resize_to`
    crop     Resize(side)       the shorter side to that, the longer one rounded down (torchvision, Hugging Face)
             of an oblong       the side that must be scaled more, the other rounded (timm's ResizeKeepRatio)
    pad      longest=1          the side that must be scaled less, the other rounded (timm's crop_mode "border")

Then the centre is cut where there is too much and filled where there is too little. All of the image is resampled and
then cut, as they do: to the last bit. Only where that would be enormous (a strip of 1 x 40,000,000 pixels), and for
guards of format 2, the part that is kept is resampled alone; Pillow rounds between rows and columns, so that a level
may differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from .manifest import Preprocess

_WHOLE_PIXELS = 16_000_000  # of an image that is scaled before it is cut
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


class Plan(NamedTuple):
    """What becomes of an image of one size; all (width, height) in pixels.

    Attributes:
        scaled: the size of the whole image before the cut.
        corner: left and top of the part that is kept.
        kept: its size; smaller than the input where the rest is filled.
        box: that part in pixels of the image: left, top, right, bottom.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    kept: tuple[int, int]
    box: tuple[float, float, float, float]


def resized(image: Image.Image, config: Preprocess) -> np.ndarray:
    """A PIL image of mode "L" or "RGB" as uint8 (config.height, config.width, config.channels); grey is repeated."""
    target = (config.width, config.height)
    if image.size != target or not config.keeps_own_size:
        image = _scaled(image, config)
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] != config.channels:
        pixels = np.repeat(pixels, config.channels, axis=2)
    return pixels if image.size == target else _filled(pixels, config)


def plan(size: tuple[int, int], config: Preprocess) -> Plan:
    """Where an image of `size` (width, height) goes."""
    target = (config.width, config.height)
    scaled = _before_the_cut(size, config)
    kept = (min(scaled[0], target[0]), min(scaled[1], target[1]))
    spare = (scaled[0] - kept[0], scaled[1] - kept[1])
    left, top = (side // 2 if config.crop_like == "hugging_face" else round(side / 2) for side in spare)
    box = [corner * side / whole for corner, side, whole in zip((left, top), size, scaled, strict=True)]
    for corner, part, side, whole in zip((left, top), kept, size, scaled, strict=True):
        box.append(min((corner + part) * side / whole, side))
    return Plan(scaled, (left, top), kept, (box[0], box[1], box[2], box[3]))


def _scaled(image: Image.Image, config: Preprocess) -> Image.Image:
    """The part of the image that is kept, at its new size."""
    scaled, (left, top), kept, box = plan(image.size, config)
    resample = _FILTERS[config.interpolation]
    alone = config.format_2 and config.crop_like != "hugging_face"
    if scaled == kept:
        return image.resize(kept, resample)
    if alone or scaled[0] * scaled[1] > _WHOLE_PIXELS:
        return image.resize(kept, resample, box=box)
    return image.resize(scaled, resample).crop((left, top, left + kept[0], top + kept[1]))


def _before_the_cut(size: tuple[int, int], config: Preprocess) -> tuple[int, int]:
    height, width = config.resize_to or (config.height, config.width)
    if config.resize == "squash":
        return width, height
    if config.format_2:
        axis = 0 if width * size[1] >= height * size[0] else 1
        other = (width, height)[axis] * size[1 - axis] // size[axis]
        return (width, max(other, config.height)) if axis == 0 else (max(other, config.width), height)
    if config.resize == "crop" and width == height:
        short = min(size)
        return max(1, width * size[0] // short), max(1, width * size[1] // short)
    ratios = (size[1] / height, size[0] / width)  # timm's arithmetic, to the last bit
    ratio = min(ratios) if config.resize == "crop" else max(ratios)
    return max(1, round(size[0] * 1.0 / ratio)), max(1, round(size[1] * 1.0 / ratio))


def _filled(pixels: np.ndarray, config: Preprocess) -> np.ndarray:
    """The pixels in the middle of `fill`; what is left over of an odd margin goes to the right and below."""
    canvas = np.empty((config.height, config.width, config.channels), np.uint8)
    canvas[:] = config.fill or 0
    top, left = (config.height - pixels.shape[0]) // 2, (config.width - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
