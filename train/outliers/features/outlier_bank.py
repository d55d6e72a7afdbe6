"""Feature-space outliers that were made once, each for a class, and drawn from in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.errors import ConfigError


class OutlierBank:
    """M outliers (M, W), each with the class it was made for.

    No module, so that no checkpoint holds what has files of its own.

    Args:
        vectors: (M, W).
        classes: int64 (M,), each of 0 .. num_classes - 1 at least once.

    Raises:
        ConfigError: a class has no outlier.
    """

    def __init__(self, vectors: Tensor, classes: Tensor, num_classes: int) -> None:
        order = classes.argsort(stable=True)
        self.vectors, self.classes = vectors[order], classes[order]
        self.counts = self.classes.bincount(minlength=num_classes)
        self.starts = self.counts.cumsum(0) - self.counts
        if (self.counts == 0).any():
            empty = (self.counts == 0).nonzero()[:, 0].tolist()
            raise ConfigError(f"every class needs an outlier of its own, {empty[:5]} of {num_classes} have none")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """W."""
        return self.vectors.shape[1]

    def to(self, device: torch.device) -> OutlierBank:
        """The same on `device`."""
        return OutlierBank(self.vectors.to(device), self.classes.to(device), len(self.counts))

    def draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """An outlier (N, W) for each label (N,): any of those made for the label's class."""
        drawn = torch.rand(len(labels), generator=generator, device=labels.device, dtype=torch.float64)
        return self.vectors[self.starts[labels] + (drawn * self.counts[labels]).long()]
