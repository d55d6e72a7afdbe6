"""What users say about the pixels a network takes: `Geometry`, options of the public functions that make a guard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from .errors import ConfigError
from .manifest import Interpolation, Preprocess
from .record import Record, option

MAX_SIDE = 8192  # pixels
Resize = Literal["crop", "squash", "pad"]
_COLOURS = {"black": 0, "white": 255}


class Geometry(Record):
    """How images become the input's pixels; None is what the model, or else the images, say."""

    image_size: Any = option(
        None, "Side of the input in pixels, or height x width: 224x128; default the model's or the images'."
    )
    resize: Resize | None = option(
        None, "crop: fill the input and cut the centre; squash: stretch each side; pad: fit into it. Default crop."
    )
    crop_pct: float | None = option(
        None,
        "Share of the resized image that the input keeps, as in timm: 0.875 is 256 to 224; default 1.",
        ge=0.1,
        le=4,
        rule="must be a share from 0.1 to 4 (87.5 % is 0.875)",
    )
    interpolation: Interpolation | None = option(
        None, "Pillow's filter: nearest, bilinear, bicubic, lanczos, box or hamming; default bilinear."
    )
    background: Any = option(
        None, "Behind transparent pixels: 0 to 255, R,G,B, black, white; drop ignores them. Default white."
    )
    fill: Any = option(None, "Around an image that is padded: 0 to 255, R,G,B, black or white; default black.")

    @field_validator("image_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> int | tuple[int, int] | None:
        return None if value is None else checked_size(value)

    @field_validator("background", mode="before")
    @classmethod
    def _background(cls, value: Any) -> Any:
        drop = isinstance(value, str) and value == "drop"
        return value if value is None or drop else checked_colour("background", value, " or 'drop'")

    @field_validator("fill", mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        return None if value is None else checked_colour("fill", value)

    def given(self) -> tuple[str, ...]:
        """The options, all but image_size, that were given."""
        return tuple(name for name in OPTIONS if getattr(self, name) is not None)

    def applied(self, to: Preprocess) -> Preprocess:
        """A preprocessing with the options that were given instead of its own.

        Another `resize` than its own takes the whole image: what it cut goes with it, unless `crop_pct` says more.

        Raises:
            ConfigError: a `fill` where nothing is left to be filled.
        """
        own = to.model_dump()
        if self.resize is not None and self.resize != to.resize:
            own |= {"resize": self.resize, "resize_to": None, "fill": ()}
        if self.crop_pct is not None:
            own["resize_to"] = resized_before((to.height, to.width), self.crop_pct)
        if self.interpolation is not None:
            own["interpolation"] = self.interpolation
        if self.background is not None:
            own["background"] = self.background
        if self.fill is not None:
            levels = self.fill if isinstance(self.fill, tuple) else (self.fill,) * 3
            own["fill"] = levels if to.channels == 3 else (round(sum(levels) / 3),)
        found = Preprocess(**own)
        height, width = found.resize_to or (found.height, found.width)
        if self.fill is not None and found.resize != "pad" and height >= found.height and width >= found.width:
            raise ConfigError(
                f"fill= is not read with resize={found.resize!r}: images fill the input; give resize='pad'"
            )
        return found


OPTIONS = ("resize", "crop_pct", "interpolation", "background", "fill")


def checked_size(value: Any) -> int | tuple[int, int]:
    """A side, or (height, width) where they differ, of a number, a pair or a text such as "224x128".

    Raises:
        ValueError: it is something else, or not in 1 .. `MAX_SIDE` pixels.
    """
    sides: Any = re.split(r"\s*[x×,]\s*", value.strip()) if isinstance(value, str) else value
    numbers: list[Any] = list(sides) if isinstance(sides, (Sequence, np.ndarray)) and np.ndim(sides) == 1 else [sides]
    try:
        whole = [int(n) for n in numbers]
        sound = [n == (int(m) if isinstance(m, str) else m) for n, m in zip(whole, numbers, strict=True)]
    except (TypeError, ValueError, OverflowError):
        sound, whole = [False], []
    if not all(sound) or any(isinstance(n, bool) for n in numbers) or len(whole) not in (1, 2):
        raise ValueError("a side in pixels, or height and width like (224, 128), is needed")
    if not all(1 <= n <= MAX_SIDE for n in whole):
        raise ValueError(f"sides are 1..{MAX_SIDE} pixels")
    return whole[0] if len(set(whole)) == 1 else (whole[0], whole[1])


def checked_colour(name: str, value: Any, more: str = "") -> int | tuple[int, int, int]:
    """A grey level or colour of a number, three numbers or a text such as "black" or "124,116,104".

    Raises:
        ValueError: it is something else, or not in 0 .. 255.
    """
    if isinstance(value, str):
        value = _COLOURS.get(value.strip().lower(), value.split(",") if "," in value else value)
    given = list(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else [value]
    try:
        levels = [int(v) for v in given]
        sound = [isinstance(v, str) or (v == n and not isinstance(v, bool)) for v, n in zip(given, levels, strict=True)]
    except (TypeError, ValueError, OverflowError):
        levels, sound = [], [False]
    if not all(sound) or len(levels) not in (1, 3) or not all(0 <= n <= 255 for n in levels):
        raise ValueError(f"{name} must be 0..255, three such numbers, 'black' or 'white'{more}")
    return levels[0] if len(levels) == 1 else (levels[0], levels[1], levels[2])


def resized_before(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """(height, width) of the image of which an input of `size` is the share `crop_pct`, rounded down as timm does."""
    return max(1, int(size[0] / crop_pct)), max(1, int(size[1] / crop_pct))


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an `image_size`."""
    return (size, size) if isinstance(size, int) else size


def size_of(preprocess: Preprocess) -> int | tuple[int, int]:
    """The `image_size` of a preprocessing."""
    return preprocess.height if preprocess.height == preprocess.width else (preprocess.height, preprocess.width)
