"""Labels are checked once, before anything is decoded or trained."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError

_NUMBER = r"-?(0|[1-9]\d{0,8})(\.\d+)?"  # "007" is a name


def labels_and_names(
    labels: Any, class_names: Sequence[str] | None, count: int, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(M,) int64 labels in 0 .. C-1, and the C names of their classes.

    Labels may be integers (also as bool, as whole floats or as text, from 0) or names. Integers have the names "0",
    "1", ... where there are none; names are sorted as text, integers as text from elsewhere than 0 by their value.

    Args:
        labels: any sequence of `count` labels: list, numpy, pandas, torch.
        class_names: one per class, where these are known.

    Raises:
        DataError: another length, no labels of these kinds, negative, or outside the class names.
    """
    values = _array(labels)
    if class_names is not None and not isinstance(class_names, dict):
        class_names = tuple(str(n) for n in class_names)
    if values.dtype.kind in "OSU" and values.ndim == 1 and len(values) == count and count:
        values, class_names = _coded(values, class_names, name)
    checked = checked_labels(values, class_names, count, name)
    if class_names is None:
        class_names = tuple(str(i) for i in range(int(checked.max(initial=-1)) + 1))
    return checked, tuple(class_names)


def _array(labels: Any) -> np.ndarray:
    """Labels as an array; a column (M, 1) as the M labels in it."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().tolist()
    kind = getattr(labels, "dtype", None)
    if type(labels).__module__.split(".")[0] == "pandas" and str(kind) == "category":
        labels = list(labels)
    if isinstance(labels, (list, tuple)) and any(isinstance(label, (str, bytes)) for label in labels):
        values = np.empty(len(labels), object)  # NumPy would turn what is missing into the text "nan"
        values[:] = labels
        return values
    try:
        values = np.asarray(labels)
    except ValueError:  # of different lengths
        values = np.empty(len(labels), object)
        values[:] = labels
    if values.dtype == object and values.size:  # pandas' own integers, numpy scalars, tensors of one element
        plain = [
            item.item() if getattr(item, "ndim", None) == 0 and hasattr(item, "item") else item for item in values.flat
        ]
        if all(isinstance(item, (int, float)) for item in plain):
            values = np.array(plain).reshape(values.shape)
        else:
            kept = np.empty(len(plain), object)
            kept[:] = plain
            values = kept.reshape(values.shape)
    return values.reshape(-1) if values.ndim == 2 and values.size == len(values) else values


def _coded(values: np.ndarray, class_names: Sequence[str] | None, name: str) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels that are text as integers, and the names that these stand for."""
    texts = _texts(values.tolist(), name)
    if class_names is None or not set(texts) <= set(class_names):
        texts = _without_fractions(texts, name)
    if class_names is not None and (unknown := set(texts) - set(class_names)):
        if not all(re.fullmatch(r"\d{1,9}", text, re.ASCII) for text in unknown):
            row = next(row for row, text in enumerate(texts) if text in unknown)
            raise DataError(f"unknown label {texts[row]!r} at row {row} of {name}; its classes are {_few(class_names)}")
        return np.array([int(text) for text in texts]), class_names
    if class_names is not None:
        at = {known: index for index, known in enumerate(class_names)}
        return np.array([at[text] for text in texts]), class_names
    found = sorted(set(texts))
    if all(re.fullmatch(_NUMBER, text, re.ASCII) for text in found) and any(text[0] == "-" for text in found):
        return np.array([int(text) for text in texts]), None  # refused, as negative integers are
    if all(re.fullmatch(r"0|[1-9]\d{0,8}", text, re.ASCII) for text in found):
        found.sort(key=int)
        if found[0] == "0":
            return np.array([int(text) for text in texts]), None
    at = {known: index for index, known in enumerate(found)}
    return np.array([at[text] for text in texts]), found


def _texts(values: list[Any], name: str) -> list[str]:
    """Labels that are text. What is missing is named first: beside it, integers are objects too."""
    missing = next((row for row, value in enumerate(values) if _is_missing(value)), None)
    if missing is not None:
        _text(values[missing], missing, name)
    return [_text(value, row, name) for row, value in enumerate(values)]


def _is_missing(value: Any) -> bool:
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (type(value) is float and math.isnan(value))
    )


def _without_fractions(texts: list[str], name: str) -> list[str]:
    """Numbers as text, where all labels are such, as whole ones: "3.0" is "3".

    Raises:
        DataError: "nan" among any labels, or a number that is none.
    """
    found = set(texts)
    if blank := {text for text in found if text.strip().lower() == "nan"}:
        row = next(row for row, text in enumerate(texts) if text in blank)
        raise DataError(
            f"the label at row {row} of {name} is {texts[row]!r}, which is how a missing one is written; give every "
            "image the name or the index of its class"
        )
    if not all(re.fullmatch(_NUMBER, text, re.ASCII) for text in found) or not any("." in text for text in found):
        return texts
    return [str(number) for number in _whole(np.array([float(text) for text in texts]), name).tolist()]


def _text(value: Any, row: int, name: str) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, (int, np.integer)):
        raise DataError(f"the label at row {row} of {name} is {value}, others are text; give names, or integers")
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if isinstance(value, str) else f"is {value}"
        raise DataError(f"the label at row {row} of {name} {what}; give every image the name or the index of its class")
    return value


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def checked_labels(labels: Any, class_names: Sequence[str] | None, count: int, name: str) -> np.ndarray:
    """(M,) int64 labels in 0 .. C-1 (in 0 .. without a list of names).

    Raises:
        DataError: another length, not integers, negative, or outside the class names.
    """
    values = _array(labels)
    if values.size == 0 and count == 0:
        return np.zeros(0, np.int64)
    if values.ndim != 1 or len(values) != count:
        one_hot = values.ndim == 2 and len(values) == count
        raise DataError(
            f"{name} has {count} images but labels of shape {values.shape}; "
            f"give one integer per image, shape ({count},)" + (": labels.argmax(1) of one-hot rows" if one_hot else "")
        )
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind == "f":
        values = _whole(values, name)
    if values.dtype.kind not in "iu":
        raise DataError(
            f"labels of {name} must be integers 0, 1, 2 ... or names, got {values.dtype} (e.g. {values[0]!r}); "
            "for names: names, labels = np.unique(labels, return_inverse=True)"
        )
    if values.dtype.kind == "u":
        values = np.minimum(values, np.uint64(2**62))
    values = values.astype(np.int64)
    most = len(class_names) if class_names is not None else max(count * 1000, 10**6)
    bad = np.flatnonzero((values < 0) | (values >= most))
    if bad.size:
        accepted = f"0..{len(class_names) - 1}" if class_names is not None else "0, 1, 2 ..."
        raise DataError(
            f"unknown label {values[bad[0]]} at row {bad[0]} of {name} ({bad.size} such); accepted: {accepted}; "
            "drop these rows, or give images without labels where labels are not needed"
        )
    return values


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Floats that are integers, as those."""
    bad = np.flatnonzero(~(np.isfinite(values) & (values == np.round(np.where(np.isfinite(values), values, 0)))))
    if bad.size:
        raise DataError(
            f"label {values[bad[0]]} at row {bad[0]} of {name} is not a class ({bad.size} such); labels are integers "
            "0, 1, 2 ... or names; drop these rows, or give a label column that is one"
        )
    return values.clip(-(2.0**62), 2.0**62).astype(np.int64)


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
    if text.isprintable() and text.isascii():  # nearly every name
        return text
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c >= " " and c != "\x7f" else c.encode("unicode_escape").decode() for c in text)
