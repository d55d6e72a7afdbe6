"""Recognise the form of `data` and open it as a `Source`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, MissingDataError, cut
from .arrays import ArraySource, ListSource, as_numpy
from .digits import PATTERN, open_digits
from .folders import FolderSource
from .hub import HUB_ID, HubSource, from_hub, one_split, warn_of_hub_copy
from .names import folder_of_that_name
from .nesting import is_split
from .parquet import SUFFIXES, ParquetSource
from .remote import is_url, open_url
from .shards import one_split_of, shards_in, split_name
from .source import Source, whole_array
from .tables import CSV_SUFFIXES, from_csv, from_frame, is_frame
from .tars import TAR_SUFFIXES, TarSource
from .torch_dataset import TorchSource

__all__ = ["ACCEPTED", "Source", "open_source", "whole_array"]

ACCEPTED = (
    "a folder with one sub-folder per class, CSV, Parquet, WebDataset tar files, a URL such as s3://bucket/folder, a "
    "Hugging Face data set or its id, a data frame, a torch data set, a pair (images, labels), or 'digits'"
)
SHORTLY = "a folder with one sub-folder per class, CSV, Parquet, a hub id, or 'digits'"


def open_source(data: Any, *, labelled: bool, name: str | None = None) -> Source:
    """Open any accepted form without decoding an image.

    Raises:
        MissingDataError: a path that is not there.
        DataError: a form that is not accepted, or one that cannot be used as labelled images.
    """
    if isinstance(data, (str, os.PathLike)):
        return _from_text(os.fspath(data), labelled=labelled, name=name)
    if is_frame(data):
        return from_frame(data, labelled=labelled, name=name)
    if isinstance(data, (tuple, list)) and len(data) == 2 and _is_labels(data[1], data[0]):
        return _from_images(as_numpy(_images(data[0]), many=True), data[1] if labelled else None, name)
    data = _images(data)
    modules = {part.__module__.split(".")[0] for part in type(data).__mro__}
    if "datasets" in modules:
        return _from_datasets(data, labelled=labelled, name=name)
    images = as_numpy(data, many=True)
    if isinstance(images, np.ndarray) or _is_sequence_of_images(images):
        if labelled:
            raise DataError(
                "labelled images are needed, got images alone; give a pair (images, labels) with labels of shape (N,)"
            )
        return _from_images(images, None, name)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (dict, tuple)):
        return TorchSource(data, labelled=labelled, name=name)
    if hasattr(data, "__iter__") and not isinstance(data, (dict, tuple)):
        raise DataError(f"{type(data).__name__} can only be iterated; data needs __len__ and __getitem__ as well")
    raise DataError(f"cannot read images from {type(data).__name__}; accepted: {ACCEPTED}")


def _from_text(text: str, *, labelled: bool, name: str | None) -> Source:
    if PATTERN.fullmatch(text):
        folder_of_that_name(text, "the built-in data set")
        source = open_digits(text, labelled=labelled)
        source.name = name or source.name
        return source
    if is_url(text):
        return open_url(text, labelled=labelled, name=name)
    path = _as_path(text)
    if path.is_dir():
        warn_of_hub_copy(text)
        return _from_folder(path, labelled=labelled, name=name)
    if path.is_file():
        if path.suffix.lower() in CSV_SUFFIXES:
            return from_csv(path, labelled=labelled, name=name or f"{path.resolve().parent.name}/{path.stem}")
        if path.suffix.lower() in TAR_SUFFIXES:
            return TarSource([path], labelled=labelled, name=name or f"{path.resolve().parent.name}/{path.stem}")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is a single file that is not Parquet; accepted: {ACCEPTED}")
        return ParquetSource([path], labelled=labelled, name=name or f"{path.resolve().parent.name}/{path.stem}")
    if "*" in path.name and (found := _matching(path)):
        return _from_pattern(path, found, labelled=labelled, name=name)
    if _names_a_hub_set(text):
        try:
            return from_hub(text, labelled=labelled, name=name)
        except MissingDataError as error:
            raise MissingDataError(f"{error}; accepted: {SHORTLY}") from None
    raise MissingDataError(f"no such file or folder {cut(text, 150)!r}; accepted: {SHORTLY}")


def _matching(pattern: Path) -> list[Path]:
    """Raises: DataError: two stars beside other text."""
    try:
        return sorted(pattern.parent.glob(pattern.name))
    except ValueError as error:
        raise DataError(f"{pattern} is no pattern of files ({error}); use one star: data/train-*.parquet") from None


def _as_path(text: str) -> Path:
    """Raises: MissingDataError: what no path can be."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user's home, a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise MissingDataError(f"{cut(text, 150)!r} cannot be opened ({reason}); accepted: {SHORTLY}") from None
    return path


