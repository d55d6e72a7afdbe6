"""Decoded in-distribution images in place of some of the in-distribution images that a classifier sees.

A classifier that is shown images of one diffusion model as outliers, and photographs as in-distribution images, can
learn "generated" in place of "of no class": what the model makes of a class's own embedding T(y) is then out of
distribution too. With images of T(y) among the in-distribution ones, what generation leaves in an image teaches
nothing.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..cache.held import Held
from ..engine.loader import Feed
from .base import IDBatch, Inliers, PrepareContext
from .conditioning.table import Embeddings
from .decoded import PER_DECODING, DecodedEmbeddings, DecodedImageOptions
from .store.fill import MOST_BY_DEFAULT
from .store.labelled import LabelledStore

NAME = "decoded_inliers"


class DecodedAnchors(DecodedEmbeddings):
    """What the diffusion model makes of each class's own embedding T(y): in-distribution images, so no name for
    ``outliers=`` is registered."""

    name: ClassVar[str] = NAME
    in_distribution: ClassVar[bool] = True
    Options: ClassVar = DecodedImageOptions

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        classes = torch.arange(len(anchors), device=anchors.device)
        return Embeddings(anchors, classes, classes[:, None])

    def origin(self) -> str:
        return "decoded from the class's own embedding"


class DecodedInliers(Inliers):
    """Shows a decoded image of the same class in place of each in-distribution image, with probability `share`.

    They are in a store of their own, `decoded_inliers` beside that of the outliers, whose diffusion model makes them.

    Args:
        share: of the in-distribution images, above 0.
        beside: name of the outliers' store.
        total: images there; default as many as there are training images, at most 50,000. `share` of them are made.
        match: as in the outliers' store.
        options: of `DecodedImageOptions`.
    """

    counts: Tensor
    starts: Tensor
    order: Tensor

    def __init__(
        self, share: float, beside: str, total: int | None, match: tuple[str, ...], options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.share, self.beside, self.total, self.match, self.options = share, beside, total, match, options
        self._feed: Held[Feed] = Held("no in-distribution images are decoded yet; call prepare(context) first")

    def prepare(self, context: PrepareContext) -> None:
        diffusion = self.options["diffusion"]
        kept = str(diffusion.kept_in(context.folder / self.beside))  # one model for both stores
        classes = len(context.data.class_names)
        total = max(classes, math.ceil(self.share * (self.total or min(MOST_BY_DEFAULT, len(context.data)))))
        if diffusion.is_ours:
            diffusion = diffusion.model_copy(update={"folder": kept})
        options = {**self.options, "diffusion": diffusion}
        synthesiser = DecodedAnchors(min(total, PER_DECODING), classes, **options)
        store = LabelledStore(synthesiser, 1, total, self.match)
        store.prepare(context)
        pool = store.pool()
        assert pool is not None  # a store has one
        self._feed.put(Feed(pool))
        self.order = store.labels.argsort(stable=True)
        self.counts = store.labels.bincount(minlength=classes)
        self.starts = self.counts.cumsum(0) - self.counts

    def shown(self, batch: IDBatch, generator: torch.Generator) -> IDBatch:
        labels, device = batch.labels, batch.labels.device
        drawn = torch.rand(2, len(labels), generator=generator, device=device, dtype=torch.float64)
        there = self.counts[labels]
        rows = self.order[(self.starts[labels] + (drawn[0] * there).long()).clamp_max(len(self.order) - 1)]
        (made,) = self._feed.get().batches(rows, len(rows), device)
        taken = (drawn[1] < self.share) & (there > 0)  # of a class that none was drawn of, its own are shown
        return batch._replace(images=torch.where(taken.view(-1, 1, 1, 1), made.images, batch.images), rows=None)
