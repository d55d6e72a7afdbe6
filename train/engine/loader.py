"""Images from a data set to the training device: once where they fit, else batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..outliers.base import IDBatch
from .distributed import Processes, processes
from .divided import bounds, gathered

if TYPE_CHECKING:
    from guard.data import ImageData

_GPU_SHARE = 0.4  # of the free memory that a data set may take


class Source(Protocol):
    """What is learned from, as a `Feed` is: a number of items, and batches of them in any order."""

    def __len__(self) -> int: ...

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[IDBatch]:
        """Batches of the items that `order` (n,) names, on `device`."""
        ...


class Feed:
    """Batches of an `ImageData` as tensors, in the order asked for."""

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self._resident: tuple[Tensor, Tensor] | None = None
        self._fits: dict[torch.device, bool] = {}

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[IDBatch]:
        """uint8 (b, H, W, channels), labels (b,) and rows (b,) on `device`; the last batch may be smaller.

        Of images that are read batch by batch several processes read their rows each, and all get all of them.
        """
        resident = self._on_device(device)
        if resident is not None:
            images, labels = resident
            order = order.to(device)
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                yield IDBatch(images[rows], labels[rows], rows)
            return
        us = processes()
        if us.world > 1:
            yield from self._read_together(order, batch_size, device, us)
            return
        ahead = self.data.batches(batch_size, order=order.cpu().numpy())
        for rows, (images_np, labels_np) in zip(order.split(batch_size), ahead, strict=True):
            images = torch.from_numpy(np.ascontiguousarray(images_np))
            labels = torch.zeros(len(images), dtype=torch.int64) if labels_np is None else torch.from_numpy(labels_np)
            if device.type == "cuda":
                images, labels = images.pin_memory(), labels.pin_memory()
            yield IDBatch(*(t.to(device, non_blocking=True) for t in (images, labels, rows)))

    def _read_together(self, order: Tensor, batch_size: int, device: torch.device, us: Processes) -> Iterator[IDBatch]:
        mine = [rows[bounds(len(rows), us)] for rows in order.cpu().split(batch_size)]
        ahead = self.data.batches(max(1, len(mine[0])), order=torch.cat(mine).numpy())
        p, labels = self.data.preprocess, self._labels().to(device)
        for rows, own in zip(order.to(device).split(batch_size), mine, strict=True):
            read = next(ahead)[0] if len(own) else np.empty((0, p.height, p.width, p.channels), np.uint8)
            images = torch.from_numpy(np.ascontiguousarray(read)).to(device)
            yield IDBatch(gathered(images, len(rows), us), labels[rows], rows)

    def _labels(self) -> Tensor:
        labels = np.zeros(len(self.data), np.int64) if self.data.labels is None else self.data.labels
        return torch.from_numpy(np.array(labels))

    def _on_device(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if self._resident is not None and self._resident[0].device == device:
            return self._resident
        array = self.data.array
        if array is None or isinstance(array, np.memmap):
            return None
        if device not in self._fits:  # once, and for all processes alike: what is not resident is read together
            room = device.type != "cuda" or array.nbytes <= _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
            self._fits[device] = processes().all_say(room)
        if not self._fits[device]:
            return None
        array = array if array.flags.writeable else array.copy()  # torch wants memory it may write to
        self._resident = torch.from_numpy(array).to(device), self._labels().to(device)
        return self._resident
