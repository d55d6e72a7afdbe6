"""Outliers in pixel space.

given            images of the user's own
pixel_average    means of k images of different classes (MIM)
patch_shuffle    patches of one image in another order
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.errors import ConfigError, UnknownNameError

from ...method import Synthesiser
from .given import Given
from .patch_shuffle import PatchShuffle
from .pixel_average import PixelAverage

if TYPE_CHECKING:
    from ...data import ImageData

SYNTHESISERS = ("patch_shuffle", "pixel_average")


def image_source(outliers: ImageData | str | None, count: int, num_classes: int) -> Synthesiser:
    """The synthesiser behind ``outliers=``: a data set, or a name of `SYNTHESISERS`; `count` outliers per step."""
    if outliers is None:
        raise ConfigError("this method learns from outlier images; give some: outliers='folder/of/images'")
    if isinstance(outliers, str):
        if outliers not in SYNTHESISERS:
            raise UnknownNameError("synthesiser", outliers, SYNTHESISERS)
        return PatchShuffle(count) if outliers == "patch_shuffle" else PixelAverage(num_classes, count)
    return Given(outliers, count)


__all__ = ["SYNTHESISERS", "Given", "PatchShuffle", "PixelAverage", "image_source"]
