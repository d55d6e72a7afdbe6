"""Tables in memory: pandas and polars frames, and what a CSV file holds, with a column of images and one of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, MissingDataError
from .arrays import ListSource, as_numpy
from .columns import IMAGE_NAMES, LABEL_NAMES, PATH_NAMES, image_column, is_image_path, kind_of_values, label_column

CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".psv")
_MOST_BYTES = 2**30


def is_frame(data: Any) -> bool:
    """Whether this is a table of pandas or polars."""
    return type(data).__name__ == "DataFrame" and hasattr(data, "columns")


def from_frame(data: Any, *, labelled: bool, name: str | None) -> ListSource:
    """Images and labels of a frame; relative paths are those of the working folder.

    Raises:
        DataError: no such columns, or two of one name.
    """
    columns = [str(column) for column in data.columns]
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise DataError(f"the frame has two columns {twice!r}; rename one, so that images and labels are found")
    values = dict(zip(columns, (list(data[column]) for column in data.columns), strict=True))
    return _source(values, labelled=labelled, name=name or "frame", folder=None)


def from_csv(path: Path, *, labelled: bool, name: str | None) -> ListSource:
    """A file of lines ``path,label``, with or without a header; relative paths are those beside the file.

    Commas, tabs, semicolons, vertical bars or spaces separate; names may be in quotes.

    Raises:
        DataError: it is no such file.
    """
    name = name or path.name
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} holds no lines; give a line path,label for each image")
    columns, rows = _header(rows, path.parent)
    if not rows:
        raise DataError(f"{path} holds a header and no images; give a line path,label for each image")
    for at, row in enumerate(rows):
        if len(row) != len(columns):
            raise DataError(
                f"{path}: row {at + 1} has {len(row)} columns, others {len(columns)}; put names that hold the "
                "separator in double quotes"
            )
    values = {column: [row[at] for row in rows] for at, column in enumerate(columns)}
    source = _source(values, labelled=labelled, name=name, folder=path.parent)
    check_paths(source.items(np.arange(min(len(source), 50))), path)
    return source


def check_paths(items: Sequence[Any], table: Path) -> None:
    """Where none of the first images that a file names is there, its paths are meant from elsewhere.

    Raises:
        MissingDataError: with one of them.
    """
    paths = [item for item in items if isinstance(item, Path)]
    if paths and not any(path.is_file() for path in paths):
        raise MissingDataError(
            f"the images that {table} names are not there, e.g. {paths[0]}; relative paths are those beside the file"
        )


def _source(values: dict[str, list[Any]], *, labelled: bool, name: str, folder: Path | None) -> ListSource:
    kinds = {column: kind_of_values(cells) for column, cells in values.items()}
    columns = list(values)
    image = image_column(columns, kinds, name)
    images = [_image(value, folder) for value in values[image]]
    labels = values[label_column(columns, kinds, name, image)] if labelled else None
    return ListSource(images, labels, name=name)


def _image(value: Any, folder: Path | None) -> Any:
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        value = value.strip()
        return (Path(value) if folder is None else folder / value) if value else None
    return as_numpy(value)


def _rows(path: Path) -> list[list[str]]:
    """The cells of every line that holds something."""
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size} bytes, which is no list of images; give Parquet")
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8, a line path,label for each image") from None
    if "\0" in text:
        raise DataError(f"{path} is not text; give a line path,label for each image")
    first = ["\t", ",", ";", "|"] if path.suffix.lower() == ".tsv" else [",", ";", "\t", "|"]
    first = [*first, " "]  # at last: names may have spaces in them
    try:
        return max((_parsed(text, separator) for separator in first), key=_looks_right)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); give a line path,label for each image") from None


def _parsed(text: str, separator: str) -> list[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in lines if any(cell.strip() for cell in row)]


def _looks_right(rows: list[list[str]]) -> tuple[bool, bool, bool]:
    """Whether all rows have as many cells, more than one, and one of these is the path of an image; or either."""
    alike = len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 if rows else False
    paths = bool(rows) and any(is_image_path(cell) for cell in rows[-1])
    return alike and paths, paths, alike


def _header(rows: list[list[str]], folder: Path) -> tuple[list[str], list[list[str]]]:
    """The columns' names and the other rows; without a header they are "path" and "label", or numbers."""
    first = rows[0]
    known = {cell.lower().replace(" ", "_") for cell in first} & {*IMAGE_NAMES, *PATH_NAMES, *LABEL_NAMES}
    files = [is_image_path(cell) or _is_file(folder, cell) for cell in first]
    if (known and not any(files)) or not (any(files) or len(rows) < 2 or not any(map(is_image_path, rows[1]))):
        if len(set(first)) < len(first):
            raise DataError(f"the header names a column twice ({', '.join(first)[:100]}); rename one")
        return first, rows[1:]
    if len(first) == 2 and sum(files) == 1:
        return ["path" if file else "label" for file in files], rows
    return [f"column {at + 1}" for at in range(len(first))], rows


def _is_file(folder: Path, cell: str) -> bool:
    try:
        return bool(cell) and (folder / cell).is_file()
    except (OSError, ValueError):
        return False
