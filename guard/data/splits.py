"""Disjoint, stratified training, calibration and test splits that can be made again from labels, seed and counts."""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def split(
    labels: np.ndarray, *, seed: int, calibration: int | float | None = None, test: int | float | None = None
) -> dict[str, np.ndarray]:
    """Divide N labelled images.

    Each class is divided in proportion (largest remainder), and at least one image of every class stays for training.
    The test split depends on (labels, seed, its count) alone, so changing the calibration split leaves it as it is;
    giving back the counts of an earlier split gives back the split.

    Args:
        labels: (N,) int64, every class 0 .. C-1 present.
        seed: of the draw.
        calibration, test: how many images (int), which share (float below 1), or None for `default_count`; 0 for none.

    Returns:
        {"train", "calibration", "test"}: ascending int64 indices; together 0 .. N-1, each once.

    Raises:
        DataError: more images wanted than can be held out.
    """
    labels = np.asarray(labels)
    counts = {"test": _count(test, len(labels), "test"), "calibration": _count(calibration, len(labels), "calibration")}
    sizes = np.bincount(labels)
    spare = int((sizes - 1)[sizes > 0].sum())
    if sum(counts.values()) > spare:
        raise DataError(
            f"calibration={counts['calibration']} and test={counts['test']} images cannot be held out of "
            f"{len(labels)} images in {int((sizes > 0).sum())} classes: one image of each class must stay for "
            f"training, which leaves {spare}; hold out fewer, or give calibration or test a data set of its own"
        )
    queues = [np.flatnonzero(labels == c) for c in range(len(sizes))]
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x5B117])))
    queues = [generator.permutation(queue) for queue in queues]
    taken = np.zeros(len(sizes), np.int64)
    parts = {}
    for name, count in counts.items():
        quota = _apportion(count, sizes, np.maximum(sizes - 1 - taken, 0))
        picked = [queue[a : a + k] for queue, a, k in zip(queues, taken, quota, strict=True)]
        parts[name] = np.sort(np.concatenate(picked)).astype(np.int64)
        taken += quota
    rest = np.sort(np.concatenate([queue[a:] for queue, a in zip(queues, taken, strict=True)])).astype(np.int64)
    return {"train": rest, "calibration": parts["calibration"], "test": parts["test"]}


def default_count(n: int) -> int:
    """min(2000, max(10 % of n, min(400, 25 % of n))): enough for a 5 % threshold, never most of a small set."""
    return int(min(2000, max(0.1 * n, min(400, 0.25 * n))))


def _count(wanted: int | float | None, n: int, name: str) -> int:
    if wanted is None:
        return default_count(n)
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float, np.integer, np.floating)):
        raise DataError(f"{name} must be a number of images or a share below 1, got {wanted!r}")
    share = isinstance(wanted, (float, np.floating))
    if not np.isfinite(wanted) or wanted < 0 or (share and wanted >= 1):
        raise DataError(f"{name} must be a number of images (an int >= 0) or a share (a float in [0, 1)), got {wanted}")
    return round(wanted * n) if share else int(wanted)


def _apportion(count: int, sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """(C,) how many of each class, `count` together: in proportion to `sizes` by largest remainder, at most `room`."""
    exact = np.zeros(len(sizes))
    free = room > 0
    while free.any():  # classes whose share exceeds their room are filled; the others divide what is left
        left = count - exact[~free].sum()
        exact[free] = left * sizes[free] / sizes[free].sum()
        over = free & (exact > room)
        if not over.any():
            break
        exact[over] = room[over]
        free &= ~over
    quota = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.round(exact - quota, 9)
    order = np.argsort(-remainder, kind="stable")  # ties to the lower class
    quota[order[: count - quota.sum()]] += 1
    return quota
