"""Hugging Face `datasets.Dataset` objects, and data sets by hub id."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, MissingDataError, MissingExtraError
from ..fingerprint import FULL_CONTENT_BYTES, fingerprint, sample_rows
from ..labels import labels_and_names
from .arrays import contents, from_lists
from .columns import column_values, image_column, kind_of_feature, label_column, names_of_feature

LOG = logging.getLogger("ood_guard")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_CHUNK = 1000
_HUB_TIMEOUT_S = 5.0


class HubSource:
    """A `datasets.Dataset` with an Image column; its encoded bytes are read, so nothing is decoded twice."""

    in_order = False
    read_in_worker = False

    def __init__(self, dataset: Any, *, labelled: bool, name: str | None = None) -> None:
        from datasets import Image

        self.name = name or str(dataset.info.dataset_name or "dataset")
        columns, features = dataset.column_names, dict(dataset.features)
        kinds = {column: kind_of_feature(feature) for column, feature in features.items()}
        self._column = image_column(columns, kinds, self.name)
        encoded = dataset.select_columns([self._column])
        if isinstance(features[self._column], Image):
            encoded = encoded.cast_column(self._column, Image(decode=False))
        self._images = encoded.with_format("arrow")
        self.labels: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if labelled:
            column = label_column(columns, kinds, self.name, self._column)
            values = dataset.select_columns([column]).with_format("arrow")[:][column]
            if values.null_count:
                raise DataError(f"{values.null_count} rows of {self.name} have no {column}; drop them (ds.filter)")
            names = names_of_feature(features[column])
            self.labels, self.class_names = labels_and_names(column_values(values), names, len(self), self.name)

    def __len__(self) -> int:
        return len(self._images)

    def items(self, rows: np.ndarray) -> list[Any]:
        column = self._images[rows.tolist()][self._column] if len(rows) else []
        return [_encoded(value.as_py()) for value in column]

    def where(self, row: int) -> str:
        return f"row {row} of {self.name}: "

    def fingerprint(self) -> str:
        small = self._images.data.nbytes <= FULL_CONTENT_BYTES
        length = [] if small else [str(len(self)).encode()]
        return fingerprint(itertools.chain(length, contents(self._some(small))), self.labels, self.class_names)

    def _some(self, everything: bool) -> Iterator[Any]:
        if everything:
            chunks: Any = (np.arange(s, min(s + _CHUNK, len(self))) for s in range(0, len(self), _CHUNK))
        else:
            chunks = [sample_rows(len(self))]
        for rows in chunks:
            yield from self.items(rows)


def _encoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return from_lists(value) if isinstance(value, list) else value
    return value["bytes"] if value.get("bytes") is not None else value.get("path")


def from_hub(text: str, *, labelled: bool, name: str | None = None) -> HubSource:
    """``"user/name"`` or ``"user/name:split"``; without a split "train" where there is one, else the only one.

    Raises:
        MissingDataError: neither on this machine nor reachable on the hub.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets, which reads the Hugging Face hub,", "train") from error
    repository, _, split = text.partition(":")
    if not (_in_cache(repository) or hub_answers()):
        raise _not_found(text, "the hub cannot be reached and there is no copy on this machine")
    try:
        splits = load_dataset(repository)
    except Exception as error:  # network, authentication, unknown repository: many classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _not_found(text, reason) from None
    return HubSource(one_split(splits, split or None, text), labelled=labelled, name=name or text)


def _not_found(text: str, reason: str) -> MissingDataError:
    return MissingDataError(
        f"no such file or folder {text!r}, and no Hugging Face data set of that name could be loaded ({reason})"
    )


def warn_of_hub_copy(text: str) -> None:
    """Say so where a folder is taken and this machine also has a data set of that name from the hub."""
    if not HUB_ID.fullmatch(text) or importlib.util.find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import constants

    if Path(constants.HF_HUB_CACHE, f"datasets--{text.replace('/', '--')}").exists():
        LOG.warning("%r is taken as the folder; the data set of that name on the hub is '%s:train'", text, text)


def _in_cache(repository: str) -> bool:
    from datasets import config
    from huggingface_hub import constants

    downloaded = Path(constants.HF_HUB_CACHE, f"datasets--{repository.replace('/', '--')}")
    prepared = Path(config.HF_DATASETS_CACHE, repository.replace("/", "___"))
    return downloaded.exists() or prepared.exists()


def hub_answers() -> bool:
    """One request: `load_dataset` itself would retry for half a minute before it says that a folder was mistyped."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except Exception:  # httpx's or requests' own classes, by version of huggingface_hub
        return False
    return True


def one_split(splits: Any, split: str | None, name: str) -> Any:
    """One `Dataset` of a `DatasetDict`."""
    wanted = split or ("train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None)
    if wanted not in splits:
        raise DataError(f"{name} has the splits {', '.join(splits)}; choose one, e.g. '{name}:{next(iter(splits))}'")
    return splits[wanted]
