"""Which of four quarter turns an image has: a task beside the classes (RotPred, Hendrycks et al., NeurIPS 2019).

    L = 1/4 mean over upright images of CE(g(h), 0) + 3/4 mean over turned ones of CE(g(h), r),   r quarters turned

g is a linear layer on the features, trained beside the classifier. With all three turns of every image L is the mean
over the four, as published; with fewer, the turns still weigh like the upright images, for otherwise g would learn that
most images are upright.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.graph.turns import TURNS, check_square, turned
from guard.scores import Score
from guard.scores.rotation import Rotation

from ..outliers.base import IDBatch, PrepareContext
from .base import Batch, Regulariser

if TYPE_CHECKING:
    from guard.data import ImageData
    from guard.graph.module import GuardModule

log = logging.getLogger("ood_guard")

TOLD = 0.35  # share of the turns that is told apart, below which nothing was learned; chance is 0.25
EXAMINED = 1000  # images


def turned_copies(batch: IDBatch, ratio: float, generator: torch.Generator) -> IDBatch:
    """ratio * N images of the batch turned by 1 to 3 quarters, with the quarters as labels (and the rows of `batch`).

    Every image's first turn is drawn, its second and third are the two others; the first images of the batch are those
    that are turned once more, for a batch is in no order.
    """
    n, device = len(batch.images), batch.images.device
    count = max(1, round(ratio * n))
    place = torch.arange(count, device=device)
    rows = place % n
    first = torch.randint(TURNS - 1, (n,), generator=generator, device=device)
    quarters = 1 + (first[rows] + place // n) % (TURNS - 1)
    every = torch.stack([turned(batch.images, k, (1, 2)) for k in range(1, TURNS)])
    return IDBatch(every[quarters - 1, rows], quarters, rows)


class RotationLoss(Regulariser):
    """Cross-entropy of the turns of the images, times `weight`; it learns g and ignores outliers.

    Args:
        num_features: D.
        ratio: turned copies per image of a batch, above 0; 3 is every turn of every image.
    """

    reads_labels = False

    def __init__(self, num_features: int, weight: float = 1.0, ratio: float = 3.0) -> None:
        super().__init__()
        self.weight, self.ratio = weight, ratio
        self.layer = nn.Linear(num_features, TURNS)

    def check(self, context: PrepareContext) -> None:
        check_square(context.data.preprocess.height, context.data.preprocess.width)

    def further(self, batch: IDBatch, generator: torch.Generator) -> IDBatch:
        return turned_copies(batch, self.ratio, generator)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.further is not None  # the engine shows what `further` made
        assert batch.further_labels is not None
        upright, others = self._told(batch.inliers.features), self._told(batch.further.features)
        mean = F.cross_entropy(upright, torch.zeros(len(upright), dtype=torch.int64, device=upright.device)) / TURNS
        mean = mean + F.cross_entropy(others, batch.further_labels) * (TURNS - 1) / TURNS
        return {"rotation": self.weight * mean}

    def _told(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features.float())  # may come from a bf16 autocast
        return logits

    @torch.inference_mode()
    def share_told(self, module: GuardModule, images: ImageData) -> float:
        """Share of the four turns of these images that g names, in [0, 1]; chance is a quarter."""
        module.eval()
        right = torch.zeros((), dtype=torch.int64, device=module.scale.device)
        for batch, _ in images.batches(64):
            upright = torch.from_numpy(np.ascontiguousarray(batch)).to(module.scale.device)
            for k in range(TURNS):
                outputs = module.classifier(module.normalise(turned(upright, k, (1, 2))))
                right += (self._told(outputs.features).argmax(-1) == k).sum()
        return float(right) / (TURNS * len(images))

    def examine(self, module: GuardModule, held_out: ImageData) -> None:
        rows = np.unique(np.linspace(0, len(held_out) - 1, min(len(held_out), EXAMINED)).astype(np.int64))
        images = held_out.subset(rows)
        told = self.share_told(module, images)
        if told < TOLD:
            log.warning(
                "only %.1f %% of the four turns of %d held-out images are told apart, where chance is 25 %%: these "
                "images have no up that the network learned, so score 'rotation' cannot work on this data; use another "
                "score, such as 'energy', or method='plain'",
                100 * told,
                len(images),
            )
        else:
            log.info("turns told apart: %.1f %% of the four of %d held-out images", 100 * told, len(images))

    def hand_over(self, score: Score) -> None:
        if isinstance(score, Rotation):
            score.set_layer(self.layer.weight, self.layer.bias)
