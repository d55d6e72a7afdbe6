"""Label-mixup outlier exposure. Source: Assefa Seyoum Wahd, "Deep Metric Learning-Based Out-of-Distribution Detection
with Synthetic Outlier Exposure", 2024.

    e  = onehot(a) T + onehot(b) T,  a != b;   x~ = a diffusion model's image of e      T (C, E) the class embeddings
    L  = L_head(f(x), y) + weight * mean over x~ of [ logsumexp(f(x~)) - mean_c f_c(x~) ]
    score: max softmax with head "linear", max cosine with the angular ones (cosine, adacos, arcface, cosface,
    sphereface), whose outliers have no margin

The sum is the paper's (entries [1, 1]); ``normalise="mean"`` halves it, ``normalise="length"``
brings it to the mean length of the anchors, ``mix_alpha`` weighs the two. Pairs of classes
come equally often within what is drawn at once. In the built-in diffusion model e is added to the embedding of the
time, as the paper conditions its DDPM.

The paper gives no hyperparameters: weight is outlier exposure's, and there is one outlier per in-distribution image.
``outliers=`` names images, or a store made before, in place of those.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from guard.heads import unit
from guard.record import option

from ..cache.held import Held
from ..generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from ..generators.diffusion.base import STABLE
from ..losses.uniform_target import Divergence, UniformTargetLoss
from ..outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, Synthesiser, register_synthesiser
from ..outliers.decoded import check_size, copies_kept
from ..outliers.resize import ResizeOptions, check_via, copies, resized
from .base import Method, MethodContext, Stage, register
from .decoded import InlierOptions, shown_inliers
from .from_store import filled_store, given_or

ANGULAR = "cosine", "adacos", "arcface", "cosface", "sphereface"


class LabelDiffusion(DiffusionOptions):
    """As `DiffusionOptions`, with the classes as the paper gives them to its DDPM."""

    conditioning: Literal["token", "label"] = option(
        "label",
        "'token' gives the classes to cross-attention (UNet2DConditionModel), 'label' adds them to the time embedding "
        "(UNet2DModel).",
        unread_if=STABLE,
    )


class LabelMixupImageOptions(ResizeOptions):
    """Options of the images."""

    diffusion: LabelDiffusion = option(LabelDiffusion(), "The diffusion model that decodes.", common=True)
    normalise: Literal["none", "mean", "length"] = option(
        "none",
        "'none' takes the sum of both embeddings, 'mean' their mean, 'length' the sum at the mean length of the "
        "classes' embeddings, which suits Stable Diffusion.",
    )
    mix_alpha: float | None = option(
        None, "Weight of the first class beside 1 - mix_alpha of the second, 0 to 1; default 1 and 1.", gt=0, lt=1
    )


class LabelMixupOptions(InlierOptions, LabelMixupImageOptions):
    """Options of the images and of their use."""

    weight: float = option(0.5, "Weight of the loss on the outliers.", ge=0, common=True)
    divergence: Divergence = option(
        "u_p", "Of the outliers' probabilities p from uniform ones U: KL(U || p) ('u_p'), or KL(p || U) ('p_u')."
    )


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


def at_usual_length(e: Tensor, anchors: Tensor) -> Tensor:
    """e (K, E) at the mean length of the anchors (C, E)."""
    usual = torch.linalg.vector_norm(anchors, dim=-1).mean()
    scaled: Tensor = usual * unit(e)
    return scaled


@register_synthesiser
class LabelMixupImages(ImageSynthesiser):
    """Decoded from the sum of two classes' embeddings by a diffusion model (label-mixup)."""

    name: ClassVar[str] = "label_mixup"
    source: ClassVar[str] = "Assefa Seyoum Wahd, 2024"
    prepared: ClassVar[bool] = True
    divides: ClassVar[bool] = True
    Options: ClassVar = LabelMixupImageOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._model: Held[Diffusion] = Held(
            "synthesiser 'label_mixup' has no diffusion model yet; call prepare before sample"
        )
        self._size = (0, 0)

    def check(self, context: PrepareContext) -> None:
        check_size(context, self.options.diffusion, self.options)

    def copies(self, context: PrepareContext) -> int:
        return copies_kept(context, self.options.diffusion, self.options)

    def prepare(self, context: PrepareContext) -> None:
        model = self._model.put(make_diffusion(context, self.options.diffusion))
        self._size = (context.data.preprocess.height, context.data.preprocess.width)
        check_via(self.options.resize_via, model.own_size, self._size)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        model, o = self._model.get(), self.options
        parents = spread_pairs(self.count, self.num_classes, generator)
        e = model.condition(pair_weights(parents, self.num_classes, o.mix_alpha, o.normalise))
        if o.normalise == "length":
            e = at_usual_length(e, model.condition(torch.arange(self.num_classes, device=e.device)))
        images = model.sample(e, parents[:, 0], generator)
        parents = parents.repeat_interleave(copies(model.own_size, self._size, o.resize_kernel), 0)
        images = resized(images, *self._size, o.resize_kernel, o.resize_via)
        return Outliers(images, "decoded from two classes at once", parents=parents)


@register
class LabelMixup(Method):
    """Uniform targets on images that a diffusion model decodes from two classes at once (Wahd 2024)."""

    name = "label_mixup"
    Options = LabelMixupOptions
    score = "msp"
    head_scores: ClassVar[Mapping[str, str]] = dict.fromkeys(ANGULAR, "cosine")
    wants_outliers = "optional"
    makers: ClassVar[tuple[str, ...]] = ("label_mixup",)
    own_outliers = Method.own_outliers | {"decoded_id"}

    def stages(self, context: MethodContext) -> list[Stage]:
        o: LabelMixupOptions = self.options
        outliers = self.outliers(context, context.per_step(o.ratio))
        regularisers, shown = (UniformTargetLoss(o.weight, o.divergence),), shown_inliers(self.name, o, o.store_size)
        return [Stage("classifier", context.epochs, context.lr, outliers, regularisers, **shown)]

    def outliers(self, context: MethodContext, count: int) -> Synthesiser:
        """`count` per step: those that the user names, or a store of its own."""
        own = functools.partial(filled_store, self.name, self.options, context, count)
        return given_or(own, context, count, self.options.match)
