"""A uniform sample of a stream of rows, bounded in memory (Vitter's algorithm R, a batch at a time)."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """Keeps at most `size` rows (None: all), each row of the stream with equal probability; in order while they fit.

    The rows lie in one tensor that doubles when it is full: keeping the batches and joining them in the end would hold
    three times the memory, for the allocator cannot use the gaps between them.
    """

    def __init__(self, size: int | None, seed: int = 0) -> None:
        self.size = size
        self.seen = 0
        self._held = 0
        self._rows: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, rows: Tensor) -> None:
        """Offer rows (n, ...); a copy is kept."""
        room = len(rows) if self.size is None else max(0, self.size - self.seen)
        self._append(rows[:room])
        self._replace(rows[room:], self.seen + min(room, len(rows)))
        self.seen += len(rows)

    def rows(self) -> Tensor:
        """The sample (min(size, seen), ...), where it lies."""
        return torch.zeros(0) if self._rows is None else self._rows[: self._held]

    def _append(self, rows: Tensor) -> None:
        held = self._held + len(rows)
        if self._rows is None or held > len(self._rows):
            capacity = max(held, 2 * self._held)
            grown = rows.new_empty((capacity if self.size is None else min(capacity, self.size), *rows.shape[1:]))
            if self._rows is not None:
                grown[: self._held] = self._rows[: self._held]
            self._rows = grown
        self._rows[self._held : held] = rows
        self._held = held

    def _replace(self, late: Tensor, before: int) -> None:
        """Row i of `late`, with `before` others before them, goes to place U{0 .. before + i} if that exists."""
        positions = torch.arange(before + 1, before + len(late) + 1, dtype=torch.float64)
        places = (torch.rand(len(late), generator=self._generator, dtype=torch.float64) * positions).long()
        latest = {place: i for i, place in enumerate(places.tolist()) if place < self._held}
        if latest:
            where, which = (torch.tensor(list(part), device=late.device) for part in (latest, latest.values()))
            self.rows()[where] = late[which]
