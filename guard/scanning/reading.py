"""A data set for a scan: what cannot be read is an `ImageError` in its place, and every image has a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.fingerprint import fingerprint
from ..data.forms import Source
from ..data.forms.arrays import content
from ..data.labels import printable
from ..errors import ImageError

_CHUNK = 256


class Reading:
    """A `Source` around another one, whose `items` never raises for a part that is broken.

    Args:
        inner: the data set.

    Attributes:
        labels: (M,) int64 in the data's own order of classes, or None.
    """

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.name, self.class_names, self.labels = inner.name, inner.class_names, inner.labels
        self.in_order, self.read_in_worker = inner.in_order, inner.read_in_worker
        self.notes: tuple[str, ...] = tuple(getattr(inner, "notes", ()))
        self._fingerprint = ""
        whole = getattr(inner, "whole", None)
        if whole is not None:
            self.whole = whole

    def __len__(self) -> int:
        return len(self.inner)

    def items(self, rows: np.ndarray) -> list[Any]:
        """As of `inner`; where it raises, the rows are asked for one by one, and the broken ones are errors."""
        try:
            return self.inner.items(rows)
        except Exception:  # pyarrow's, datasets', a user's own data set's: many classes
            return [self._one(row) for row in rows]

    def _one(self, row: int) -> Any:
        try:
            return self.inner.items(np.array([row]))[0]
        except Exception as error:
            return ImageError(f"cannot be read ({' '.join(str(error).split())[:300] or type(error).__name__})")

    def where(self, row: int) -> str:
        return self.inner.where(row)

    def fingerprint(self) -> str:
        """Of `inner`; where a broken part stops it, of what can be read, so that a repair is another data set."""
        if not self._fingerprint:
            try:
                self._fingerprint = self.inner.fingerprint()
            except Exception:  # as in `items`
                self._fingerprint = fingerprint(self._contents(), self.labels, self.class_names)
        return self._fingerprint

    def _contents(self) -> Iterator[bytes]:
        for at in range(0, len(self), _CHUNK):
            for item in self.items(np.arange(at, min(at + _CHUNK, len(self)))):
                yield str(item).encode() if isinstance(item, ImageError) else content(item)

    def key(self, row: int) -> str:
        """The image's name in the data: its path, relative to the data's folder where there is one, or ``#row``."""
        own = getattr(self.inner, "key", None)
        return printable(own(row)) if own is not None else f"#{row}"
