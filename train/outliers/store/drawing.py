"""Drawing outliers from images that are there, in a new order every epoch: the user's own, or a store's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from ...cache.held import Held
from ...engine.loader import Feed
from .. import matching
from ..audit.diversity import warn_of_collapse
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, Synthesiser
from .fill import MOST_BY_DEFAULT, fill

if TYPE_CHECKING:
    from guard.data import ImageData


class Given(Synthesiser):
    """`count` images per step, each once before any comes again; uint8 (K, H, W, channels)."""

    space: ClassVar = "image"

    def __init__(self, data: ImageData, count: int) -> None:
        super().__init__()
        self.feed = Feed(data)
        self.count = count
        self._batches: Iterator[IDBatch] = iter(())

    def pool(self) -> ImageData:
        return self.feed.data

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        needed, orders = steps * self.count, []
        while needed > 0:
            order = torch.randperm(len(self.feed), generator=generator, device=generator.device)[:needed]
            orders.append(order)
            needed -= len(order)
        self._batches = self.feed.batches(torch.cat(orders), self.count, generator.device)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        drawn = next(self._batches)
        return Outliers(drawn.images, "given", rows=drawn.rows)


class Stored(Synthesiser):
    """Draws from a store that it fills when its stage begins: ``out/outliers/<name>`` in a training run.

    For synthesisers whose images take long (a generator), and for any whose images should be fixed, so that the
    features of a frozen network are computed once.

    Args:
        synthesiser: what makes the images; its own `count` is what it makes per draw, not what a step takes.
        count_per_step: K, the outliers of one training step.
        total: images to generate; default as many as there are training images, at most 50,000. The store holds as many
            of each as `ImageSynthesiser.copies` says.
        match: as in `fill`.
        name: of the folder; default the synthesiser's.
    """

    space: ClassVar = "image"

    def __init__(
        self,
        synthesiser: ImageSynthesiser,
        count_per_step: int,
        total: int | None = None,
        match: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.count, self.total, self.match = count_per_step, total, matching.checked(match)
        self.name = name or synthesiser.name
        self._synthesiser: Held[ImageSynthesiser] = Held(f"the store of {self.name!r} has no synthesiser")
        self._synthesiser.put(synthesiser)
        self._source: Held[Synthesiser] = Held(
            f"the store of {self.name!r} is not filled yet; call prepare(context) first"
        )

    @property
    def synthesiser(self) -> ImageSynthesiser:
        """What makes the images."""
        return self._synthesiser.get()

    def check(self, context: PrepareContext) -> None:
        self.synthesiser.check(replace(context, folder=context.folder / self.name))

    def prepare(self, context: PrepareContext) -> None:
        generated = self.total or min(MOST_BY_DEFAULT, len(context.data))
        total = generated * self.synthesiser.copies(replace(context, folder=context.folder / self.name))
        resumed = context.resumed  # the store is of the network that its stage began with
        store = fill(
            context.folder / self.name, self.synthesiser, context, total, match=self.match, any_classifier=resumed
        )
        self.synthesiser.release()  # what it decodes with is not needed while the classifier learns
        self.synthesiser.to("cpu")
        images = store.images(context.data.preprocess)
        warn_of_collapse(images, context.data, f"synthesiser {self.name!r}")
        self._source.put(Given(images, self.count))

    def pool(self) -> ImageData | None:
        return self._source.get().pool()

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self._source.get().start_epoch(steps, generator)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return self._source.get().sample(batch, generator)._replace(origin=self.name)
