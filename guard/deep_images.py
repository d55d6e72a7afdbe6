"""Grey images of 16 and 32 bits whose values use fewer: they become dark or black, and that is said once.

65535 is white (`guard.preprocess`). Cameras, microscopes and scanners write 8, 10, 12 or 14 bits into such files, and
some libraries save 8-bit pixels so. A single dark image is possible; a whole data set that stays below a quarter of the
range is another scale.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

log = logging.getLogger("ood_guard")

FEW_BITS = 14  # the largest value is below 2^14: a quarter of the range at most

_said: set[str] = set()


class Deep:
    """What was seen of grey images of more than 8 bits: how many, and their largest value."""

    def __init__(self) -> None:
        self.images, self.largest = 0, 0.0

    def saw(self, largest: float) -> None:
        """One more image, with its largest value."""
        self.images += 1
        self.largest = max(self.largest, largest)

    @property
    def bits(self) -> int:
        """Of the largest value."""
        return int(self.largest).bit_length()

    @property
    def too_dark(self) -> bool:
        """Whether these can hardly be 16-bit values."""
        return self.images > 0 and self.bits <= FEW_BITS

    def warn(self, name: str, looked_at: int, *, once: bool = False) -> None:
        """Log it, where they are too dark; `once` for that name in this process."""
        if self.too_dark and not (once and name in _said):
            _said.add(name)
            log.warning(
                "%s: %d of %d images looked at have 16 or 32 bits and a largest value of %d, where 65535 is white: "
                "they become %s; multiply them by %g, or save %d-bit values as 8-bit images",
                name,
                self.images,
                looked_at,
                self.largest,
                "black" if self.bits <= 8 else "nearly black" if self.bits <= 12 else "dark",
                round(65535 / (2 ** max(self.bits, 1) - 1), 2),
                self.bits,
            )


_watching: ContextVar[Deep | None] = ContextVar("_watching", default=None)


@contextlib.contextmanager
def watched() -> Iterator[Deep]:
    """What `guard.preprocess` meets in this block, in this thread."""
    deep = Deep()
    token = _watching.set(deep)
    try:
        yield deep
    finally:
        _watching.reset(token)


def saw(largest: float) -> None:
    """Called for every grey image of more than 8 bits."""
    if (deep := _watching.get()) is not None:
        deep.saw(largest)
