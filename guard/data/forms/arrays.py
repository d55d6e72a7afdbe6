"""Arrays and lists of images that are in memory already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...preprocess import check_regular
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows, sizes_as_bytes
from ..labels import labels_and_names

_TO_UINT8 = "for floats in 0..1: (images * 255).round().astype('uint8')"


class ArraySource:
    """uint8 images (M, H, W[, C]) with labels (M,) or None; nothing is copied."""

    in_order = False
    read_in_worker = False

    def __init__(
        self, images: np.ndarray, labels: Any = None, class_names: Sequence[str] | None = None, name: str = "arrays"
    ) -> None:
        self.name = name
        self.whole = _nhwc(images)
        if len(self.whole) and self.whole.size == 0:
            raise DataError(f"images of {name} have no pixels, shape {images.shape}")
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labels is not None:
            self.labels, self.class_names = labels_and_names(labels, class_names, len(self.whole), name)

    def __len__(self) -> int:
        return len(self.whole)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self.whole[row] for row in rows]

    def where(self, row: int) -> str:
        return f"image {row}: "

    def fingerprint(self) -> str:
        if self.whole.nbytes <= FULL_CONTENT_BYTES:
            content = [np.ascontiguousarray(self.whole)]
        else:
            content = [np.ascontiguousarray(self.whole[row]) for row in sample_rows(len(self))]
        shape = repr(self.whole.shape).encode()
        return fingerprint([shape, *(np.ravel(c) for c in content)], self.labels, self.class_names)


class ListSource:
    """A list of single images, each a path, encoded bytes, a PIL image or a uint8 array."""

    in_order = False
    read_in_worker = False

    def __init__(
        self, images: Sequence[Any], labels: Any = None, class_names: Sequence[str] | None = None, name: str = "images"
    ) -> None:
        self.name = name
        self._images = list(images)
        check_channels(self._images, name)
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labels is not None:
            self.labels, self.class_names = labels_and_names(labels, class_names, len(self._images), name)

    def __len__(self) -> int:
        return len(self._images)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self._images[row] for row in rows]

    def where(self, row: int) -> str:
        return f"image {row}: "

    def key(self, row: int) -> str:
        image = self._images[row]
        return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"#{row}"

    def fingerprint(self) -> str:
        return fingerprint((content(image) for image in self._images), self.labels, self.class_names)


def contents(images: Iterable[Any]) -> Iterator[Any]:
    """What the images of a table, encoded or paths, contribute to a fingerprint: their content, in order. Files above
    512 MiB together contribute their sizes, and a sample of them its content."""
    paths: list[Any] = []
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            paths.append(image)
        else:
            yield b"None" if image is None else content(image)
    sizes = [_size(path) for path in paths]
    whole = sum(sizes) <= FULL_CONTENT_BYTES
    if not whole:
        yield sizes_as_bytes(sizes)
    yield from (content(paths[row]) for row in (range(len(paths)) if whole else sample_rows(len(paths)).tolist()))


def _size(path: Any) -> int:
    """0 where there is no such file, which is reported when it is decoded."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def content(image: Any) -> Any:
    """What a single image contributes to a fingerprint: its bytes, or its pixels with their shape."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return image
    if hasattr(image, "convert"):  # PIL
        return f"{image.mode} {image.size}".encode() + image.tobytes()
    if isinstance(image, np.ndarray):
        return repr(image.shape).encode() + image.tobytes()
    try:
        check_regular(os.fspath(image))
        with open(image, "rb") as file:
            return file.read()
    except (OSError, TypeError, ValueError):  # reported as a corrupt image when it is decoded
        return repr(type(image)).encode()


def check_channels(images: Sequence[Any], name: str) -> None:
    """Refuse raw arrays of different channel counts: one of them is a mistake.

    Raises:
        DataError: names the first image that differs.
    """
    first: int | None = None
    for row, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            continue
        channels = image.shape[2] if image.ndim == 3 else 1
        if first is None:
            first = channels
        elif channels != first:
            raise mixed_channels(name, row, channels, first)


def mixed_channels(name: str, row: int, channels: int, first: int) -> DataError:
    return DataError(
        f"image {row} of {name} has {channels} channels where earlier ones have {first}; "
        "convert all images to grey or all to RGB"
    )


def not_pixels(what: str) -> DataError:
    return DataError(f"images must be uint8 with values 0..255, got {what}; {_TO_UINT8}")


def from_lists(image: list[Any]) -> np.ndarray:
    """The pixels of one image that a table holds as lists of numbers.

    Raises:
        DataError: fractions, or numbers outside 0..255.
    """
    try:
        values = np.asarray(image)
    except ValueError:  # lines of different lengths
        raise not_pixels("lists of different lengths") from None
    if values.dtype.kind not in "iu" or (values.size and (values.min() < 0 or values.max() > 255)):
        shown = f"{values.min()}..{values.max()}" if values.dtype.kind in "iuf" and values.size else "no numbers"
        raise not_pixels(f"{values.dtype} with {shown}")
    return values.astype(np.uint8)


def _nhwc(images: np.ndarray) -> np.ndarray:
    """Any accepted array as uint8 (M, H, W, C)."""
    if images.dtype != np.uint8:
        raise not_pixels(str(images.dtype))
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        fix = "; for channels-first arrays: images.transpose(0, 2, 3, 1)" if images.ndim == 4 else ""
        raise DataError(f"images must have shape (N, H, W) or (N, H, W, C) with C 1, 3 or 4, got {images.shape}{fix}")
    return images


def as_numpy(images: Any, *, many: bool = False) -> Any:
    """A torch tensor as the array it is, channels last; anything else unchanged.

    Args:
        many: it is a set of images, whose first dimension is no channel's: (4, 28, 28) is four grey ones.

    Raises:
        DataError: a tensor that is not uint8.
    """
    if not (hasattr(images, "detach") and hasattr(images, "numpy")):
        return images
    array = images.detach().cpu().numpy()
    if array.dtype != np.uint8:
        raise DataError(
            f"images must be uint8 with values 0..255, got a {array.dtype} tensor; "
            f"drop ToTensor() and Normalize() from the transform, or {_TO_UINT8.removeprefix('for ')}"
        )
    channels_first = array.ndim >= 3 + many and array.shape[-3] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4)
    return np.moveaxis(array, -3, -1) if channels_first else array
