"""What a frozen network makes of images that go through it unchanged in every epoch, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guard.graph.outputs import Outputs

from .loader import Feed
from .progress import progress_bar

if TYPE_CHECKING:
    from ..outliers.base import IDBatch, Outliers, Synthesiser
    from .forward import Forward


class FrozenFeatures:
    """Features and logits where all of the network is frozen, pooled features where its head learns.

    Of in-distribution images always, of outliers where they come from a fixed pool; what is new in every step goes
    through the network. float32, one row per image, in the precision of the stage's other passes.
    """

    def __init__(self, forward: Forward, feed: Feed, batch_size: int, device: torch.device) -> None:
        self.forward, self.feed, self.batch_size, self.device = forward, feed, batch_size, device
        self._inliers: tuple[Tensor, ...] | None = None
        self._pool: tuple[Tensor, ...] | None = None

    def outputs(self, batch: IDBatch, outliers: Outliers, synthesiser: Synthesiser) -> tuple[Outputs, Outputs]:
        """Of the batch, and of the image outliers that `synthesiser` made (K = 0 where there are none)."""
        inliers = self._of_inliers(batch)
        if not len(outliers.data):
            return inliers, Outputs(inliers.features[:0], inliers.logits[:0], None)
        pool = synthesiser.pool()
        if outliers.rows is None or pool is None:
            return inliers, self.forward.outputs(outliers.data)
        if self._pool is None:
            self._pool = self._of_all(Feed(pool), "features of outliers")
        return inliers, self._at(self._pool, outliers.rows)

    def _of_inliers(self, batch: IDBatch) -> Outputs:
        if batch.rows is None:  # changed in this step
            return self.forward.outputs(batch.images)
        if self._inliers is None:
            self._inliers = self._of_all(self.feed, "features")
        return self._at(self._inliers, batch.rows)

    def _at(self, kept: tuple[Tensor, ...], rows: Tensor) -> Outputs:
        if self.forward.stage.trains == "head":
            return self.forward.head_outputs(kept[0][rows])
        features, logits = kept
        return Outputs(features[rows], logits[rows], None)

    def _kept(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.forward.stage.trains == "head":
            return (self.forward.pooled(images)[0].float(),)
        outputs = self.forward.outputs(images)
        return outputs.features.float(), outputs.logits.float()

    def _of_all(self, feed: Feed, title: str) -> tuple[Tensor, ...]:
        parts: list[tuple[Tensor, ...]] = []
        with progress_bar(title, -(-len(feed) // self.batch_size)) as advance:
            for batch in feed.batches(torch.arange(len(feed)), self.batch_size, self.device):
                parts.append(self._kept(batch.images))
                advance()
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
