"""Map-style torch data sets of (PIL image or uint8 array, int)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ...errors import DataError, ImageError
from ..class_names import names_in_order
from ..fingerprint import fingerprint
from ..labels import labels_and_names
from .arrays import as_numpy, content, mixed_channels

_KEEP_BYTES = 512 * 2**20


class TorchSource:
    """Any object with `__len__` and `__getitem__`; class names from `.classes` where it has them.

    It is read once from front to back at the start, for labels and fingerprint, and must return the same image for
    the same index every time: leave random augmentation out of its transform. Up to 512 MiB of pixels are kept.
    """

    in_order = False
    read_in_worker = True  # where the pixels were not kept, the data set's own decoding is the work

    def __init__(self, dataset: Any, *, labelled: bool, name: str | None = None) -> None:
        self.name = name or type(dataset).__name__
        self._dataset = dataset
        names = getattr(_unwrapped(dataset), "classes", None) if labelled else None
        self._items: list[Any] | None = []
        digest, kept, labels, channels = hashlib.sha256(), 0, [], 0
        broken: set[int] = set()
        for row in range(len(dataset)):
            item, label = self._read(row, labelled)
            labels.append(label)
            if isinstance(item, ImageError):
                broken.add(row)
            part = content(item) if not isinstance(item, ImageError) else str(item).encode()
            digest.update(len(part).to_bytes(8, "little") + part)
            if isinstance(item, np.ndarray):
                count = item.shape[2] if item.ndim == 3 else 1
                channels = channels or count
                if count != channels:
                    raise mixed_channels(self.name, row, count, channels)
            kept += len(part)
            if self._items is not None:
                self._items.append(item)
                if kept > _KEEP_BYTES:
                    self._items = None
        self.read_in_worker = self._items is None
        self._digest = digest.digest()
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labelled:
            sound = next((label for row, label in enumerate(labels) if row not in broken), 0)
            labels = [sound if row in broken else label for row, label in enumerate(labels)]  # skipped later
            known = None if names is None else names_in_order(names, f"{self.name}.classes", unique=False)
            self.labels, self.class_names = labels_and_names(labels, known, len(self), self.name)

    def __len__(self) -> int:
        return len(self._dataset)

    def items(self, rows: np.ndarray) -> list[Any]:
        if self._items is not None:
            return [self._items[row] for row in rows]
        return [self._read(int(row), labelled=False)[0] for row in rows]

    def where(self, row: int) -> str:
        return f"item {row} of {self.name}: "

    def fingerprint(self) -> str:
        return fingerprint([self._digest], self.labels, self.class_names)

    def _read(self, row: int, labelled: bool) -> tuple[Any, Any]:
        """(image or the ImageError that says why not, label)."""
        try:
            item = self._dataset[row]
        except (OSError, SyntaxError, ImageError) as error:  # what Pillow raises for broken files
            return ImageError(str(error)), None  # its label cannot be read either
        pair = isinstance(item, (tuple, list)) and len(item) >= 2
        if labelled and not pair:
            raise DataError(
                f"item {row} of {self.name} is {type(item).__name__}, not a pair (image, label); "
                "return both from __getitem__"
            )
        image, label = (item[0], item[1]) if pair else (item, None)
        return as_numpy(image), label


def _unwrapped(dataset: Any) -> Any:
    """Through torch.utils.data.Subset and the like to what knows the class names."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset
