"""What a monitor remembers, as one flat float64 array: easy to share, to copy and to write whole."""

from __future__ import annotations

import numpy as np

from .betting import BETS, BINS, first_stakes

CURVE_POINTS = 256

_SCALARS = (
    "images",  # scored
    "flagged",
    "unscored",  # images whose score was NaN; they take no part
    "log_capital",  # now
    "log_largest",  # ever since the reset
    "alarm_at",  # images by the first crossing, 0 before it
    "alarm_time",
    "started",  # seconds since 1970, the first image; 0 before it
    "updated",
    "late_images",  # fading counts of images and flags
    "late_flagged",
    "resets",
    "points",  # of the curve
    "stride",  # images between two of them
)
RESETS = _SCALARS.index("resets")  # where it is in `State.values`


class State:
    """Named views into `values` (L,); writing through them writes the array.

    Attributes:
        log_stakes: (BETS,).
        bins: (2, BINS) counts of p-values.
        urn: (G,) balls, see `ranks`.
        classes: (2, C) images and flags by predicted class.
        curve: (CURVE_POINTS, 4) images, log capital, flagged, time; the first `points` rows are filled.
    """

    def __init__(self, values: np.ndarray, cells: int, classes: int) -> None:
        if values.shape != (self.length(cells, classes),):
            raise ValueError(f"a state of {cells} cells and {classes} classes has another length than {values.shape}")
        self.values = values
        parts = np.split(values, np.cumsum([len(_SCALARS), BETS, 2 * BINS, cells, 2 * classes]))
        self._scalars, self.log_stakes, bins, self.urn, by_class, curve = parts
        self.bins, self.classes = bins.reshape(2, BINS), by_class.reshape(2, classes)
        self.curve = curve.reshape(CURVE_POINTS, 4)

    @staticmethod
    def length(cells: int, classes: int) -> int:
        """How many numbers there are."""
        return len(_SCALARS) + BETS + 2 * BINS + cells + 2 * classes + 4 * CURVE_POINTS

    @classmethod
    def fresh(cls, balls: np.ndarray, classes: int, resets: int = 0) -> State:
        """Before the first image."""
        state = cls(np.zeros(cls.length(len(balls), classes)), len(balls), classes)
        state.log_stakes[:] = first_stakes()
        state.urn[:] = balls
        state["resets"], state["stride"] = resets, 1
        return state

    def __getitem__(self, name: str) -> float:
        return float(self._scalars[_SCALARS.index(name)])

    def __setitem__(self, name: str, value: float) -> None:
        self._scalars[_SCALARS.index(name)] = value

    def add_point(self, images: int, log_capital: float, flagged: float, time: float) -> None:
        """Put a point on the curve where one is due; a full curve drops every other point and doubles the stride."""
        if images % self["stride"]:
            return
        n = int(self["points"])
        if n == CURVE_POINTS:
            self.curve[: n // 2] = self.curve[1::2].copy()
            n //= 2
            self["stride"] *= 2
            if images % self["stride"]:
                self["points"] = n
                return
        self.curve[n] = images, log_capital, flagged, time
        self["points"] = n + 1