def _from_folder(path: Path, *, labelled: bool, name: str | None) -> Source:
    if _is_outlier_store(path):
        if labelled:
            raise DataError(f"{str(path)[:200]} is an outlier store, whose images have no labels; give it as outliers=")
        if found := sorted(path.glob("shard-*.parquet")):  # whatever else its synthesiser left there
            return ParquetSource(found, labelled=False, name=name or path.resolve().name)
    if shards := shards_in(path, SUFFIXES):
        return ParquetSource(shards, labelled=labelled, name=name or path.resolve().name)
    if shards := shards_in(path, TAR_SUFFIXES):
        return TarSource(shards, labelled=labelled, name=name or path.resolve().name)
    return FolderSource(path, labelled=labelled, name=name)


def _is_outlier_store(folder: Path) -> bool:
    """Whether ``guard synth`` made this folder: its card names the synthesiser."""
    try:
        return b'"synthesiser"' in (folder / "card.json").read_bytes()[:100_000]
    except OSError:
        return False


def _from_pattern(path: Path, found: Sequence[Path], *, labelled: bool, name: str | None) -> Source:
    """Parquet or tar files by a pattern; of several splits only where none of them is one by its name."""
    tars = all(file.suffix.lower() in TAR_SUFFIXES for file in found)
    if others := [file for file in found if not tars and file.suffix.lower() not in SUFFIXES]:
        raise DataError(f"{path} matches {others[0].name}, which is not Parquet; accepted: {ACCEPTED}")
    if any(is_split(split_name(file.stem)) for file in found):
        one_split_of(path.parent, found)
    kind = TarSource if tars else ParquetSource
    return kind(found, labelled=labelled, name=name or path.resolve().parent.name)


def _names_a_hub_set(text: str) -> bool:
    """Where the first folder exists, a path was meant: no need to ask the network; a split is the hub's in any case."""
    return bool(HUB_ID.fullmatch(text)) and (":" in text or not Path(text.split("/")[0]).exists())


def _from_images(images: Any, labels: Any, name: str | None) -> Source:
    if isinstance(images, np.ndarray) and images.dtype != object:
        return ArraySource(images, labels, name=name or "arrays")
    if _is_sequence_of_images(images) or isinstance(images, np.ndarray):
        return ListSource([as_numpy(image) for image in images], labels, name=name or "images")
    raise DataError(f"cannot read images from {type(images).__name__}; give a uint8 array (N, H, W, C) or a list")


def _from_datasets(data: Any, *, labelled: bool, name: str | None) -> Source:
    kind = type(data).__name__
    if kind == "DatasetDict":
        data = one_split(data, None, name or "this DatasetDict")
    elif "Iterable" in kind:
        raise DataError(f"a {kind} can only be streamed once; load it without streaming=True")
    return HubSource(data, labelled=labelled, name=name)


def _images(value: Any) -> Any:
    """A Series of images as a list of them."""
    is_series = type(value).__name__ in ("Series", "Index") and hasattr(value, "to_list")
    return [as_numpy(image) for image in value.to_list()] if is_series else value


def _is_labels(value: Any, images: Any) -> bool:
    """Whether the second of two is labels of the first, and not another image."""
    if hasattr(value, "ndim"):  # numpy, torch, pandas
        return value.ndim <= 1 or (
            value.ndim == 2 and (isinstance(images, (list, tuple)) or getattr(images, "ndim", None) == 4)
        )
    if hasattr(value, "to_list"):
        return True
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or isinstance(images, (str, os.PathLike)):
        return False
    rows = all(isinstance(v, (list, tuple)) and all(_is_label(part) for part in v) for v in value)  # one-hot: refused
    return rows or all(_is_label(v) for v in value)


def _is_label(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, str, np.generic)) or getattr(value, "ndim", None) == 0


def _is_sequence_of_images(value: Any) -> bool:
    """A list (or tuple) of paths, bytes, PIL images or arrays; an empty list counts."""
    if not isinstance(value, (list, tuple)):
        return False
    return all(
        isinstance(v, (bytes, bytearray, os.PathLike, str, np.ndarray)) or hasattr(v, "convert") or hasattr(v, "detach")
        for v in value
    )
