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
from ..generators.diffusion import Diffusion, DiffusionOptions, beside_model, known_form, make_diffusion
from .base import IDBatch, ImageSynthesiser, Outliers, PrepareContext
from .conditioning.table import Embeddings, EmbeddingTable
from .resize import ResizeOptions, check_via, copies, kernels, resized


def check_size(context: PrepareContext, diffusion: DiffusionOptions, resize: ResizeOptions) -> None:
    """Refuse a way of resizing that is not read, where the size of the decoded images is known by now."""
    form, p = known_form(context, diffusion), context.data.preprocess
    if form is not None:
        check_via(resize.resize_via, form.own_size, (p.height, p.width))


def copies_kept(context: PrepareContext, diffusion: DiffusionOptions, resize: ResizeOptions) -> int:
    """Images that a store keeps of each decoded one: two where it is resized by two kernels."""
    if len(kernels(resize.resize_kernel)) == 1:
        return 1
    form, p = known_form(context, diffusion), context.data.preprocess
    own = make_diffusion(context, diffusion).own_size if form is None else form.own_size
    return copies(own, (p.height, p.width), resize.resize_kernel)


PER_DECODING = 64  # images that are decoded in a draw; how many of them are denoised at once is no matter


class DecodedImageOptions(ResizeOptions):
    """Which diffusion model decodes, and how its images are resized."""

    diffusion: DiffusionOptions = option(DiffusionOptions(), "The diffusion model that decodes.", common=True)


class DecodedEmbeddings(ImageSynthesiser):
    """Subclasses find the embeddings (`find`) and say how (`origin`).

    Their options are `DecodedImageOptions`. Each image is of an embedding of its own draw, classes
    equally often, and of the size of the training images; `parents` are the classes that the embedding was made from.
    """

    prepared: ClassVar[bool] = True
    divides: ClassVar[bool] = True

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

    def check(self, context: PrepareContext) -> None:
        check_size(context, self.options.diffusion, self.options)

    def copies(self, context: PrepareContext) -> int:
        return copies_kept(context, self.options.diffusion, self.options)

    def prepare(self, context: PrepareContext) -> None:
        model = self._model.put(make_diffusion(context, self.options.diffusion))
        classes = torch.arange(self.num_classes, device=context.device)
        with torch.no_grad():
            anchors = model.condition(classes).float()
        found = self.find(beside_model(context, self.options.diffusion), anchors)
        self._table.put(EmbeddingTable(found, self.num_classes))
        self._size = (context.data.preprocess.height, context.data.preprocess.width)
        check_via(self.options.resize_via, model.own_size, self._size)

    def first_rows(self) -> int | None:
        """How many of each class's embeddings to draw from, the first ones; None: all."""
        return None

    def per_class(self) -> int | None:
        """Images to decode for each class, where it is known how many there are to be in all."""
        return None if self.total is None else -(-self.total // self.num_classes)

    @property
    def table(self) -> EmbeddingTable:
        """The embeddings; there after `prepare`."""
        return self._table.get()

    def images(self, drawn: Embeddings, generator: torch.Generator) -> Tensor:
        """uint8 (M, H, W, channels) of M embeddings, of the diffusion model's own size."""
        return self._model.get().sample(drawn.data, drawn.classes, generator)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        drawn = self.table.draw(self.count, generator, self.first_rows())
        images = self.images(drawn, generator)
        kernel = self.options.resize_kernel
        parents = drawn.parents.repeat_interleave(copies(self._model.get().own_size, self._size, kernel), 0)
        made = resized(images, *self._size, kernel, self.options.resize_via)
        return Outliers(made, self.origin(), parents=parents)
