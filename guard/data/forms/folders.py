"""Folders of image files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, GuardError
from ...preprocess import header_size
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows, sizes_as_bytes

#: Files with other suffixes are left alone. What an image file holds is judged by its content, never by its suffix.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)
_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}


class FolderSource:
    """Image files: one sub-folder per class (sorted by name), or, unlabelled, every image below the folder."""

    in_order = False
    read_in_worker = False

    def __init__(self, root: Path, *, labelled: bool, name: str | None = None) -> None:
        self.name = name or root.resolve().name
        self.root = root
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if not labelled:
            self.paths = list(image_files(root))
            return
        folders = _class_folders(root)
        per_class = [list(image_files(folder)) for folder in folders]
        for folder, files in zip(folders, per_class, strict=True):
            if not files:
                raise DataError(
                    f"class folder {folder} holds no images; add images ({', '.join(SUFFIXES)}) or remove it"
                )
        self.paths = [path for files in per_class for path in files]
        self.class_names = tuple(folder.name for folder in folders)
        self.labels = np.repeat(np.arange(len(folders)), [len(files) for files in per_class]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def items(self, rows: np.ndarray) -> list[Any]:
        return [self.paths[row] for row in rows]

    def where(self, row: int) -> str:
        return ""  # open_image names the path

    def fingerprint(self) -> str:
        sizes = [path.stat().st_size for path in self.paths]
        if sum(sizes) <= FULL_CONTENT_BYTES:
            return fingerprint((path.read_bytes() for path in self.paths), self.labels, self.class_names)
        names = "\0".join(path.relative_to(self.root).as_posix() for path in self.paths).encode()
        samples = (self.paths[row].read_bytes() for row in sample_rows(len(self)))
        return fingerprint([sizes_as_bytes(sizes), names, *samples], self.labels, self.class_names)


def image_files(folder: Path) -> Iterator[Path]:
    """Every image file below `folder`, sorted by path; hidden files and folders and other suffixes are left out.

    A file without a suffix counts where its content begins like an image. Links to folders are followed once.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not _hidden(f))
        found += [Path(here, f) for f in files if not _hidden(f)]
    for path in sorted(found):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or (not suffix and _begins_like_an_image(path)):
            yield path


def _class_folders(root: Path) -> list[Path]:
    folders = sorted((p for p in root.iterdir() if p.is_dir() and not _hidden(p.name)), key=lambda p: p.name)
    loose = [p for p in root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and not _hidden(p.name)]
    if not folders:
        what = f"{len(loose)} images but no sub-folders" if loose else "neither sub-folders nor images"
        raise DataError(f"{root} holds {what}; labelled images need one sub-folder per class: {root}/<class>/<image>")
    if {folder.name.lower() for folder in folders} <= _SPLIT_NAMES:
        raise DataError(
            f"{root} looks like splits, not classes ({', '.join(f.name for f in folders)}); give one of them, "
            f"e.g. {folders[-1]}"
        )
    if loose:
        logging.getLogger("ood_guard").warning(
            "%d images lie directly in %s, in no class folder; they are ignored (e.g. %s)", len(loose), root, loose[0]
        )
    return folders


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _begins_like_an_image(path: Path) -> bool:
    try:
        header_size(path)
    except (GuardError, OSError):
        return False
    return True
