"""Random access to encoded images that can only be read in order.

Parquet is read by row group: fetching shuffled single rows would decompress a whole group for each. Images that are
streamed in training are therefore copied once, still encoded, into a scratch file without a name.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .forms import Source
from .pixels import scratch_file

_CHUNK = 256


class EncodedFile:
    """The wrapped source's encoded images in one file; rows keep their numbers. A `Source`."""

    in_order = False
    read_in_worker = False

    def __init__(self, source: Source, rows: np.ndarray, scratch: Path | None) -> None:
        self._inner = source
        self.name, self.class_names, self.labels = source.name, source.class_names, source.labels
        self._file, self._lock = scratch_file(scratch), threading.Lock()
        self._spans: dict[int, tuple[int, int]] = {}  # row -> (offset, length)
        self._others: dict[int, Any] = {}  # rows that are paths, or that are broken
        offset = 0
        try:
            for start in range(0, len(rows), _CHUNK):
                group = rows[start : start + _CHUNK]
                for row, item in zip(group.tolist(), source.items(group), strict=True):
                    if not isinstance(item, bytes):
                        self._others[row] = item
                        continue
                    self._file.write(item)
                    self._spans[row] = (offset, len(item))
                    offset += len(item)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot copy the images of {self.name} into a scratch file after {offset / 2**30:.1f} GiB "
                f"({error.strerror}); give cache_dir= a folder with room"
            ) from None

    def __len__(self) -> int:
        return len(self._inner)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self._item(int(row)) for row in rows]

    def _item(self, row: int) -> Any:
        if row not in self._spans:
            return self._others[row]
        offset, length = self._spans[row]
        with self._lock:  # os.pread would need none, but is not on Windows
            self._file.seek(offset)
            return self._file.read(length)

    def where(self, row: int) -> str:
        return self._inner.where(row)

    def fingerprint(self) -> str:
        return self._inner.fingerprint()
