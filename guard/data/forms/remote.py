"""Images behind a URL that fsspec opens: ``s3://bucket/photos/``, ``gs://bucket/train-*.parquet``, ``https://.../a.tar``.

fsspec is imported when such a URL is given; the file system's own package (s3fs, gcsfs, aiohttp ...) must be there too.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any

import numpy as np

from ...errors import ConfigError, DataError, ImageError, MissingDataError, MissingExtraError
from ..fingerprint import fingerprint
from .folders import check_classes, loose, notes_of
from .listing import Listing, sorted_names, together
from .nesting import is_split
from .parquet import SUFFIXES as PARQUET_SUFFIXES
from .parquet import ParquetSource
from .shards import either, one_split_of, split_name
from .source import Source
from .tars import TAR_SUFFIXES, TarSource

LOG = logging.getLogger("ood_guard")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime")


def is_url(text: str) -> bool:
    """Whether this is a URL (of at least two letters: one is a drive of Windows)."""
    return _URL.match(text) is not None


def open_url(url: str, *, labelled: bool, name: str | None) -> Source:
    """A folder of images, Parquet or tar files, by name, by pattern (``*``), or a folder of them.

    Raises:
        MissingExtraError, ConfigError: fsspec, or the package of this kind of URL, is not installed.
        MissingDataError: nothing is there, or it cannot be listed.
    """
    fs, root = _file_system(url)
    try:
        found = _listed(fs, root)
    except Exception as error:  # the file systems' own classes: no permission, no such bucket, no network
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise MissingDataError(f"{url} cannot be listed ({said}); check the address and your credentials") from None
    if not found:
        raise MissingDataError(f"nothing is at {url}; accepted: a folder of images, Parquet or WebDataset tar files")
    name = name or PurePosixPath(root.rstrip("/")).name or url
    opened = functools.partial(_open_there, fs)
    try:
        if shards := _shards(found, root, PARQUET_SUFFIXES):
            return ParquetSource(shards, labelled=labelled, name=name, opener=opened)
        if shards := _shards(found, root, TAR_SUFFIXES):
            return TarSource(shards, labelled=labelled, name=name, opener=opened)
        return RemoteFolder(fs, root, found, labelled=labelled, name=name)
    except DataError as error:  # it names places in the bucket: as they are typed
        raise type(error)(_as_typed(str(error), str(PurePosixPath(_above(root) or "/")), _above(url))) from None


def _as_typed(text: str, place: str, typed: str) -> str:
    """`text` with the URL for the place in the bucket, but not for its top."""
    return re.sub(rf"(?<![\w./-]){re.escape(place)}(?![\w-])", lambda _: typed, text) if place != "/" else text


def _open_there(fs: Any, path: PurePath) -> IO[bytes]:
    file: IO[bytes] = fs.open(str(path), "rb")
    return file


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec, which opens URLs,", "scan") from error
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:  # s3fs, gcsfs ...: "Install s3fs to access S3"
        raise ConfigError(f"{url} cannot be opened: {error}; pip install that package") from None
    except ValueError as error:  # an unknown protocol
        raise ConfigError(f"{url} cannot be opened ({error}); accepted: s3://, gs://, https:// ...") from None
    return fs, root


def _listed(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """What is there by path: one file, what a pattern matches, or everything below a folder."""
    if "*" in root:
        found = fs.glob(root, detail=True)
    elif fs.isfile(root):
        found = {root: fs.info(root)}
    else:
        found = fs.find(root, detail=True)
    return {path: info for path, info in sorted(found.items()) if info.get("type") != "directory"}


def _above(root: str) -> str:
    """The folder that was given: of a pattern, the one before its first star."""
    return root.split("*")[0].rpartition("/")[0] if "*" in root else root.rstrip("/")


def _shards(found: Mapping[str, Any], root: str, suffixes: tuple[str, ...]) -> list[PurePosixPath]:
    """The files with these suffixes of one split, as a folder's and a pattern's of this machine are found.

    Raises:
        DataError: several splits or configurations.
    """
    folder = PurePosixPath(_above(root))
    files = [PurePosixPath(path) for path in found if path.lower().endswith(suffixes)]
    files = [file for file in files if not file.name.startswith(".")]
    if root in found or not files:  # one file
        return files
    if images := {
        name: files.images for name, files in sorted_names(Path(folder), _keys(found, root)).items() if files.images
    }:
        if "" in images and (beside := [file for file in files if file.parent == folder]):
            raise either(folder, images[""][0].name, beside[0])
        return []
    if "*" not in root:
        files = [file for file in files if file.parent == folder] or files
    elif not any(is_split(split_name(file.stem)) for file in files):
        return files
    one_split_of(Path(folder), [Path(file) for file in files])
    return files


def _keys(found: Mapping[str, Any], root: str) -> dict[Path, str]:
    """The place of each file by its path from the folder that was given."""
    above = _above(root)
    return {Path(path.removeprefix(above).lstrip("/")): path for path in found}


class RemoteFolder:
    """Image files below a URL, fetched as they are asked for, a group of rows at once.

    Labelled, the first folder below the URL is the class. What is taken, left out and refused is as of a folder of this
    machine, by names alone. The fingerprint is of names, sizes and what versions the file
    system tells (ETag, time): reading everything would cost what the scan itself costs.
    """

    in_order = False
    read_in_worker = False

    def __init__(
        self, fs: Any, root: str, found: Mapping[str, Mapping[str, Any]], *, labelled: bool, name: str
    ) -> None:
        self.name, self._fs = name, fs
        keys, above = _keys(found, root), Path(_above(root))
        folders = sorted_names(above, keys)
        beside = folders.pop("", Listing())
        if not labelled:
            folders, beside = {}, together([*folders.values(), beside])
        images = {key for files in (beside, *folders.values()) for key in files.images}
        self.notes: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        if labelled:
            merged = check_classes(above, folders, beside)
            self.notes = tuple(note for note in (loose(above, beside), merged) if note)
            images -= {*beside.images}
            self.class_names = tuple(sorted(folders))
        self.notes += notes_of(name, folders, beside)
        self.not_read = dict(sum((files.not_read for files in folders.values()), Counter(beside.not_read)))
        shown = [(key.as_posix(), path) for key, path in keys.items() if above / key in images]
        self._keys, self._paths = [key for key, _ in shown], [path for _, path in shown]
        self._told = [_version(found[path]) for path in self._paths]
        at = {folder: number for number, folder in enumerate(self.class_names)}
        of = [at[key.partition("/")[0]] for key in self._keys] if labelled else None
        self.labels = None if of is None else np.array(of, np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def items(self, rows: np.ndarray) -> list[Any]:
        paths = [self._paths[row] for row in rows]
        found = self._fs.cat(paths, on_error="return") if len(paths) > 1 else {}
        return [_content(found.get(path)) if path in found else self._one(path) for path in paths]

    def _one(self, path: str) -> Any:
        try:
            return self._fs.cat_file(path)
        except Exception as error:  # as in `open_url`
            return _content(error)

    def where(self, row: int) -> str:
        return f"{self._paths[row]}: "

    def key(self, row: int) -> str:
        return self._keys[row]

    def fingerprint(self) -> str:
        told: Sequence[str] = [f"{key}\0{said}" for key, said in zip(self._keys, self._told, strict=True)]
        return fingerprint((line.encode("utf-8", "surrogateescape") for line in told), self.labels, self.class_names)


def _version(info: Mapping[str, Any]) -> str:
    return "\0".join(str(info[name]) for name in ("size", *_VERSIONS) if info.get(name) is not None)


def _content(found: Any) -> Any:
    """Bytes, or an `ImageError` for the exception that the file system gave."""
    if isinstance(found, Exception):
        return ImageError(f"cannot be fetched ({' '.join(str(found).split())[:300] or type(found).__name__})")
    return found
