"""What `Guard.predict` is given, as a sequence of single images; arrays that can be read in two ways are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ImageError

_CHANNELS = (1, 3, 4)
_FEWEST_COLUMNS = 16  # pixels; a narrower last dimension, half of the others, is rather one of channels


def as_sequence(images: Any) -> Sequence[Any]:
    """One image becomes a list of one; arrays (N, H, W[, C]) are sequences already.

    Raises:
        ImageError: an array that is neither an image nor a batch, or that may be either.
    """
    array = _array(images)
    if array is not None:
        return _of_array(array)
    if isinstance(images, (str, bytes, bytearray, memoryview, Path)) or hasattr(images, "convert"):
        return [images]
    if isinstance(images, Mapping):
        raise ImageError("images are given as a list or an array, got a mapping; give list(images.values())")
    if hasattr(images, "read"):
        return [_one(images)]
    if isinstance(images, (Sequence, Iterator)) or hasattr(images, "__iter__"):
        return [_one(image) for image in images]
    return [images]


def _of_array(images: np.ndarray) -> Sequence[Any]:
    shape = images.shape
    if images.dtype == object or images.dtype.kind == "U":  # of paths
        return [_one(image) for image in images]
    if images.ndim == 2 or (images.ndim == 3 and shape[-1] in _CHANNELS):
        return [images]
    if images.ndim == 3:
        _check_grey(shape)
        return images  # type: ignore[return-value]  # rows by index, as a sequence has them
    if images.ndim != 4:
        raise ImageError(f"images must have shape (H, W[, C]) or (N, H, W[, C]), got {shape}")
    if shape[-1] not in _CHANNELS and shape[1] in _CHANNELS:
        raise ImageError(
            f"the images of an array of shape {shape} have their channels first; give images.transpose(0, 2, 3, 1)"
        )
    return images  # type: ignore[return-value]


def _check_grey(shape: tuple[int, ...]) -> None:
    """Refuse an array (N, H, W) that may as well be one image with its channels first or last."""
    first, height, width = shape
    if first in (3, 4):
        raise ImageError(
            f"an array of shape {shape} may be one image with its channels first, or {first} grey ones; give "
            "image.transpose(1, 2, 0) for the one, images[..., None] for the others"
        )
    if width == 2 or (width < _FEWEST_COLUMNS and 2 * width < min(first, height)):
        raise ImageError(
            f"an array of shape {shape} looks like one image of {width} channels, and a guard takes 1, 3 or 4; give "
            "images[..., None] where they are grey images"
        )


def _one(image: Any) -> Any:
    """One of several images; a tensor (C, H, W) among them can only have its channels first."""
    if hasattr(image, "read") and not hasattr(image, "convert"):
        raise ImageError("an open file is not an image; give its content: file.read()")
    array = _array(image)
    if array is None:
        return image
    first = hasattr(image, "detach") and array.ndim == 3 and array.shape[0] in _CHANNELS
    return np.moveaxis(array, 0, -1) if first and array.shape[-1] not in _CHANNELS else array


def _array(images: Any) -> np.ndarray | None:
    """An array, or a tensor of torch or another library as one; None for anything else."""
    if isinstance(images, np.ndarray):
        return images
    if hasattr(images, "convert") or isinstance(images, (Sequence, np.generic)):
        return None
    if hasattr(images, "detach") and hasattr(images, "cpu"):
        kind = str(images.dtype).removeprefix("torch.")
        if kind != "uint8":
            raise ImageError(
                f"images must be uint8 with values 0..255, got a {kind} tensor; "
                "for floats in 0..1: (images * 255).round().to(torch.uint8), before any normalisation"
            )
        array = np.asarray(images.detach().cpu().numpy())
        first = array.ndim == 4 and array.shape[1] in _CHANNELS and array.shape[-1] not in _CHANNELS
        return np.moveaxis(array, 1, -1) if first else array
    return np.asarray(images) if hasattr(images, "__array__") else None
