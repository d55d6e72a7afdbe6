"""What the shards of a scan say together; they are read one after the other, so memory does not grow with their number.

The drift test wants images in no particular order, and a folder comes one class after the other. The images are
therefore taken in an order that is random (by `seed`), which makes them exchangeable with the calibration images
whenever they are drawn alike. Of more than `DRIFT_IMAGES` images so many random ones are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..manifest import Manifest
from ..monitoring import DriftMonitor, DriftReport
from ..monitoring.monitor import rate_interval
from ..monitoring.report import ClassReport
from .cross_fit import CrossFittedShard
from .extremes import Largest, columns_of
from .labels import label_report
from .plan import ScanCard, Shard
from .result import CorruptImage, LabelReport, ScanSummary
from .shards import Columns, read_errors, read_shards

DRIFT_IMAGES = 200_000
NAMED = 1000  # corrupt images in summary.json; all are in the shards


@dataclass(frozen=True)
class Sample:
    """Random images in random order: ood_scores (n,), flags (n,) and p-values (n,)."""

    ood_score: np.ndarray
    is_ood: np.ndarray
    p_value: np.ndarray


def summarise(
    folder: Path,
    card: ScanCard,
    shards: Sequence[Shard],
    manifest: Manifest,
    *,
    seed: int,
    notes: Sequence[str],
    cross_fitted: CrossFittedShard | None = None,
) -> tuple[ScanSummary, Sample]:
    """The summary of a whole scan, and the sample that its charts are drawn from.

    Args:
        seed: of the random order.
        notes: what was said before.
        cross_fitted: the file that judges the labels, in place of the guard's own verdicts.
    """
    read = partial(read_shards, folder, shards)
    most, least = Largest(), Largest()
    images, flagged = _counted(read([*columns_of(card.labelled), "label"]), len(manifest.class_names), most, least)
    scored, hits = int(images.sum()), int(flagged.sum())
    low, high = rate_interval(hits, scored)
    calibration = manifest.calibration
    sample = _sample(read, card.images, seed)
    corrupt, first = _corrupt(read_errors(folder, shards))
    summary = ScanSummary(
        out=str(folder),
        guard=card.guard,
        data=card.data,
        images=card.images,
        scored=scored,
        shards=len(shards),
        made=0,
        flagged=hits,
        ood_rate=hits / scored if scored else None,
        ood_rate_low=low,
        ood_rate_high=high,
        target_rate=calibration.alpha if calibration else None,
        classes=_by_class(manifest.class_names, images, flagged),
        drift=_drift(manifest, sample, seed) if calibration else None,
        most_ood=most.images(),
        most_ordinary=least.images(),
        corrupt=corrupt,
        corrupt_images=first,
        labels=_labels(folder, shards, manifest, cross_fitted) if card.labelled else None,
        notes=tuple(notes),
    )
    return summary, sample


def _labels(
    folder: Path, shards: Sequence[Shard], manifest: Manifest, cross_fitted: CrossFittedShard | None
) -> LabelReport:
    if cross_fitted is None:
        read = partial(read_shards, folder, shards)
        return label_report(read, manifest.class_names, calibrated=manifest.calibration is not None)
    read = partial(read_shards, folder, [cross_fitted.shard])
    return label_report(read, manifest.class_names, calibrated=True, folds=cross_fitted.folds)


def _counted(shards: Iterator[Columns], classes: int, most: Largest, least: Largest) -> tuple[np.ndarray, np.ndarray]:
    """(C,) images and (C,) flagged ones by predicted class; `most` and `least` take the scores on the way."""
    images, flagged = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for columns in shards:
        most.update(columns["ood_score"], columns)
        least.update(-columns["ood_score"], columns)
        images += np.bincount(columns["label"], minlength=classes)
        flagged += np.bincount(columns["label"][columns["is_ood"]], minlength=classes)
    return images, flagged


def _by_class(names: Sequence[str], images: np.ndarray, flagged: np.ndarray) -> tuple[ClassReport, ...]:
    rows = []
    for name, n, hits in zip(names, images.tolist(), flagged.tolist(), strict=True):
        low, high = rate_interval(hits, n)
        rate = hits / n if n else None
        rows.append(
            ClassReport(class_name=name, images=n, flagged=hits, flag_rate=rate, flag_rate_low=low, flag_rate_high=high)
        )
    return tuple(rows)


def _sample(read: Callable[[Sequence[str]], Iterator[Columns]], images: int, seed: int) -> Sample:
    rng = np.random.default_rng([seed, 0x5CA7])
    chosen = None if images <= DRIFT_IMAGES else np.sort(rng.choice(images, DRIFT_IMAGES, replace=False))
    names = ("ood_score", "is_ood", "p_value")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for columns in read([*names, "row"]):
        kept = np.ones(len(columns["row"]), bool) if chosen is None else _in_sorted(columns["row"], chosen)
        for name in names:
            parts[name].append(columns[name][kept])
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    order = rng.permutation(len(joined["ood_score"]))
    return Sample(**{name: values[order] for name, values in joined.items()})


def _in_sorted(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the rows are among the chosen ones, which are sorted."""
    at = np.searchsorted(chosen, rows)
    found: np.ndarray = chosen[np.minimum(at, len(chosen) - 1)] == rows
    return found


def _drift(manifest: Manifest, sample: Sample, seed: int) -> DriftReport:
    monitor = DriftMonitor.of(manifest, class_names=(), seed=seed)
    return monitor.update(sample.ood_score, flagged=sample.is_ood, now=0)  # a data set has no time


def _corrupt(errors: Iterator[tuple[int, str, str]]) -> tuple[int, tuple[CorruptImage, ...]]:
    """(how many, the first of them)."""
    count, first = 0, list[CorruptImage]()
    for row, path, why in errors:
        count += 1
        if len(first) < NAMED:
            first.append(CorruptImage(row=row, path=path, error=why))
    return count, tuple(first)
