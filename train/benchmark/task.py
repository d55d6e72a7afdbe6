"""One thing that a plan would make, train or measure, and how much work it is."""

from __future__ import annotations

from dataclasses import dataclass

from .speeds import Speed


@dataclass(frozen=True)
class Task:
    """One thing to do.

    Attributes:
        kind: make, train or measure.
        what: for people. amount: how much of it.
        work: how many units of the speed; None where no time was reported for such work.
        size: bytes that it writes.
        store: the name of the folder of outliers that it fills.
    """

    kind: str
    what: str
    amount: str
    work: float | None
    speed: Speed
    size: float = 0.0
    store: str = ""

    @property
    def hours(self) -> float | None:
        return None if self.work is None else self.work / self.speed.per_second / 3600
