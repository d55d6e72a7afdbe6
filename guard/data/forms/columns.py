"""Which column of a table holds the images and which the labels: by name, else by what the columns hold.

kind of a column    "image" (bytes, pictures, or the Image of a Hugging Face data set), "path" (text that looks like
                    image files), "class" (a ClassLabel), "label" (other text, integers) or "" (anything else)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ..class_names import listed
from .listing import SUFFIXES

IMAGE_NAMES = ("image", "img", "images", "picture")
PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img_path", "image_file")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "class_name", "label_name", "category", "y")


def image_column(columns: Sequence[str], kinds: Mapping[str, str], name: str) -> str:
    """The column called `image` (or img, path ...), else the only one that holds images or paths of images.

    Raises:
        DataError: with the columns there are.
    """
    named = _named((*IMAGE_NAMES, *PATH_NAMES), columns)
    fit = [column for column in named if kinds.get(column, "image") in ("image", "path")]
    if fit or named:
        return (fit or named)[0]
    for wanted in ("image", "path"):
        typed = [column for column in columns if kinds.get(column) == wanted]
        if len(typed) == 1:
            return typed[0]
    raise _missing("image", (*IMAGE_NAMES, "path", "filename"), columns, name)


def label_column(columns: Sequence[str], kinds: Mapping[str, str], name: str, image: str) -> str:
    """The column called `label` (or labels, fine_label, class ...), else the only ClassLabel, else the only other one
    that can be labels.

    Raises:
        DataError: with the columns there are.
    """
    if named := _named(LABEL_NAMES, [column for column in columns if column != image]):
        return named[0]
    for wanted in ("class", "label"):
        typed = [column for column in columns if column != image and kinds.get(column) == wanted]
        if len(typed) == 1:
            return typed[0]
    raise _missing("label", LABEL_NAMES, columns, name)


def _named(wanted: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns of these names, whatever their case, in the order of the names."""
    plain = {str(column).strip().lower().replace(" ", "_"): column for column in reversed(columns)}
    return [plain[name] for name in wanted if name in plain]


def kind_of_values(values: Sequence[Any]) -> str:
    """The kind of a column, by its first values."""
    some = [value for value in values[:50] if value is not None]
    if not some:
        return ""
    if all(_is_picture(value) for value in some):
        return "image"
    if all(isinstance(value, os.PathLike) or (isinstance(value, str) and is_image_path(value)) for value in some):
        return "path"
    return "label" if all(isinstance(value, (str, int)) or type(value).__name__ == "int64" for value in some) else ""


def _is_picture(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "bytes" in value or "path" in value
    return isinstance(value, (bytes, bytearray)) or hasattr(value, "convert") or getattr(value, "ndim", 0) in (2, 3)


def is_image_path(text: str) -> bool:
    return text.strip().lower().endswith((*SUFFIXES, ".heic", ".heif"))


def kind_of_feature(feature: Any) -> str:
    """The kind of a Hugging Face feature, as an object or in a file's metadata."""
    kind = str(feature.get("_type", "")) if isinstance(feature, Mapping) else type(feature).__name__
    if kind == "Value":
        dtype = str(feature.get("dtype") if isinstance(feature, Mapping) else feature.dtype)
        return "image" if "binary" in dtype else "label" if "string" in dtype or "int" in dtype else ""
    return {"Image": "image", "ClassLabel": "class"}.get(kind, "")


def names_of_feature(feature: Any) -> list[str] | None:
    """The class names of a ClassLabel; None of other features."""
    if kind_of_feature(feature) != "class":
        return None
    names = feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)
    return None if names is None else [str(n) for n in names]


def column_values(column: Any) -> np.ndarray:
    """A column of Arrow's as an array; a dictionary's values, not its codes."""
    if type(column.type).__name__ == "DictionaryType":
        column = column.cast(column.type.value_type)
    return np.asarray(column.to_numpy())


def _missing(what: str, accepted: Sequence[str], columns: Sequence[str], name: str) -> DataError:
    shown = [str(column) for column in columns]
    return DataError(
        f"{name} has no {what} column; its columns are {listed(shown) or 'none'}; accepted names: "
        f"{', '.join(accepted[:7])}; rename one, e.g. ds.rename_column({(shown or ['x'])[0][:40]!r}, {what!r})"
    )
