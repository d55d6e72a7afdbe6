"""What every form of data is turned into before anything is decoded."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """M images that are still encoded (or raw), in a fixed order.

    One may also have ``key(row)``, the image's name in the data, for those who keep a list: ``cat/001.jpg``.

    Attributes:
        name: for tables and data cards.
        class_names: one per class; empty when unlabelled.
        labels: (M,) int64, checked; or None when unlabelled.
        in_order: True where random access would read far too much (Parquet row groups).
        read_in_worker: True where `items` itself decodes, so that it should run in the worker processes.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    in_order: bool
    read_in_worker: bool

    def __len__(self) -> int: ...

    def items(self, rows: np.ndarray) -> list[Any]:
        """For each row what `guard.preprocess.open_image` takes, or an ImageError where it could not be had."""
        ...

    def where(self, row: int) -> str:
        """How to name a row to its owner, e.g. ``row 17 of train.parquet: ``; empty where the item names itself."""
        ...

    def fingerprint(self) -> str:
        """See `fingerprint.py`."""
        ...


def whole_array(source: Source) -> np.ndarray | None:
    """uint8 (M, H, W, C) where the source is one array already."""
    return getattr(source, "whole", None)
