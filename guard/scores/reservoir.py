"""A uniform sample of a stream of rows, bounded in memory (Vitter's algorithm R, a batch at a time)."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """Keeps at most `size` rows (None: all), each row of the stream with equal probability; in order while they fit."""

    def __init__(self, size: int | None, seed: int = 0) -> None:
        self.size = size
        self.seen = 0
        self._parts: list[Tensor] = []
        self._rows: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, rows: Tensor) -> None:
        """Offer rows (n, ...); a copy is kept."""
        room = len(rows) if self.size is None else max(0, self.size - self.seen)
        if room:
            self._parts.append(rows[:room].clone())
        late = rows[room:]
        if len(late):
            self._replace(late, self.seen + min(room, len(rows)))
        self.seen += len(rows)

    def _replace(self, late: Tensor, before: int) -> None:
        """Row i of `late`, with `before` others before them, goes to place U{0 .. before + i} if that exists."""
        positions = torch.arange(before + 1, before + len(late) + 1, dtype=torch.float64)
        places = (torch.rand(len(late), generator=self._generator, dtype=torch.float64) * positions).long()
        latest = {place: i for i, place in enumerate(places.tolist()) if place < self.size}
        if latest:
            where, which = (torch.tensor(list(part), device=late.device) for part in (latest, latest.values()))
            self.rows()[where] = late[which]

    def rows(self) -> Tensor:
        """The sample (min(size, seen), ...)."""
        if self._parts:
            self._rows = torch.cat(([] if self._rows is None else [self._rows]) + self._parts)
            self._parts = []
        if self._rows is None:
            return torch.zeros(0)
        return self._rows
