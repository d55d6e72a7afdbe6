"""An image as the bytes of a file: what a service is sent."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

#: Modes that PNG holds without loss, transparency included.
_KEPT = ("1", "L", "LA", "I;16", "RGB", "RGBA")


def encoded(image: Any) -> bytes:
    """Files and bytes as they are; PIL images and uint8 arrays as PNG, so that the service sees the same pixels.

    Args:
        image: a path, encoded bytes, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

    Raises:
        ImageError, MissingDataError: none of these, or no file at that path.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    from ..preprocess import as_picture, read_file

    if isinstance(image, (str, os.PathLike)):
        return read_file(os.fspath(image))
    with as_picture(image) as picture:
        return _png(picture)


def _png(picture: Image.Image) -> bytes:
    from ..preprocess import open_image

    exif: Image.Exif | None = picture.getexif()  # the service turns the image as it says
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert(picture.mode.upper())
    elif picture.mode in ("P", "PA"):
        see_through = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if see_through else "RGB")
    elif picture.mode not in _KEPT:
        picture, exif = open_image(picture), None  # CMYK, float ...: no transparency; turned already
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif, compress_level=1)
    return file.getvalue()
