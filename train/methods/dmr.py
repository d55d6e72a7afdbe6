"""DMR and its kin. Source: Choi & Na, CVPR 2024 workshop.

    mlm         x~ = G( 1/k sum_i w_i )                       k latents of different classes
    dmr         x~ = G( lambda (w - mu_y) )                   lambda ~ U(1, 3)
    dmr_mlm     x~ = G( lambda 1/k sum_i (w_i - mu_y(i)) )
    dmr_kirby   the outliers of dmr_mlm and of KIRBY, half and half

then a rejection network on the frozen classifier, in-distribution = 0, outlier = 1 (`rejection`). E, G come from an
encoder/generator pair that is trained on the training images first (`train.generators`), or from one of your own
(``pair=``). The paper's numbers are a StyleGAN-XL's; the default pair is far smaller.

G(w) has its 0 at the mean latent (`train.generators.latent_pair.arithmetic` says why); ``origin="own"`` keeps a
generator's. Eq. 3 tells G(w - mu_y) from reconstructions G(E(x)), ``reconstruct_id=True``; officially, and by default,
it is told from the images themselves.

``variant="code"`` takes what the official notebooks do to make outliers (latents drawn from the mapping network, lambda
from {1, 3}, augmentation anew at each visit); their head is ``tap="map"`` with ``hidden=2048``. The default is the
paper's recipe, which asks of the pair only that it reconstructs images. Heads read pooled features by default, so that
any backbone does. The row that the paper calls DMR, and combines with KIRBY, is DMR+MLM.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.errors import ConfigError
from guard.record import Record, option

from ..cache.held import Held
from ..cache.keyed import model_identity
from ..generators.latent_pair import Pair, PairOptions, SamplingPair, make_pair
from ..generators.latent_pair.arithmetic import classes_to_mix, drawn_moments, encoded_moments, marginal, mixed
from ..generators.latent_pair.reconstructions import Reconstructions
from ..outliers.base import (
    IDBatch,
    ImageSynthesiser,
    Inliers,
    Outliers,
    PrepareContext,
    Synthesiser,
    register_synthesiser,
)
from ..outliers.images.pixel_average import pick_different_classes
from ..outliers.published_augmentation import augment_outliers
from ..outliers.sources import Mixture
from .base import MethodContext, register
from .from_store import StoredRejection, StoredRejectionOptions, filled_store


class LatentOptions(Record):
    """What all three share; the paper's values."""

    pair: PairOptions = option(
        PairOptions(), "The encoder/generator pair and its training; a plain string is its model.", common=True
    )
    variant: Literal["paper", "code"] = option(
        "paper", "Whether latents are of images, as in the paper, or drawn, as in the official code.", common=True
    )
    augment_outliers: bool | None = option(
        None, "Augment outliers as the official code does, a store's once; default with variant 'code' alone."
    )

    @property
    def augmented(self) -> bool:
        """Whether outliers are augmented."""
        return self.variant == "code" if self.augment_outliers is None else self.augment_outliers


class EmphasisOptions(LatentOptions):
    """As `LatentOptions`, for latents without their class's mean."""

    lambda_low: float = option(1.0, "Least factor that such a latent is multiplied by.", gt=0)
    lambda_high: float = option(
        3.0, "Largest factor that such a latent is multiplied by; variant 'code' takes one of the two.", gt=0
    )
    origin: Literal["mean", "own"] | None = option(
        None, "Where 0 is: at the mean latent, or the generator's own; default own with 'code' and a pair of yours."
    )

    @property
    def own_origin(self) -> bool:
        """Whether G's own 0 is kept, as official: by default with variant 'code' and a pair of yours alone."""
        if self.origin is None:
            return self.variant == "code" and not self.pair.is_ours
        return self.origin == "own"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lambda_low > self.lambda_high:
            raise ValueError(f"lambda_low={self.lambda_low} is above lambda_high={self.lambda_high}; swap the two")
        return self


class MixOptions(Record):
    """For means of several latents. At most C - 1 are mixed (all C give all outliers much the same content), and both
    classes where C = 2."""

    k: int = option(5, "Latents per outlier, each of a class of its own; at most one fewer than classes.", ge=2)


class MixedLatentOptions(LatentOptions, MixOptions):
    """Of `mlm`."""


class MixedEmphasisOptions(EmphasisOptions, MixOptions):
    """Of `dmr_mlm`."""


