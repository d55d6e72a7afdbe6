"""95 % intervals of a paired difference: over seeds by Student's t, over images by the bootstrap.

    over seeds    mean +- t_{0.975, n - 1} s / sqrt(n) of the differences of equal seeds (Student, 1908)
    over images   percentiles of the difference over resamples, each of which both rows see (Efron, 1979)

Seeds share data splits and nothing else, so the first says what another training would give; the second, for one seed,
only what other test images would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from guard.errors import DataError

RESAMPLES, CHUNK = 400, 50


@dataclass(frozen=True)
class Difference:
    """A mean difference; its interval, None where there is nothing to tell it by."""

    mean: float
    interval: tuple[float, float] | None
    over: Literal["seeds", "images"]

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0."""
        if self.interval is None:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


def over_seeds(differences: Sequence[float]) -> Difference:
    """Of at least two seeds, else without an interval."""
    values = np.asarray(differences, np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Difference(mean, None, "seeds")
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Difference(mean, (mean - half, mean + half), "seeds")


def over_images(
    first: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean over OOD sets of AUROC(first) - AUROC(other), the same images in every resample.

    Args:
        first, other: ood_score (N,) of each image by set; "" for the in-distribution ones.
        names: the OOD sets.

    Raises:
        DataError: the two are not of the same images.
    """
    for name in ("", *names):
        if len(first[name]) != len(other[name]):
            raise DataError(f"{len(first[name])} and {len(other[name])} scores of {name or 'the test images'}")
    generator = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while sum(map(len, found)) < resamples:
        inside = _weights(generator, len(first[""]))
        differences = np.zeros(CHUNK)
        for name in names:
            outside = _weights(generator, len(first[name]))
            ours, theirs = (_aurocs(scores[""], scores[name], inside, outside) for scores in (first, other))
            differences += (ours - theirs) / len(names)
        found.append(differences)
    low, high = np.quantile(np.concatenate(found)[:resamples], [0.025, 0.975])
    return float(low), float(high)


def _weights(generator: np.random.Generator, n: int) -> np.ndarray:
    """(CHUNK, n) how often each image is in each resample."""
    return generator.multinomial(n, np.full(n, 1 / n), size=CHUNK)


def _aurocs(inside: np.ndarray, outside: np.ndarray, times_in: np.ndarray, times_out: np.ndarray) -> np.ndarray:
    """(R,) AUROC of resamples: in-distribution and OOD images so often each, (R, N) and (R, M)."""
    order = np.argsort(inside, kind="stable")
    ordered = inside[order]
    below = np.zeros((len(times_in), len(inside) + 1))
    np.cumsum(times_in[:, order], axis=1, out=below[:, 1:])
    left, right = np.searchsorted(ordered, outside, "left"), np.searchsorted(ordered, outside, "right")
    wins = (below[:, left] + below[:, right]) / 2
    share: np.ndarray = (wins * times_out).sum(1) / (times_in.sum(1) * times_out.sum(1))
    return share
