"""A uniform sample of a stream of rows, bounded in memory (Vitter's algorithm R, a batch at a time)."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """Keeps at most `size` rows, each row of the stream with equal probability; all rows in order while they fit."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seen = 0
        self._parts: list[Tensor] = []
        self._rows: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, rows: Tensor) -> None:
        """Offer rows (n, ...); a copy is kept."""
        room = max(0, self.size - self.seen)
        if room:
            self._parts.append(rows[:room].clone())
        late = rows[room:]
        if len(late):
            kept = self.rows()
            first = self.seen + min(room, len(rows))
            positions = torch.arange(first + 1, first + len(late) + 1, dtype=torch.float64)
            slot = (torch.rand(len(late), generator=self._generator, dtype=torch.float64) * positions).long()
            for row, at in zip(late[slot < self.size], slot[slot < self.size].tolist(), strict=True):
                kept[at] = row
        self.seen += len(rows)

    def rows(self) -> Tensor:
        """The sample (min(size, seen), ...)."""
        if self._parts:
            self._rows = torch.cat(([] if self._rows is None else [self._rows]) + self._parts)
            self._parts = []
        if self._rows is None:
            return torch.zeros(0)
        return self._rows
