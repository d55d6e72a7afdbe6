"""Folders of image files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, ImageError
from ...preprocess import check_regular
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows, sizes_as_bytes
from .listing import SUFFIXES, Listing, counted, folders_in, list_images
from .nesting import check_nesting, nesting

_CONVERT = "convert them to PNG or JPEG, or remove them"


class FolderSource:
    """Image files: one sub-folder per class (sorted by name), or, unlabelled, every image below the folder.

    Attributes:
        not_read: how many files are not read, by ending.
        notes: what the owner of the folder should hear, each a sentence.
    """

    in_order = False
    read_in_worker = False

    def __init__(self, root: Path, *, labelled: bool, name: str | None = None) -> None:
        self.name = name or root.resolve().name
        self.root = root
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if not labelled:
            found = list_images(root)
            self.paths = found.images
            self.not_read = dict(found.not_read)
            self.notes = notes_of(self.name, {}, found)
            return
        folders, beside = folders_in(root)
        classes = {folder.name: list_images(folder) for folder in folders}
        merged = check_classes(root, classes, beside)
        self.paths = [path for files in classes.values() for path in files.images]
        self.class_names = tuple(classes)
        self.labels = np.repeat(np.arange(len(classes)), [len(files.images) for files in classes.values()])
        self.labels = self.labels.astype(np.int64)
        self.not_read = dict(sum((files.not_read for files in classes.values()), Counter(beside.not_read)))
        unsorted = loose(root, beside)
        self.notes = tuple(note for note in (unsorted, merged) if note) + notes_of(self.name, classes, beside)

    def __len__(self) -> int:
        return len(self.paths)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self.paths[row] for row in rows]

    def where(self, row: int) -> str:
        return ""  # open_image names the path

    def key(self, row: int) -> str:
        return os.path.relpath(self.paths[row], self.root).replace(os.sep, "/")

    def fingerprint(self) -> str:
        sizes = [_size(path) for path in self.paths]
        if sum(sizes) <= FULL_CONTENT_BYTES:
            return fingerprint((_content(path) for path in self.paths), self.labels, self.class_names)
        names = b"\0".join(os.fsencode(path.relative_to(self.root).as_posix()) for path in self.paths)
        samples = (_content(self.paths[row]) for row in sample_rows(len(self)))
        return fingerprint([sizes_as_bytes(sizes), names, *samples], self.labels, self.class_names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _content(path: Path) -> bytes:
    """The file's bytes; none where it cannot be read, which is reported when it is decoded."""
    try:
        check_regular(os.fspath(path))  # a link may lead to a pipe
        return path.read_bytes()
    except (OSError, ImageError):
        return b""


def check_classes(root: Path, classes: Mapping[str, Listing], beside: Listing) -> str:
    """Refuse a folder without classes in it; what to tell of merged sub-folders, if anything.

    Raises:
        DataError: no sub-folders, splits, or a class without an image.
    """
    if not classes:
        what = f"{len(beside.images)} images but no sub-folders" if beside.images else "neither sub-folders nor images"
        raise DataError(f"{root} holds {what}; labelled images need one sub-folder per class: {root}/<class>/<image>")
    note = check_nesting(root, {name: nesting(root / name, files.images) for name, files in classes.items()
                                if files.images})  # fmt: skip
    for name, files in classes.items():
        if files.images:
            continue
        if files.missed:
            raise DataError(
                f"class folder {root / name} holds no images that are read, but {counted(files.missed)}; {_CONVERT}"
            )
        raise DataError(f"class folder {root / name} holds no images; add images ({', '.join(SUFFIXES)}) or remove it")
    return note


def loose(root: Path, beside: Listing) -> str:
    if not beside.images:
        return ""
    count = len(beside.images)
    return f"{count} images lie directly in {root}, in no class folder; they are ignored (e.g. {beside.images[0]})"


def notes_of(name: str, classes: Mapping[str, Listing], beside: Listing) -> tuple[str, ...]:
    """What is not read, and what is left aside, each in one sentence."""
    everything = [beside, *classes.values()]
    missed = sum((files.missed for files in everything), Counter[str]())
    aside = sum((files.aside for files in everything), Counter[str]())
    notes = []
    if missed:
        notes.append(f"{_shares(name, classes, beside)} are not read: {counted(missed)}; {_CONVERT}")
    if aside:
        notes.append(f"{name}: hidden and system folders are left out, with images in them: {counted(aside)}")
    return tuple(notes)


def _shares(name: str, classes: Mapping[str, Listing], beside: Listing) -> str:
    """``50 of 60 files of class 'a', 3 of 20 of 'b'``"""
    losing = {key: files for key, files in classes.items() if files.missed}
    shares = [
        f"{files.missed.total()} of {len(files.images) + files.missed.total()} files of class {key!r}"
        for key, files in list(losing.items())[:3]
    ]
    if len(losing) > 3:
        shares.append(f"files of {len(losing) - 3} more classes")
    if beside.missed:
        shares.append(f"{beside.missed.total()} of {len(beside.images) + beside.missed.total()} files in {name}")
    return ", ".join(shares)
