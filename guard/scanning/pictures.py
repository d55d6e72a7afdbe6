"""Small pictures of a few images of a data set, for its report: as they are, not as the network sees them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import GuardError
from ..preprocess import open_image
from .reading import Reading

SIDE = 128  # pixels of the longer side
_TINY = 64


@dataclass(frozen=True)
class Picture:
    """A data URI; `tiny` ones are shown with visible pixels rather than smoothed."""

    uri: str
    tiny: bool


def pictures(source: Reading, rows: Iterable[int], max_pixels: int) -> dict[int, Picture]:
    """By row; one that cannot be read (any more) is left out."""
    found = {}
    for row in sorted(set(rows)):  # in the order of the data: a row group is read once
        (item,) = source.items(np.array([row]))
        if isinstance(item, GuardError):
            continue
        try:
            image = open_image(item, max_pixels=max_pixels)
        except GuardError:
            continue
        tiny = max(image.size) <= _TINY
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        if tiny:
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=82)
        kind, content = "png" if tiny else "jpeg", base64.b64encode(buffer.getvalue()).decode("ascii")
        found[row] = Picture(f"data:image/{kind};base64,{content}", tiny)
    return found
