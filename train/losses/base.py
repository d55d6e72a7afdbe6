"""What the loss does with outliers: the batch that a regulariser sees, and its terms.

Letters: N in-distribution images in a batch, K outliers, C classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from guard.heads import Head

from ..outliers.base import IDBatch, Learner, PrepareContext

if TYPE_CHECKING:
    from guard.data import ImageData
    from guard.graph.module import GuardModule
    from guard.scores import Score


@dataclass(frozen=True, slots=True)
class Batch:
    """What a regulariser sees: the outputs of N in-distribution images with labels (N,), and of K outliers.

    Feature-space outliers have logits from the classifier's last layer and no map. `outlier_labels` are
    `Outliers.labels`; `head` gives the logits of an extra class (`Head.all_logits`). `images` are the uint8
    in-distribution images as the network saw them, augmented, for a network beside it; all that a loss draws comes
    from `generator`. `rows` (N,) are theirs in the training data. `ready` is `Outliers.ready`: where False,
    nothing counts and nothing is to be learned of the outliers. `further` are the outputs of the regulariser's own
    images (`Regulariser.further`), with their labels.
    """

    inliers: Outputs
    labels: Tensor
    outliers: Outputs
    outlier_labels: Tensor | None = None
    head: Head | None = None
    images: Tensor | None = None
    generator: torch.Generator | None = None
    further: Outputs | None = None
    further_labels: Tensor | None = None
    rows: Tensor | None = None
    ready: Tensor | None = None


class Regulariser(Learner):
    """Loss terms that teach the difference; learned parts are parameters, trained with the classifier's optimizer.

    Attributes:
        start_epoch: the first epoch of the stage in which it acts; not before the stage's own.
        lr_factor: of its parameters, as a factor of the stage's learning rate.
        reads_map: whether its loss reads `Outputs.feature_map`.
        reads_labels: whether its loss may read what `Batch.labels` are: it cannot go with labels that are mixed.
    """

    start_epoch: int = 0
    lr_factor: float = 1.0
    reads_map: bool = False
    reads_labels: bool = True

    def prepare(self, context: PrepareContext) -> None:
        """As `Synthesiser.prepare`: called when its stage begins or is resumed (margins from quantiles, say).

        Learned parts whose size is known only now may be made here, on the context's device.
        """

    def further(self, batch: IDBatch, generator: torch.Generator) -> IDBatch | None:
        """Images of its own that go through the network in one pass with the batch and its outliers, with labels of any
        meaning; None: none. Not augmented any more.

        Args:
            batch: the in-distribution images as the network sees them, augmented.
        """
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> weighted scalar term, to be added to the cross-entropy."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def examine(self, module: GuardModule, held_out: ImageData) -> None:
        """Called once after training, with in-distribution images that nothing was trained on: warn where what was
        learned cannot work."""

    def hand_over(self, score: Score) -> None:
        """Put what was learned into the score of the finished guard, where the score carries it."""

    def takes_over(self, score: Score) -> Score:
        """The score that the finished guard gets in place of `score`; another where what was learned turns it round.

        Raises:
            ConfigError: it is turned round, and no other can stand for it.
        """
        return score
