"""Labels are checked once, before anything is decoded or trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError


def checked_labels(labels: Any, class_names: Sequence[str] | None, count: int, name: str) -> np.ndarray:
    """(M,) int64 labels in 0 .. C-1 (in 0 .. without a list of names).

    Raises:
        DataError: another length, not integers, negative, or outside the class names.
    """
    values = np.asarray(labels.tolist() if hasattr(labels, "detach") else labels)
    if values.size == 0 and count == 0:
        return np.zeros(0, np.int64)
    if values.ndim != 1 or len(values) != count:
        raise DataError(
            f"{name} has {count} images but labels of shape {values.shape}; "
            f"give one integer per image, shape ({count},)"
        )
    if values.dtype.kind not in "iu":
        raise DataError(
            f"labels of {name} must be integers 0, 1, 2 ..., got {values.dtype} (e.g. {values[0]!r}); "
            "for names: names, labels = np.unique(labels, return_inverse=True)"
        )
    values = values.astype(np.int64)
    bad = np.flatnonzero(values < 0) if class_names is None else None
    if class_names is not None:
        bad = np.flatnonzero((values < 0) | (values >= len(class_names)))
    if bad is not None and bad.size:
        accepted = f"0..{len(class_names) - 1}" if class_names is not None else "0, 1, 2 ..."
        raise DataError(
            f"unknown label {values[bad[0]]} at row {bad[0]} of {name} ({bad.size} such); accepted: {accepted}; "
            "drop these rows, or give images without labels where labels are not needed"
        )
    return values


def check_classes(labels: np.ndarray, class_names: Sequence[str], name: str) -> None:
    """Refuse what cannot be learned: fewer than two classes, or a class without an image.

    Raises:
        DataError: with the class's name.
    """
    if len(class_names) < 2:
        raise DataError(
            f"{name} has {len(class_names)} class ({', '.join(class_names) or 'none'}); a classifier needs at least two"
        )
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [class_names[i] for i in np.flatnonzero(counts == 0).tolist()]
    if empty:
        shown = ", ".join(repr(n) for n in empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise DataError(
            f"{name} has no usable image of class {shown}; add images, or remove the class "
            "(integer labels must be 0 .. C-1 without gaps)"
        )


def check_names(class_names: Sequence[str], name: str) -> None:
    """Refuse class names that no file can keep: a guard's manifest is UTF-8.

    Raises:
        DataError: with the class's name.
    """
    for class_name in class_names:
        if printable(class_name) != class_name:
            raise DataError(
                f"the class name {printable(class_name)[:200]!r} of {name} is not UTF-8 or has a line break or another "
                "control character in it; rename the class or its folder"
            )


def printable(text: str) -> str:
    """Text that can be written anywhere: what is not UTF-8, and control characters, as escapes."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c >= " " and c != "\x7f" else c.encode("unicode_escape").decode() for c in text)