class LatentArithmetic(ImageSynthesiser):
    """What the three share: the pair, mu_y, and latents to start from. Subclasses say what they do with them."""

    source: ClassVar[str] = "DMR, Choi & Na 2024"
    prepared: ClassVar[bool] = True
    divides: ClassVar[bool] = True
    revision: ClassVar[int] = 2  # 1: latents were decoded around the generator's own 0; enlarged bilinearly
    subtracts: ClassVar[bool] = True  # mu_y, which takes an encoding of every image
    Options: ClassVar = LatentOptions
    means: Tensor
    origin: Tensor

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._pair: Held[Pair] = Held(f"synthesiser {self.name!r} has no generator yet; call prepare(context) first")
        self.register_buffer("means", torch.zeros(0), persistent=False)
        self.register_buffer("origin", torch.zeros(()), persistent=False)

    @property
    def pair(self) -> Pair:
        """The encoder and generator; there after `prepare`."""
        return self._pair.get()

    def decoder(self) -> str | None:
        return None if self.options.pair.is_ours else model_identity(self.pair)

    def check(self, context: PrepareContext) -> None:
        o = self.options
        if o.pair.is_ours:
            return
        self._pair.put(make_pair(context, o.pair))
        if o.variant == "code":
            self._sampling()
        self._pair.release()  # it is not needed while a classifier is trained

    def prepare(self, context: PrepareContext) -> None:
        o = self.options
        self._pair.put(make_pair(context, o.pair))
        drawn = self._sampling() if o.variant == "code" else None
        if not self.subtracts:
            return
        if drawn is None:
            folder = o.pair.named_folder or context.folder
            moments = encoded_moments(self.pair, context.data, context.device, folder)
        else:
            moments = drawn_moments(drawn, self.num_classes, context.device)
        self.means = moments.classes
        self.origin = torch.zeros_like(moments.origin) if o.own_origin else moments.origin

    def _sampling(self) -> SamplingPair:
        if not isinstance(self.pair, SamplingPair):
            raise ConfigError(
                f"variant='code' draws latents, and pair {self.options.pair.model!r} has no sample(labels, generator); "
                "use variant='paper'"
            )
        return self.pair

    def latents(self, batch: IDBatch, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """w (n, L, d) and their classes (n,): of `count` images of the batch (all, in another order, where it has no
        more), or as many drawn."""
        device = batch.images.device
        if self.options.variant == "code":
            labels = torch.randint(self.num_classes, (count,), generator=generator, device=device)
            return self._sampling().sample(labels, generator), labels
        pick = torch.randperm(len(batch.labels), generator=generator, device=device)[:count]
        return self.pair.encode(batch.images[pick]), batch.labels[pick]

    def emphasis(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """lambda (K, 1, 1)."""
        low, high = self.options.lambda_low, self.options.lambda_high
        u = torch.rand(self.count, generator=generator, device=device)
        if self.options.variant == "code":
            u = (u < 0.5).float()
        factor: Tensor = (low + (high - low) * u).view(-1, 1, 1)
        return factor

    def decoded(self, w: Tensor, parents: Tensor, how: str, generator: torch.Generator) -> Outliers:
        """The images G(w) of w (K, L, d), 0 being the mean latent; augmented where the options say so."""
        images = self.pair.generate(w + self.origin)
        if self.options.augmented:
            images, how = augment_outliers(images, generator), f"{how}, augmented"
        return Outliers(images, how, parents=parents)

    def different_classes(self, batch: IDBatch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (n, L, d) and classes (n,), and for each outlier k of them of different classes (`mixed`).

        Drawn ones are each in one outlier; those of a batch's images in several, and each image is drawn as often.
        """
        k, device = classes_to_mix(self.options.k, self.num_classes), batch.images.device
        if self.options.variant == "code":
            keys = torch.rand(self.count, self.num_classes, generator=generator, device=device, dtype=torch.float64)
            chosen = keys.topk(k, dim=-1).indices
            index = torch.arange(chosen.numel(), device=device).view(chosen.shape)
            labels = chosen.flatten()
            return self._sampling().sample(labels, generator), labels, index, torch.ones_like(index, dtype=torch.bool)
        w, labels = self.latents(batch, generator, len(batch.labels))
        index, valid = pick_different_classes(labels, self.num_classes, self.count, k, generator)
        return w, labels, index, valid


@register_synthesiser
class MeanLatents(LatentArithmetic):
    """Decoded means of the latents of k images of different classes: G(1/k sum w_i)."""

    name: ClassVar[str] = "mlm"
    subtracts: ClassVar[bool] = False
    Options: ClassVar = MixedLatentOptions

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        w, labels, index, valid = self.different_classes(batch, generator)
        parents = torch.where(valid, labels[index], -1)
        return self.decoded(mixed(w, index, valid), parents, "mean latent of different classes", generator)


@register_synthesiser
class MarginalLatents(LatentArithmetic):
    """Decoded latents without their class's mean, amplified: G(lambda (w - mu_y))."""

    name: ClassVar[str] = "dmr"
    Options: ClassVar = EmphasisOptions

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        w, labels = self.latents(batch, generator, self.count)
        again = torch.arange(self.count, device=w.device) % len(w)  # a batch smaller than K is used again
        w, labels = w[again], labels[again]
        scale = self.emphasis(generator, w.device)
        return self.decoded(
            scale * marginal(w, labels, self.means), labels[:, None], "latent less its class's mean", generator
        )


@register_synthesiser
class MeanMarginalLatents(LatentArithmetic):
    """Decoded means of k latents without their classes' means, amplified: G(lambda 1/k sum (w_i - mu_y(i)))."""

    name: ClassVar[str] = "dmr_mlm"
    Options: ClassVar = MixedEmphasisOptions

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        w, labels, index, valid = self.different_classes(batch, generator)
        scale = self.emphasis(generator, w.device)
        parents = torch.where(valid, labels[index], -1)
        w = scale * mixed(marginal(w, labels, self.means), index, valid)
        return self.decoded(w, parents, "mean of latents less their classes' means", generator)


class StoredLatentOptions(StoredRejectionOptions):
    """As `StoredRejectionOptions`, for decoded latents."""

    augment_outliers: bool | None = option(  # type: ignore[assignment]  # None is said by the variant
        None, "Augment outliers at each visit as the official code does; default with variant 'code' alone."
    )
    reconstruct_id: bool = option(
        False, "Show the rejection network reconstructions in place of in-distribution images (Eq. 3 of the paper)."
    )


class MLMOptions(StoredLatentOptions, MixedLatentOptions):
    """The paper's defaults."""


class DMROptions(StoredLatentOptions, EmphasisOptions):
    """The paper's defaults."""


class DMRMLMOptions(StoredLatentOptions, MixedEmphasisOptions):
    """The paper's defaults."""


class DMRKirbyOptions(DMRMLMOptions):
    """As `DMRMLMOptions`, and KIRBY's; `store_size` is each store's."""

    cam_threshold: float = option(
        0.3, "From which share of its maximum on the class activation map is a key region.", gt=0, lt=1
    )
    radius: float = option(5.0, "Radius of Telea's inpainting, in pixels.", gt=0)


class StoredLatents(StoredRejection):
    """A rejection network on a store of decoded latents."""

    own_outliers = StoredRejection.own_outliers | {"reconstruct_id"}
    read_anyway = frozenset({"augment_outliers"})

    def augments(self, context: MethodContext) -> bool:
        return bool(self.options.augmented)

    def made(self, context: MethodContext, count: int) -> Synthesiser:
        return filled_store(self.makers[0], self.options, context, count, augment_outliers=False)

    def inliers(self) -> Inliers | None:
        return Reconstructions(self.options.pair, self.makers[0]) if self.options.reconstruct_id else None


@register
class MLM(StoredLatents):
    """Rejection network on decoded means of latents of different classes (Choi & Na 2024)."""

    name = "mlm"
    Options = MLMOptions
    makers = ("mlm",)


@register
class DMR(StoredLatents):
    """Rejection network on decoded latents without their class's mean (Choi & Na 2024)."""

    name = "dmr"
    Options = DMROptions
    makers = ("dmr",)


@register
class DMRMLM(StoredLatents):
    """Rejection network on decoded means of latents without their classes' means (Choi & Na 2024)."""

    name = "dmr_mlm"
    Options = DMRMLMOptions
    makers = ("dmr_mlm",)


@register
class DMRKirby(StoredLatents):
    """Rejection network on the outliers of DMR+MLM and of KIRBY (Choi & Na 2024)."""

    name = "dmr_kirby"
    Options = DMRKirbyOptions
    makers = ("dmr_mlm", "kirby")

    def made(self, context: MethodContext, count: int) -> Synthesiser:
        def part(name: str, n: int) -> Synthesiser:
            return filled_store(name, self.options, context, n, augment_outliers=False)

        return Mixture({"dmr_mlm": 1.0, "kirby": 1.0}, max(2, count), part)
