"""Disjoint, stratified training, calibration and test splits that can be made again from labels, seed and counts."""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def split(
    labels: np.ndarray,
    *,
    seed: int,
    calibration: int | float | None = None,
    test: int | float | None = None,
    originals: np.ndarray | None = None,
    spread_thin: bool = False,
) -> dict[str, np.ndarray]:
    """Divide N labelled images.

    Each class is divided in proportion (largest remainder), and at least one image of every class stays for training.
    The test split depends on (labels, seed, its count) alone, so changing the calibration split leaves it as it is;
    giving back the counts of an earlier split gives back the split.

    Copies go where their original goes, and a set of copies that would exceed a count stays out of it: then a part may
    be smaller than asked for.

    Args:
        labels: (N,) int64, every class 0 .. C-1 present.
        seed: of the draw.
        calibration, test: how many images (int), which share (float below 1), or None for `default_count`; 0 for none.
        originals: (N,) int64, for each image the first one with its pixels (`copies.originals`); None where nobody
            looked. Without copies the split is the same as for None.
        spread_thin: where that asks for too many, one image in all may stay, for what is fitted to no class.

    Returns:
        {"train", "calibration", "test"}: ascending int64 indices; together 0 .. N-1, each once.

    Raises:
        DataError: more images wanted than can be held out.
    """
    labels = np.asarray(labels)
    counts = {
        "test": part_size(test, len(labels), "test"),
        "calibration": part_size(calibration, len(labels), "calibration"),
    }
    if originals is not None and (originals != np.arange(len(labels))).any():
        return _split_with_copies(labels, originals, counts, seed, spread_thin)
    sizes, stays = np.bincount(labels), 1
    spare = int((sizes - stays)[sizes > 0].sum())
    if spread_thin and spare < sum(counts.values()) < len(labels):
        spare, stays = len(labels) - 1, 0
    if sum(counts.values()) > spare:
        raise _too_many(counts, len(labels), int((sizes > 0).sum()), spare, "image")
    queues = _shuffled(_by_class(labels), seed)
    taken = np.zeros(len(sizes), np.int64)
    parts = {}
    for name, count in counts.items():
        quota = _apportion(count, sizes, np.maximum(sizes - stays - taken, 0))
        picked = [queue[a : a + k] for queue, a, k in zip(queues, taken, quota, strict=True)]
        parts[name] = np.sort(np.concatenate(picked)).astype(np.int64)
        taken += quota
    rest = np.sort(np.concatenate([queue[a:] for queue, a in zip(queues, taken, strict=True)])).astype(np.int64)
    return {"train": rest, "calibration": parts["calibration"], "test": parts["test"]}


def _shuffled(queues: list[np.ndarray], seed: int) -> list[np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x5B117])))
    return [generator.permutation(queue) for queue in queues]


def _split_with_copies(
    labels: np.ndarray, originals: np.ndarray, counts: dict[str, int], seed: int, spread_thin: bool
) -> dict[str, np.ndarray]:
    """`split` by sets of equal images, each of the class of its original.

    The sets of all classes are put into one order, in which each class is spread evenly, and taken from the front as
    long as they fit. The last one of each class stays for training.
    """
    queues = _shuffled([rows[originals[rows] == rows] for rows in _by_class(labels)], seed)
    sizes = np.bincount(originals, minlength=len(labels))
    places = [(np.arange(len(queue)) + 0.5) / max(len(queue), 1) for queue in queues]
    order = _in_turn(queues, places, 1)
    spare = int(sizes[order].sum())
    if spread_thin and sum(counts.values()) > spare:
        order = _in_turn(queues, places, 0)[:-1]
        spare = int(sizes[order].sum())
    if sum(counts.values()) > spare:
        raise _too_many(counts, len(labels), sum(len(queue) > 0 for queue in queues), spare, "image with its copies")
    part_of = np.full(len(labels), "train", dtype="<U11")
    for name, count in counts.items():
        left = count
        for first in order[part_of[order] == "train"].tolist():
            if sizes[first] <= left:
                part_of[first] = name
                left -= sizes[first]
    part_of = part_of[originals]
    return {name: np.flatnonzero(part_of == name).astype(np.int64) for name in ("train", "calibration", "test")}


def _in_turn(queues: list[np.ndarray], places: list[np.ndarray], stays: int) -> np.ndarray:
    """All but the last `stays` of each queue, by their places."""
    moved = np.concatenate([queue[: len(queue) - stays] for queue in queues if len(queue)])
    where = np.concatenate([place[: len(place) - stays] for place in places if len(place)])
    return moved[np.argsort(where, kind="stable")]


def _by_class(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == c) for c in range(int(labels.max(initial=-1)) + 1)]


def _too_many(counts: dict[str, int], images: int, classes: int, spare: int, kept: str) -> DataError:
    return DataError(
        f"calibration={counts['calibration']} and test={counts['test']} images cannot be held out of "
        f"{images} images in {classes} classes: one {kept} of each class must stay for "
        f"training, which leaves {spare}; hold out fewer, or give calibration or test a data set of its own"
    )


def default_count(n: int) -> int:
    """min(2000, max(10 % of n, min(400, 25 % of n))): enough for a 5 % threshold, never most of a small set."""
    return int(min(2000, max(0.1 * n, min(400, 0.25 * n))))


def part_size(wanted: int | float | None, n: int, name: str) -> int:
    """How many of n images are held out for `name`: a number, a share, or None for `default_count`.

    Raises:
        DataError: it is something else.
    """
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
