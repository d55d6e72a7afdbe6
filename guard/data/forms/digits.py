"""The embedded default: scikit-learn's 1,797 handwritten digits (8 x 8), enlarged to 32 x 32 grey images."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from ...errors import DataError, MissingExtraError
from .arrays import ArraySource

SIDE = 32
PATTERN = re.compile(r"digits(:.*)?")


def open_digits(text: str, *, labelled: bool) -> ArraySource:
    """``"digits"``, or some classes of it: ``"digits:0-7"``, ``"digits:3,5,8-9"`` (relabelled 0, 1, ... in that order).

    Pixels are the 17 grey levels 0 .. 16 times 255 / 16, rounded, then enlarged by Pillow's bicubic filter.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn, which brings the digits,", "train") from error
    bunch = load_digits()
    wanted = _classes(text)
    rows = np.flatnonzero(np.isin(bunch.target, wanted))
    small = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in small]
    labels = np.array([wanted.index(digit) for digit in bunch.target[rows]], np.int64)
    names = [str(digit) for digit in wanted]
    return ArraySource(np.stack(large), labels if labelled else None, names, name=text)


def _classes(text: str) -> list[int]:
    _, _, choice = text.partition(":")
    wanted: list[int] = []
    for part in choice.split(",") if ":" in text else ["0-9"]:
        match = re.fullmatch(r"([0-9])(?:-([0-9]))?", part.strip())
        if not match:
            raise DataError(f"unknown digits {text!r}; accepted: 'digits', 'digits:0-7', 'digits:3,5,8-9'")
        first, last = int(match[1]), int(match[2] or match[1])
        wanted += [digit for digit in range(first, last + 1) if digit not in wanted]
    if not wanted:
        raise DataError(f"{text!r} names no digit; accepted: 'digits', 'digits:0-7', 'digits:3,5,8-9'")
    return wanted
