"""DMR and its kin. Source: Choi & Na, CVPR 2024 workshop.

    mlm         x~ = G( 1/k sum_i w_i )                       k latents of different classes
    dmr         x~ = G( lambda (w - mu_y) )                   lambda ~ U(1, 3)
    dmr_mlm     x~ = G( lambda 1/k sum_i (w_i - mu_y(i)) )
    dmr_kirby   the outliers of dmr_mlm and of KIRBY, half and half

then a rejection network on the frozen classifier, in-distribution = 0, outlier = 1 (`rejection`). E, G come from an
encoder/generator pair that is trained on the training images first (`train.generators`), or from one of your own
(``pair=``). The paper's numbers are a StyleGAN-XL's; the default pair is far smaller.

``variant="code"`` takes what the official notebooks do to make outliers (latents drawn from the mapping network, lambda
from {1, 3}, augmentation); their head is ``tap="map"`` with ``hidden=2048``. The default is the paper's recipe, which
asks of the pair only that it reconstructs images. Heads read pooled features by default, so that any backbone does.
The row that the paper calls DMR, and combines with KIRBY, is DMR+MLM.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from safetensors.torch import load, save
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.data import ImageData
from guard.errors import ConfigError
from guard.record import Record, option

from ..cache.held import Held
from ..cache.keyed import images_identity, keyed_path, model_identity
from ..engine.loader import Feed
from ..engine.progress import progress_bar
from ..generators.latent_pair import Pair, PairOptions, SamplingPair, make_pair
from ..outliers.base import (
    IDBatch,
    ImageSynthesiser,
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

ENCODED_AT_ONCE = 128
DRAWS_PER_CLASS = 2000


class LatentOptions(Record):
    """What all three share; the paper's values."""

    pair: PairOptions = option(
        PairOptions(), "The encoder/generator pair and its training; a plain string is its model.", common=True
    )
    variant: Literal["paper", "code"] = option(
        "paper", "Whether latents are of images, as in the paper, or drawn, as in the official code.", common=True
    )
    augment_outliers: bool | None = option(
        None, "Augment outliers as the official code does; default with variant 'code' alone."
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


def classes_to_mix(k: int, num_classes: int) -> int:
    """min(k, C - 1), and 2 where C = 2."""
    return max(2, min(k, num_classes - 1))


def marginal(w: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """w - mu_y: what is left of latents (N, L, d) of classes (N,) without their class's mean, of means (C, L, d)."""
    return w - means[labels]


def mixed(w: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Means (K, L, d) of the latents w (N, L, d) that index (K, k) names, of those that are valid (K, k)."""
    weights = valid.to(w.dtype) / valid.sum(-1, keepdim=True)
    return torch.einsum("kj,kjld->kld", weights, w[index])


def class_means(pair: Pair, data: ImageData, device: torch.device) -> Tensor:
    """mu_y (C, L, d): the mean of E(x) over each class of `data`, summed in float64."""
    feed, num_classes = Feed(data), len(data.class_names)
    total: Tensor | None = None
    counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
    with progress_bar("class means", -(-len(feed) // ENCODED_AT_ONCE)) as advance:
        for batch in feed.batches(torch.arange(len(feed)), ENCODED_AT_ONCE, device):
            one_hot = torch.nn.functional.one_hot(batch.labels, num_classes).double()
            part = torch.einsum("nc,nld->cld", one_hot, pair.encode(batch.images).double())
            total, counts = part if total is None else total + part, counts + one_hot.sum(0)
            advance()
    assert total is not None  # data sets have images
    return (total / counts.clamp_min(1)[:, None, None]).float()


def drawn_class_means(pair: SamplingPair, num_classes: int, device: torch.device) -> Tensor:
    """mu_y (C, L, d) of the generator itself: the mean of `pair.sample` over draws of each class.

    StyleGAN's class-average w is the running version of the same mean.
    """
    generator = torch.Generator(device).manual_seed(0)
    means = []
    for c in range(num_classes):
        labels = torch.full((DRAWS_PER_CLASS,), c, device=device)
        means.append(pair.sample(labels, generator).double().mean(0))
    return torch.stack(means).float()


class LatentArithmetic(ImageSynthesiser):
    """What the three share: the pair, mu_y, and latents to start from. Subclasses say what they do with them."""

    source: ClassVar[str] = "DMR, Choi & Na 2024"
    prepared: ClassVar[bool] = True
    subtracts: ClassVar[bool] = True  # mu_y, which takes an encoding of every image
    Options: ClassVar = LatentOptions
    means: Tensor

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._pair: Held[Pair] = Held(f"synthesiser {self.name!r} has no generator yet; call prepare(context) first")
        self.register_buffer("means", torch.zeros(0), persistent=False)

    @property
    def pair(self) -> Pair:
        """The encoder and generator; there after `prepare`."""
        return self._pair.get()

    def prepare(self, context: PrepareContext) -> None:
        self._pair.put(make_pair(context, self.options.pair))
        drawn = self._sampling() if self.options.variant == "code" else None
        if self.subtracts:
            if drawn is None:
                self.means = self._kept_means(context)
            else:
                self.means = drawn_class_means(drawn, self.num_classes, context.device)

    def _kept_means(self, context: PrepareContext) -> Tensor:
        """`class_means`, from a file where this pair and these rows are those it was made of."""
        identity = {"pair": model_identity(self.pair), **images_identity(context.data)}
        path = keyed_path(self.options.pair.named_folder or context.folder, "class_means", identity)
        if path.exists():
            return load(path.read_bytes())["means"].to(context.device)
        means = class_means(self.pair, context.data, context.device)
        write_atomic(path, save({"means": means.cpu().contiguous()}))
        return means

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
        """The images of w (K, L, d), augmented where the options say so."""
        images = self.pair.generate(w)
        if self.options.augmented:
            images, how = augment_outliers(images, generator), f"{how}, augmented"
        return Outliers(images, how, parents=parents)

    def different_classes(self, batch: IDBatch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (n, L, d) and classes (n,), and for each outlier k of them of different classes (`mixed`)."""
        k = classes_to_mix(self.options.k, self.num_classes)
        w, labels = self.latents(batch, generator, max(len(batch.labels), 4 * self.num_classes))
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


class MLMOptions(StoredRejectionOptions, MixedLatentOptions):
    """The paper's defaults."""


class DMROptions(StoredRejectionOptions, EmphasisOptions):
    """The paper's defaults."""


class DMRMLMOptions(StoredRejectionOptions, MixedEmphasisOptions):
    """The paper's defaults."""


class DMRKirbyOptions(DMRMLMOptions):
    """As `DMRMLMOptions`, and KIRBY's; `store_size` is each store's."""

    cam_threshold: float = option(
        0.3, "From which share of its maximum on the class activation map is a key region.", gt=0, lt=1
    )
    radius: float = option(5.0, "Radius of Telea's inpainting, in pixels.", gt=0)


@register
class MLM(StoredRejection):
    """Rejection network on decoded means of latents of different classes (Choi & Na 2024)."""

    name = "mlm"
    Options = MLMOptions
    makers = ("mlm",)


@register
class DMR(StoredRejection):
    """Rejection network on decoded latents without their class's mean (Choi & Na 2024)."""

    name = "dmr"
    Options = DMROptions
    makers = ("dmr",)


@register
class DMRMLM(StoredRejection):
    """Rejection network on decoded means of latents without their classes' means (Choi & Na 2024)."""

    name = "dmr_mlm"
    Options = DMRMLMOptions
    makers = ("dmr_mlm",)


@register
class DMRKirby(StoredRejection):
    """Rejection network on the outliers of DMR+MLM and of KIRBY (Choi & Na 2024)."""

    name = "dmr_kirby"
    Options = DMRKirbyOptions
    makers = ("dmr_mlm", "kirby")

    def made(self, context: MethodContext, count: int) -> Synthesiser:
        o: DMRKirbyOptions = self.options

        def part(name: str, n: int) -> Synthesiser:
            return filled_store(name, o, context, n, augment_outliers=o.augmented)

        return Mixture({"dmr_mlm": 1.0, "kirby": 1.0}, max(2, count), part)
