"""Which images train, which choose the threshold, which measure: disjoint, by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from guard.errors import CalibrationError, DataError

from .data import ImageData, load, split


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of the user's data; `rows` are indices into it (empty for parts given apart)."""

    train: ImageData
    calibration: ImageData
    test: ImageData | None
    rows: dict[str, np.ndarray]


def make_splits(source: ImageData, calibration: Any, test: Any, seed: int, alpha: float) -> Splits:
    """Hold out calibration and test images by seed, or take data sets of their own for them."""
    own = {name: part for name, part in (("calibration", calibration), ("test", test)) if not is_amount(part)}
    if source.labels is None:
        raise DataError("training needs labelled images: a folder per class, or a label column")
    rows = split(
        source.labels,
        seed=seed,
        calibration=0 if "calibration" in own else calibration,
        test=0 if "test" in own else test,
    )
    loaded = {name: load(part, preprocess=source.preprocess) for name, part in own.items()}
    held_out = loaded.get("calibration") or source.subset(rows["calibration"])
    if len(held_out) < 1 / alpha - 1:
        raise CalibrationError(
            f"alpha={alpha} needs at least {int(np.ceil(1 / alpha)) - 1} calibration images, got {len(held_out)}; "
            "give more data, a larger calibration= share, or a larger alpha"
        )
    tested = loaded.get("test") or (source.subset(rows["test"]) if len(rows["test"]) else None)
    return Splits(source.subset(rows["train"]), held_out, tested, rows)


def is_amount(value: Any) -> bool:
    """Whether `calibration=` or `test=` says how many images to hold out, rather than giving some."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
