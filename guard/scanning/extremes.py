"""The images with the largest of some value, over all shards, at constant memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .result import ScannedImage, number_or_none
from .shards import Columns

SHOWN = 48  # images of a contact sheet, and of each list in summary.json


class Largest:
    """Keeps the rows with the `most` largest keys."""

    def __init__(self, most: int = SHOWN) -> None:
        self._most = most
        self._keys = np.zeros((0, 2))
        self._columns: Columns = {}

    def update(self, keys: np.ndarray, columns: Columns, among_equals: np.ndarray | None = None) -> None:
        """Take one shard.

        Args:
            keys: (n,); rows whose key is NaN are left out.
            columns: (n,) each, by name.
            among_equals: (n,) second key, by which rows of equal keys are ordered, largest first; then by their order.
        """
        pairs = np.stack([keys, np.zeros(len(keys)) if among_equals is None else among_equals], 1).astype(np.float64)
        known = np.flatnonzero(~np.isnan(pairs[:, 0]))
        first = known[self._first(pairs[known])]
        joined = np.concatenate([self._keys, pairs[first]])
        order = self._first(joined)
        for name, values in columns.items():
            mine = self._columns.get(name, values[:0])
            self._columns[name] = np.concatenate([mine, values[first]])[order]
        self._keys = joined[order]

    def _first(self, pairs: np.ndarray) -> np.ndarray:
        order: np.ndarray = np.lexsort((-pairs[:, 1], -pairs[:, 0]))[: self._most]
        return order

    def images(self) -> tuple[ScannedImage, ...]:
        """What was kept, largest key first."""
        return tuple(_image(self._columns, i) for i in range(len(self._keys)))


def columns_of(labelled: bool) -> Sequence[str]:
    """What an image's record is made of."""
    own = ("row", "path", "class_name", "probability", "ood_score", "is_ood", "p_value")
    return (*own, "given_class", "given_probability") if labelled else own


def _image(columns: Columns, i: int) -> ScannedImage:
    given = {}
    if "given_class" in columns:
        given = {"given_class": columns["given_class"][i], "given_probability": float(columns["given_probability"][i])}
    return ScannedImage(
        row=int(columns["row"][i]),
        path=columns["path"][i],
        class_name=columns["class_name"][i],
        probability=float(columns["probability"][i]),
        ood_score=float(columns["ood_score"][i]),
        is_ood=bool(columns["is_ood"][i]),
        p_value=number_or_none(columns["p_value"][i]),
        **given,
    )
