"""Which images train, which choose the threshold, which measure: disjoint, by seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from train.features.extract import stream_outputs

from ..calibration.conformal import reachable_rank
from ..errors import CalibrationError, ConfigError, DataError
from ..graph.module import GuardModule
from . import ImageData, load, split
from .test_images import match_classes

log = logging.getLogger("ood_guard")

MIN_SETTLED = 20  # images; a table of p-values from fewer says nothing


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of the user's data; `rows` are indices into it (empty for parts given apart)."""

    train: ImageData
    calibration: ImageData
    test: ImageData | None
    rows: dict[str, np.ndarray]


def make_splits(
    source: ImageData, calibration: Any, test: Any, seed: int, alpha: float, labelled_calibration: bool = False
) -> Splits:
    """Hold out calibration and test images by seed, or take data sets of their own for them.

    Args:
        labelled_calibration: a calibration set of its own must have labels; for a threshold images are enough.

    Raises:
        ConfigError, CalibrationError, DataError: a seed, alpha or number of images that cannot be.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be an integer from 0 to 2^31 - 1, got {seed!r}")
    own = {name: part for name, part in (("calibration", calibration), ("test", test)) if not is_amount(part)}
    if source.labels is None:
        raise DataError("training needs labelled images: a folder per class, or a label column")
    rows = split(
        source.labels,
        seed=seed,
        calibration=0 if "calibration" in own else calibration,
        test=0 if "test" in own else test,
    )
    held_out, tested = source.subset(rows["calibration"]), source.subset(rows["test"]) if len(rows["test"]) else None
    if "calibration" in own and labelled_calibration:
        held_out = _named_like(source, load(own["calibration"], preprocess=source.preprocess, all_classes=False))
    elif "calibration" in own:
        held_out = load(own["calibration"], preprocess=source.preprocess, labelled=False)
    if "test" in own:
        tested = _named_like(source, load(own["test"], preprocess=source.preprocess, all_classes=False))
    reachable_rank(len(held_out), alpha)  # before training
    return Splits(source.subset(rows["train"]), held_out, tested, rows)


def _named_like(source: ImageData, part: ImageData) -> ImageData:
    """`part` with its labels in the order of the source's classes, matched by name."""
    assert part.labels is not None  # loaded as labelled
    labels, note = match_classes(part.labels, part.class_names, source.class_names, part.name)
    if note:
        log.info("%s", note)
    return replace(part, labels=labels, class_names=source.class_names)


def settled(module: GuardModule, splits: Splits, alpha: float) -> Splits:
    """Give half of the calibration images to a score that `takes_held_out`; the splits with the other half.

    The threshold and its guarantee need images on which no part of the score depends. Where half of them could not
    reach `alpha`, all stay for the threshold, and the score keeps what it took from its fitting images.
    """
    if not module.score.takes_held_out:
        return splits
    order = np.random.default_rng(0).permutation(len(splits.calibration))
    given, kept = order[: len(order) // 2], np.sort(order[len(order) // 2 :])
    try:
        reachable_rank(len(kept), alpha)
    except CalibrationError:
        given = given[:0]
    if len(given) < MIN_SETTLED:
        log.warning("%d calibration images are too few to share with score %r", len(order), module.score.name)
        return splits
    outputs = list(stream_outputs(module, splits.calibration.subset(np.sort(given))))
    maps = [t.feature_map for t in outputs if t.feature_map is not None and module.score.uses_map]
    features, logits = torch.cat([t.features for t in outputs]), torch.cat([t.logits for t in outputs])
    module.score.settle(features, logits, torch.cat(maps) if maps else None)
    return replace(splits, calibration=splits.calibration.subset(kept))


def open_ood_val(given: Any, splits: Splits, workers: int | None) -> dict[str, ImageData]:
    """The OOD sets to report on, opened before training so that a wrong path costs nothing.

    Raises:
        ConfigError: there are no test images to compare them with.
    """
    if given is None:
        return {}
    if splits.test is None:
        raise ConfigError("ood_val is compared with test images, and test=0 holds none out; give test= some")
    preprocess = splits.train.preprocess
    named = given if isinstance(given, dict) else {"ood_val": given}
    return {
        name: load(images, preprocess=preprocess, labelled=False, workers=workers) for name, images in named.items()
    }


def is_amount(value: Any) -> bool:
    """Whether `calibration=` or `test=` says how many images to hold out, rather than giving some."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
