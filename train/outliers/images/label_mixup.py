"""Images between two classes: decoded by a diffusion model that is told of both at once (label-mixup, methods.md A2).

    e = onehot(a) T + onehot(b) T,  a != b;    x~ = the diffusion model's image of e       T (C, E) the class embeddings

The sum is the paper's (entries [1, 1]); ``normalise="mean"`` halves it, ``alpha`` weighs the two. Pairs of classes come
equally often within what is drawn at once. On one's own model e is added to the embedding of the time, as the paper
conditions its DDPM.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from guard.errors import ConfigError

from ...generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..resize import ResizeOptions, copies, resized


def spread_pairs(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Pairs (count, 2) of different classes in either order, each of the C (C - 1) / 2 as often as any other, or once
    more; int64, C >= 2."""
    device = generator.device
    pairs = torch.triu_indices(num_classes, num_classes, 1, device=device).T
    orders = [torch.randperm(len(pairs), generator=generator, device=device) for _ in range(-(-count // len(pairs)))]
    drawn = pairs[torch.cat(orders)[:count]]
    turned = torch.rand(count, 1, generator=generator, device=device) < 0.5
    return torch.where(turned, drawn.flip(-1), drawn)


def pair_weights(pairs: Tensor, num_classes: int, alpha: float | None, normalise: str) -> Tensor:
    """Weights (K, C) of classes for pairs (K, 2): 1 and 1, or alpha and 1 - alpha; of sum 1 for "mean"."""
    one_hot = torch.nn.functional.one_hot(pairs, num_classes).float()
    weights = one_hot.sum(1) if alpha is None else alpha * one_hot[:, 0] + (1 - alpha) * one_hot[:, 1]
    return weights / weights.sum(-1, keepdim=True) if normalise == "mean" else weights


@register_synthesiser
class LabelMixup(ImageSynthesiser):
    """Decoded from the sum of two classes' embeddings by a diffusion model (label-mixup)."""

    name: ClassVar[str] = "label_mixup"
    source: ClassVar[str] = "Assefa Seyoum Wahd, 2024"
    prepared: ClassVar[bool] = True

    class Options(DiffusionOptions, ResizeOptions):
        """Options of the diffusion model and of resizing.

        Attributes:
            conditioning: as in `DiffusionOptions`; here "label" unless said otherwise.
            normalise: "none" takes the sum of both embeddings, "mean" their mean. Stable Diffusion knows no tokens of
                twice the length: "mean" suits it.
            alpha: weight of the first class beside 1 - alpha of the second; None: 1 and 1.
        """

        conditioning: Literal["token", "label"] = "label"
        normalise: Literal["none", "mean"] = "none"
        alpha: float | None = Field(default=None, gt=0, lt=1)

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._model: list[Diffusion] = []  # in a list: no sub-module, its weights have a file of their own
        self._size = (0, 0)

    def prepare(self, context: PrepareContext) -> None:
        self._model = [make_diffusion(context, self.options)]
        self._size = (context.data.preprocess.height, context.data.preprocess.width)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        if not self._model:
            raise ConfigError("synthesiser 'label_mixup' has no diffusion model yet; call prepare before sample")
        model, o = self._model[0], self.options
        parents = spread_pairs(self.count, self.num_classes, generator)
        e = model.condition(pair_weights(parents, self.num_classes, o.alpha, o.normalise))
        images = model.sample(e, parents[:, 0], generator)
        parents = parents.repeat_interleave(copies(model.own_size, self._size, o.resize), 0)
        return Outliers(resized(images, *self._size, o.resize), "decoded from two classes at once", parents=parents)
