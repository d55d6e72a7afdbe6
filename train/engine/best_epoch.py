"""The epoch whose network is most often right on images that it does not learn from. OOD images have no say."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from guard.data import ImageData
from guard.graph.outputs import Classifier

from ..outliers.base import IDBatch
from .forward import Forward
from .loader import Feed
from .modes import evaluating

BATCH = 256  # images


class BestEpoch(nn.Module):
    """A copy of the network at its best epoch so far, the later one of equals; part of every checkpoint.

    Args:
        images: labelled, of the training split, and left out of training.
    """

    accuracy: Tensor

    def __init__(self, network: nn.Module, images: ImageData, device: torch.device) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("accuracy", torch.full((), -1.0, dtype=torch.float64))
        self._feed, self._device = Feed(images), device
        self._pooled: list[tuple[Tensor, Tensor]] = []  # by a frozen backbone, computed once, and the labels

    def consider(self, network: nn.Module, forward: Forward) -> float:
        """Keep `network` where it is at least as often right as the best one; its accuracy in [0, 1]."""
        accuracy = self._accuracy(network, forward)
        if accuracy >= float(self.accuracy):
            self.accuracy.fill_(accuracy)
            self.network.load_state_dict(network.state_dict())
        return accuracy

    @torch.no_grad()
    def _accuracy(self, network: nn.Module, forward: Forward) -> float:
        right = torch.zeros((), dtype=torch.int64, device=self._device)
        with evaluating(network):
            for logits, labels in self._logits(network, forward):
                right += (logits.argmax(-1) == labels).sum()
        return int(right) / len(self._feed)

    def _logits(self, network: nn.Module, forward: Forward) -> Iterator[tuple[Tensor, Tensor]]:
        if forward.stage.trains != "head":
            yield from ((forward.logits(network, batch.images), batch.labels) for batch in self._batches())
            return
        assert isinstance(network, Classifier)  # guard.train builds no other
        if not self._pooled:
            self._pooled = [(forward.pooled(batch.images)[0], batch.labels) for batch in self._batches()]
        for pooled, labels in self._pooled:
            yield forward.head_logits(network, pooled), labels

    def _batches(self) -> Iterator[IDBatch]:
        """One after the other: of a data set that is not resident no more than that is on the device."""
        return self._feed.batches(torch.arange(len(self._feed)), BATCH, self._device)
