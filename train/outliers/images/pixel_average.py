"""Means of k images of different classes (MIM, Choi & Na 2024), from the current batch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser


def pick_different_classes(
    labels: Tensor, num_classes: int, count: int, k: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices (count, k) into the batch, each row of different classes, and which of them count (count, k) bool.

    Every row gives each item a random key; the item with the largest key of its class stands for the class, and the k
    largest of these are taken. Where the batch has fewer than k classes the surplus entries are masked; where it has
    only one, they are other images of it: alone, an image would be an outlier that is in-distribution.
    """
    n = len(labels)
    # float64: in float32 two items of a class draw the same largest key once in a few thousand steps
    keys = torch.rand(count, n, generator=generator, device=labels.device, dtype=torch.float64)
    by_class = labels.expand(count, n)
    best = keys.new_full((count, num_classes), -1.0).scatter_reduce(1, by_class, keys, "amax")
    keys = torch.where(keys == best.gather(1, by_class), keys, keys - 2)  # below all that stand for a class
    top = keys.topk(min(k, n), dim=-1)
    stands = top.values >= 0
    return top.indices, stands | (stands.sum(-1, keepdim=True) == 1)


@register_synthesiser
class PixelAverage(ImageSynthesiser):
    """x~ = (1/k) sum_j x_j with the x_j of different classes (MIM); uint8, rounded."""

    name: ClassVar[str] = "pixel_average"
    source: ClassVar[str] = "MIM, Choi & Na 2024"

    class Options(Record):
        k: int = option(
            10,
            "Images per average, each of a class of its own; where there are fewer, all classes once.",
            common=True,
            ge=2,
        )

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        k = self.options.k
        index, valid = pick_different_classes(batch.labels, self.num_classes, self.count, k, generator)
        mixed = torch.zeros(self.count, *batch.images.shape[1:], device=batch.images.device)
        for j in range(index.shape[1]):  # k small gathers instead of one of k times the memory
            mixed += batch.images[index[:, j]] * valid[:, j].view(-1, 1, 1, 1)
        mixed /= valid.sum(-1).view(-1, 1, 1, 1)  # sums of integers are exact, so only the mean is rounded
        parents = torch.where(valid, batch.labels[index], -1)
        return Outliers(mixed.round_().to(torch.uint8), f"mean of {k} images of different classes", parents=parents)
