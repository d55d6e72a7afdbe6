"""A few rows at a time: as many as the device's memory takes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger("ood_guard")


class Batches:
    """Calls a function on at most `size` rows at once, and half as many from then on where memory runs out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """cat of function(*rows of all tensors); tensors (N, ...), N >= 1.

        Raises:
            torch.OutOfMemoryError: a single row is too much.
        """
        done: list[Tensor] = []
        start = 0
        while start < len(tensors[0]):
            rows = [tensor[start : start + self.size] for tensor in tensors]
            made = self._tried(function, rows)
            if made is not None:
                done.append(made)
                start += len(rows[0])
        return torch.cat(done)

    def _tried(self, function: Callable[..., Tensor], rows: list[Tensor]) -> Tensor | None:
        try:
            return function(*rows)
        except torch.OutOfMemoryError:
            if len(rows[0]) == 1:
                raise
        # out of the handler, whose traceback holds what filled the memory
        self.size = len(rows[0]) // 2
        torch.cuda.empty_cache()
        log.info("out of memory: %d images at once from here on", self.size)
        return None
