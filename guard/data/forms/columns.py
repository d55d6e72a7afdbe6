"""Which column of a table holds the images and which the labels, in the Hugging Face conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DataError

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")


def image_column(columns: Sequence[str], features: Mapping[str, Any], name: str) -> str:
    """The column called `image` (or img ...), else the only one whose feature is an Image.

    Raises:
        DataError: with the columns there are.
    """
    for wanted in IMAGE_NAMES:
        if wanted in columns:
            return wanted
    typed = [column for column in columns if _type(features.get(column)) == "Image"]
    if len(typed) == 1:
        return typed[0]
    raise _missing("image", IMAGE_NAMES, columns, name)


def label_column(columns: Sequence[str], features: Mapping[str, Any], name: str) -> tuple[str, list[str] | None]:
    """The column called `label` (or labels, fine_label ...), else the only ClassLabel; and its class names, if any."""
    found = next((wanted for wanted in LABEL_NAMES if wanted in columns), None)
    if found is None:
        typed = [column for column in columns if _type(features.get(column)) == "ClassLabel"]
        if len(typed) != 1:
            raise _missing("label", LABEL_NAMES, columns, name)
        found = typed[0]
    feature = features.get(found)
    if _type(feature) != "ClassLabel":
        return found, None
    names = feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)
    return found, None if names is None else [str(n) for n in names]


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, Mapping) else type(feature).__name__


def _missing(what: str, accepted: Sequence[str], columns: Sequence[str], name: str) -> DataError:
    return DataError(
        f"{name} has no {what} column; its columns are {', '.join(columns) or 'none'}; accepted names: "
        f"{', '.join(accepted)}; rename one, e.g. ds.rename_column({(list(columns) or ['x'])[0]!r}, {what!r})"
    )
