"""How the source's images were coded: JPEG leaves its mark on every image, and outliers without it stand out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..preprocess import check_regular

PROBED = 32  # images

_UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Coding:
    """A JPEG's quantisation tables (64 numbers each), chroma subsampling (0 none, 1 4:2:2, 2 4:2:0), grey or not."""

    tables: tuple[tuple[int, ...], ...]
    subsampling: int
    grey: bool


def probe_codings(items: Iterable[Any], size: tuple[int, int]) -> tuple[Coding | None, ...]:
    """The coding of each encoded image; empty where none is a JPEG of `size` (height, width).

    None stands for an image without one: another format, raw pixels, or another size, because resizing removes most of
    what coding left behind.
    """
    found = tuple(_coding(item, size) for item in items)
    return found if any(found) else ()


def _coding(item: Any, size: tuple[int, int]) -> Coding | None:
    if not isinstance(item, bytes | bytearray | str | Path):
        return None
    try:
        if isinstance(item, str | Path):
            check_regular(os.fspath(item))
        with Image.open(io.BytesIO(item) if isinstance(item, bytes | bytearray) else item) as image:
            if image.format != "JPEG" or (image.height, image.width) != size or image.mode not in ("L", "RGB"):
                return None
            from PIL.JpegImagePlugin import get_sampling

            tables = tuple(tuple(t) for _, t in sorted(image.quantization.items()))  # type: ignore[attr-defined]
            return Coding(tables, max(0, get_sampling(image)), image.mode == "L")
    except _UNREADABLE:  # corrupt: named when it is decoded
        return None


def recode(pixels: np.ndarray, coding: Coding) -> np.ndarray:
    """uint8 (H, W, 1 or 3) after one round of JPEG with these tables."""
    channels = pixels.shape[-1]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if coding.grey or channels == 1:
        image = image.convert("L")
    luminance_only = image.mode == "L"
    tables = [list(t) for t in coding.tables[: 1 if luminance_only else None]]
    sampling = {} if luminance_only else {"subsampling": coding.subsampling}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", qtables=tables, **sampling)
    with Image.open(buffer) as decoded:
        array = np.asarray(decoded)
    return np.repeat(array[..., None], channels, -1) if array.ndim == 2 else array
