"""WebDataset: tar files whose members of one name, up to the first full stop, are one sample.

    000017.jpg  000017.cls        an image and its label: an integer, or the class's name

The headers are read once from front to back, and what an image's bytes are in which file is kept; nothing else.
"""

from __future__ import annotations

import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import IO, Any

import numpy as np

from ...errors import DataError, ImageError
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows, sizes_as_bytes
from ..labels import labels_and_names
from .listing import SUFFIXES, counted

#: Endings of its files.
TAR_SUFFIXES = (".tar",)
_LABEL, _BESIDE = "cls", ("json", "txt")
_LONGEST_LABEL = 1000  # bytes
Opener = Callable[[PurePath], IO[bytes]]


def open_local(path: PurePath) -> IO[bytes]:
    """A file of this machine."""
    return open(path, "rb")


class TarSource:
    """One or several plain tar files.

    Args:
        paths: in the order of the rows.
        opener: opens one of them, seekable.

    Attributes:
        notes: what the owner should hear, each a sentence.
        not_read: how many members are not read, by ending.
    """

    in_order = False
    read_in_worker = False

    def __init__(self, paths: Sequence[PurePath], *, labelled: bool, name: str, opener: Opener = open_local) -> None:
        self.name, self.paths, self._opener = name, list(paths), opener
        self._names: list[str] = []
        self.not_read: Counter[str] = Counter()
        notes: list[str] = []
        places: list[tuple[int, int, int]] = []
        labels: list[bytes | None] = []
        for number, path in enumerate(self.paths):
            with opener(path) as file:
                for member, offset, size, label in _samples(file, path, self.not_read, notes, labelled):
                    self._names.append(member)
                    places.append((number, offset, size))
                    labels.append(label)
        self._places = np.array(places, np.int64).reshape(-1, 3)
        self._open: tuple[int, IO[bytes]] | None = None
        self._lock = threading.Lock()
        if self.not_read:
            notes.append(f"{name}: members of the tar files that are not read: {counted(self.not_read)}")
        self.notes = tuple(notes)
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labelled:
            self.labels, self.class_names = labels_and_names(self._texts(labels), None, len(self), name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, for another process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open, self._lock = None, threading.Lock()

    def _texts(self, labels: Sequence[bytes | None]) -> list[str]:
        missing = next((row for row, label in enumerate(labels) if label is None), None)
        if missing is not None:
            raise DataError(
                f"{self.where(missing)}there is no .{_LABEL} beside the image; labelled images need one each (an "
                "integer, or the class's name), or load without labels"
            )
        return [(label or b"").decode("utf-8", "replace").strip() for label in labels]

    def __len__(self) -> int:
        return len(self._names)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self._item(int(row)) for row in rows]

    def _item(self, row: int) -> Any:
        number, offset, size = self._places[row].tolist()
        try:
            with self._lock:
                file = self._file(number)
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            return ImageError(f"{self.paths[number]} cannot be read ({error.strerror or error})")

    def _file(self, number: int) -> IO[bytes]:
        """One file is open at a time: rows come in order, more or less."""
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = (number, self._opener(self.paths[number]))
        return self._open[1]

    def where(self, row: int) -> str:
        return f"{self._names[row]} in {self.paths[self._places[row, 0]]}: "

    def key(self, row: int) -> str:
        return f"{self.paths[self._places[row, 0]].name}/{self._names[row]}"

    def fingerprint(self) -> str:
        sizes = self._places[:, 2].tolist()
        whole = sum(sizes) <= FULL_CONTENT_BYTES
        rows = np.arange(len(self)) if whole else sample_rows(len(self))
        contents = (item if isinstance(item, bytes) else str(item).encode() for item in map(self._item, rows.tolist()))
        beside = [] if whole else [sizes_as_bytes(sizes), "\0".join(self._names).encode("utf-8", "surrogateescape")]
        return fingerprint((*beside, *contents) if beside else contents, self.labels, self.class_names)


def _samples(
    file: IO[bytes], path: PurePath, not_read: Counter[str], notes: list[str], labelled: bool
) -> Iterator[tuple[str, int, int, bytes | None]]:
    """(member, offset, size, label) of the image of each sample, in order; of several images the first."""
    stem, image, label = "", None, None
    count = 0
    for member in _members(file, path, notes):
        folder, _, base = member.name.rpartition("/")
        own, _, ending = base.partition(".")
        if base.startswith(".") or not own:  # macOS keeps a file's attributes in these
            continue
        if f"{folder}/{own}" != stem:
            if image is not None:
                yield (*image, label)
                count += 1
            stem, image, label = f"{folder}/{own}", None, None
        ending = ending.lower()
        if f".{ending.rpartition('.')[2]}" in SUFFIXES and image is None:
            image = (member.name, member.offset_data, member.size)
        elif ending == _LABEL and labelled:
            file.seek(member.offset_data)
            label = file.read(min(member.size, _LONGEST_LABEL))
        elif ending not in (_LABEL, *_BESIDE):
            not_read[f".{ending}"] += 1
    if image is not None:
        yield (*image, label)


def _members(file: IO[bytes], path: PurePath, notes: list[str]) -> Iterator[tarfile.TarInfo]:
    """Regular members in order. A file that is cut short gives those before the cut, and a note.

    Raises:
        DataError: it is not a plain tar file.
    """
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - `file` is the caller's to close
    except tarfile.TarError:
        raise DataError(f"{path} is not a plain tar file; unpack a compressed one, or write it as .tar") from None
    while True:
        try:
            member = tar.next()
        except tarfile.TarError as error:
            notes.append(f"{path} is damaged or cut short ({error}); the images before that are read")
            return
        if member is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # it would keep every header
        if member.isreg():
            yield member
