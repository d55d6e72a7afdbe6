"""Parquet files in the Hugging Face image convention.

image: struct<bytes: binary, path: string> (or plain binary), label: int
schema metadata {b"huggingface": {"info": {"features": {"label": {"_type": "ClassLabel", "names": [...]}}}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any

import numpy as np

from ...errors import DataError, ImageError, MissingExtraError
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows, sizes_as_bytes
from ..labels import labels_and_names
from .arrays import contents
from .columns import column_values, image_column, kind_of_feature, kind_of_values, label_column, names_of_feature

#: Endings of its files.
SUFFIXES = (".parquet", ".pq")


class ParquetSource:
    """One or several files, read by row group: at most one group is in memory."""

    in_order = True
    read_in_worker = False

    def __init__(
        self,
        paths: Sequence[PurePath],
        *,
        labelled: bool,
        name: str,
        opener: Callable[[PurePath], IO[bytes]] | None = None,
    ) -> None:
        self.name = name
        self.paths, self._opener = list(paths), opener
        self._files = [_open(path, opener) for path in paths]
        schema = self._files[0].schema_arrow
        features = _features(schema.metadata)
        kinds = {field.name: kind_of_feature(features.get(field.name)) or _kind(field.type) for field in schema}
        kinds |= {column: "path" for column in _texts(self._files[0], paths[0]) if kinds[column] == "label"}
        self._image = image_column(schema.names, kinds, name)
        self._groups = [(f, g) for f, file in enumerate(self._files) for g in range(file.num_row_groups)]
        sizes = [self._files[f].metadata.row_group(g).num_rows for f, g in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._file_starts = np.concatenate([[0], np.cumsum([f.metadata.num_rows for f in self._files])])
        self._cached: tuple[int, list[Any]] = (-1, [])
        for path, file in zip(self.paths[1:], self._files[1:], strict=True):
            if _features(file.schema_arrow.metadata) != features or file.schema_arrow.names != schema.names:
                raise DataError(
                    f"{path} has other columns or class names than {self.paths[0]}; give files of one data set"
                )
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labelled:
            column = label_column(schema.names, kinds, name, self._image)
            values = _one_column(self._files, self.paths, column, name)
            self.labels, self.class_names = labels_and_names(
                values, names_of_feature(features.get(column)), len(self), name
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, for another process."""
        return {**self.__dict__, "_files": None, "_cached": (-1, [])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._files = [_open(path, self._opener) for path in self.paths]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def items(self, rows: np.ndarray) -> list[Any]:
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        places = rows - self._starts[groups]
        return [self._fetched(self._group(g)[at]) for g, at in zip(groups.tolist(), places.tolist(), strict=True)]

    def _fetched(self, item: Any) -> Any:
        """A path of another machine as what it holds there; anything else unchanged."""
        if self._opener is None or not isinstance(item, PurePath):
            return item
        try:
            with self._opener(item) as file:
                return file.read()
        except Exception as error:  # the file systems' own classes
            said = " ".join(str(error).split())[:300] or type(error).__name__
            return ImageError(f"{item} cannot be fetched ({said})")

    def where(self, row: int) -> str:
        file = int(np.searchsorted(self._file_starts, row, side="right")) - 1
        return f"row {row - self._file_starts[file]} of {self.paths[file]}: "

    def key(self, row: int) -> str:
        file = int(np.searchsorted(self._file_starts, row, side="right")) - 1
        return f"{self.paths[file].name}#{row - self._file_starts[file]}"

    def fingerprint(self) -> str:
        total = sum(self._files[f].metadata.row_group(g).total_byte_size for f, g in self._groups)
        if total <= FULL_CONTENT_BYTES:
            return fingerprint(contents(self._some(range(len(self._groups)))), self.labels, self.class_names)
        sizes = [self._files[f].metadata.row_group(g).total_byte_size for f, g in self._groups]
        few = sample_rows(len(self._groups))[:: max(1, len(self._groups) // 16)]
        return fingerprint([sizes_as_bytes(sizes), *contents(self._some(few))], self.labels, self.class_names)

    def _some(self, groups: Sequence[int] | range | np.ndarray) -> Iterator[Any]:
        """Images, or the names of those that would have to be fetched."""
        for group in groups:
            items = self._group(int(group))
            yield from (
                items if self._opener is None else (str(i).encode() if isinstance(i, PurePath) else i for i in items)
            )

    def _group(self, group: int) -> list[Any]:
        if self._cached[0] != group:
            file, index = self._groups[group]
            with _reading(self.paths[file]):
                column = self._files[file].read_row_group(index, columns=[self._image]).column(0)
            folder = self.paths[file].parent
            self._cached = (group, [_encoded(value, folder) for value in column.to_pylist()])
        return self._cached[1]


def _encoded(value: Any, folder: PurePath) -> Any:
    """Bytes where there are any, else the path, a relative one from the file's folder.

    None (reported as corrupt) where there is neither."""
    if isinstance(value, str):
        return folder / value.strip() if value.strip() else None
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None:
        return value["bytes"]
    return folder / value["path"] if value.get("path") else None


def _open(path: PurePath, opener: Callable[[PurePath], IO[bytes]] | None) -> Any:
    """A file of this machine, or, by `opener`, of another one."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow, which reads Parquet,", "train") from error
    try:
        return pq.ParquetFile(path if opener is None else opener(path))
    except Exception as error:  # pyarrow's own classes
        raise DataError(f"{path} is not a Parquet file, or is damaged ({error})") from None


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    try:
        return dict(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


@contextmanager
def _reading(path: PurePath) -> Iterator[None]:
    """Raises: DataError: a page of the file is damaged, though its footer is not."""
    try:
        yield
    except Exception as error:  # pyarrow's own classes, and a file system's
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path} is damaged, or cannot be read ({said}); write or copy it again") from None


def _one_column(files: Sequence[Any], paths: Sequence[PurePath], column: str, name: str) -> np.ndarray:
    parts = []
    for file, path in zip(files, paths, strict=True):
        with _reading(path):
            parts.append(file.read(columns=[column]).column(0))
    if nulls := sum(part.null_count for part in parts):
        raise DataError(f"{nulls} rows of {name} have no {column}; drop them, or load without labels")
    return np.concatenate([column_values(part) for part in parts])


def _texts(file: Any, path: PurePath) -> list[str]:
    """The columns of text that begins with paths of images."""
    texts = [field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")]
    with _reading(path):
        first = next(file.iter_batches(50, columns=texts), None) if texts else None
    return [column for column in texts if first is not None and kind_of_values(first[column].to_pylist()) == "path"]


def _kind(dtype: Any) -> str:
    """The kind of a column (see `columns`) by its Arrow type."""
    text = str(dtype)
    if text.startswith(("struct<bytes", "struct<path", "binary", "large_binary")):
        return "image"
    return "label" if text.startswith(("string", "large_string", "int", "uint", "dictionary", "bool")) else ""
