"""How much outliers differ from one another, beside in-distribution images: a synthesiser may have collapsed.

    difference = root mean square difference of two images, in grey levels; mean over pairs

Outliers that are all one image teach a detector that image and nothing else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from guard.data import ImageData

log = logging.getLogger("ood_guard")

PAIRS = 500
LEAST = 0.15  # of what two in-distribution images differ by; averages of 10 differ by 0.3


class Diversity(NamedTuple):
    """Mean differences of two outliers and of two in-distribution images, in grey levels."""

    outliers: float
    inliers: float

    @property
    def collapsed(self) -> bool:
        """Whether the outliers are much the same."""
        return self.outliers < LEAST * self.inliers

    def sentence(self) -> str:
        """What is wrong where they are, and what to do."""
        return (
            f"the outliers are much alike (two differ by {self.outliers:.1f} grey levels, two in-distribution images "
            f"by {self.inliers:.1f}), and a detector learns these few: use other options of the synthesiser, or another"
        )


def diversity(outliers: ImageData, inliers: ImageData) -> Diversity:
    """Of up to 500 pairs of each, of images that lie far apart in their order."""
    return Diversity(_difference(outliers), _difference(inliers))


def _difference(data: ImageData) -> float:
    count = min(2 * PAIRS, len(data)) // 2 * 2
    if count < 2:
        return 0.0
    images = data.take(np.linspace(0, len(data) - 1, count).round().astype(np.int64))
    first, second = images[: count // 2].astype(np.float64), images[count // 2 :].astype(np.float64)
    return float(np.sqrt(((first - second) ** 2).mean((1, 2, 3))).mean())


def warn_of_collapse(outliers: ImageData, inliers: ImageData, name: str) -> None:
    """A warning where the outliers of `name` are much the same."""
    if len(outliers) > 1 and len(inliers) > 1 and (found := diversity(outliers, inliers)).collapsed:
        log.warning("%s: %s", name, found.sentence())
