"""Images that a diffusion model decodes from embeddings of its conditioning space, which are found first.

What Dream-OOD, Dream-ID, BOOD and FodFoM share; they differ in how embeddings are found
(`train.outliers.conditioning`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from guard.record import option

from ..cache.held import Held
from ..generators.diffusion import Diffusion, DiffusionOptions, beside_model, make_diffusion
from .base import IDBatch, ImageSynthesiser, Outliers, PrepareContext
from .conditioning.table import Embeddings, EmbeddingTable
from .resize import ResizeOptions, copies, resized


class DecodedImageOptions(ResizeOptions):
    """Which diffusion model decodes, and how its images are resized."""

    diffusion: DiffusionOptions = option(DiffusionOptions(), "The diffusion model that decodes.", common=True)


class DecodedEmbeddings(ImageSynthesiser):
    """Subclasses find the embeddings (`find`) and say how (`origin`).

    Their options are `DecodedImageOptions`. Each image is of an embedding of its own draw, classes
    equally often, and of the size of the training images; `parents` are the classes that the embedding was made from.
    """

    prepared: ClassVar[bool] = True

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._model: Held[Diffusion] = Held(f"synthesiser {self.name!r} has no diffusion model yet; call prepare first")
        self._table: Held[EmbeddingTable] = Held(
            f"synthesiser {self.name!r} has no embeddings to decode yet; call prepare before sample"
        )
        self._size = (0, 0)

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        """The embeddings to decode, given the anchors T (C, E); kept in the context's folder where they take long."""
        raise NotImplementedError(f"{type(self).__name__} must define find")

    def origin(self) -> str:
        """How its images are made, for people."""
        raise NotImplementedError(f"{type(self).__name__} must define origin")

    def prepare(self, context: PrepareContext) -> None:
        model = self._model.put(make_diffusion(context, self.options.diffusion))
        classes = torch.arange(self.num_classes, device=context.device)
        with torch.no_grad():
            anchors = model.condition(classes).float()
        found = self.find(beside_model(context, self.options.diffusion), anchors)
        self._table.put(EmbeddingTable(found, self.num_classes))
        self._size = (context.data.preprocess.height, context.data.preprocess.width)

    @property
    def table(self) -> EmbeddingTable:
        """The embeddings; there after `prepare`."""
        return self._table.get()

    def images(self, drawn: Embeddings, generator: torch.Generator) -> Tensor:
        """uint8 (M, H, W, channels) of M embeddings, of the diffusion model's own size."""
        return self._model.get().sample(drawn.data, drawn.classes, generator)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        drawn = self.table.draw(self.count, generator)
        images = self.images(drawn, generator)
        kernel = self.options.resize
        parents = drawn.parents.repeat_interleave(copies(self._model.get().own_size, self._size, kernel), 0)
        return Outliers(resized(images, *self._size, kernel), self.origin(), parents=parents)
