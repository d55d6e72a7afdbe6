"""Feature-space outliers that were made once, each for a class, and drawn from in every step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guard.errors import ConfigError

Pairing = Literal["class", "random"]


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

    def rows(self, labels: Tensor, pairing: Pairing, generator: torch.Generator | None) -> Tensor:
        """Rows (N,) of an outlier for each label (N,).

        "class": any of those made for the label's class. "random": any at all, whatever the label; without replacement
        as long as there are enough.
        """
        n, device = len(labels), labels.device
        if pairing == "random" and n <= len(self):
            return torch.randperm(len(self), generator=generator, device=device)[:n]
        drawn = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        if pairing == "random":
            return (drawn * len(self)).long()
        return self.starts[labels] + (drawn * self.counts[labels]).long()

    def draw(self, labels: Tensor, pairing: Pairing, generator: torch.Generator | None) -> Tensor:
        """The outliers (N, W) of `rows`."""
        return self.vectors[self.rows(labels, pairing, generator)]
