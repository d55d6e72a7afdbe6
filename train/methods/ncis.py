"""NCIS, non-linear class-wise invariant sampling. Source: Doorenbos, Sznitman & Marquez-Neila, "Non-linear Outlier
Synthesis", 2024.

    e_i     prompt-tuned embedding of training image i in the diffusion model's conditioning space    (image_embeddings)
    f       conditional volume-preserving network, some of whose outputs are near 0 on all e_i        (invariants)
    v'      of low density under N(mu_y, Sigma_y + lambda I), fitted to v_i = f(e_i, y_i)             (low_density)
    x'      decoded from e' = f^-1(v', y), and resized by a random kernel
    L  = CE + weight * R-ELR(g),   g = logsumexp f

The first three are in `train.outliers.conditioning`. e' is left as long as it is. All of it happens in units of a token
embedding of Stable Diffusion (`prompt_tuning.conditioning_scale`), so that step sizes and lambda mean the same for
every model. Images first go into a store (``out/outliers/ncis``); ``outliers=`` names images or a store to take in its
place. The diffusion model is trained on your own images, or is Stable Diffusion as published.

``variant="code"`` fits invariants as the official code does: another loss, other widths, K counted otherwise, and 5 %
of the variance in place of 2 %. The default is the paper's, which takes one step per batch where the code takes two.
Neither says how images are embedded (``embed=``) or how long invariants are fitted (``invariants=``).

Table 3 of the paper takes parts away: ``invariants={"kind": "linear"}`` fits Gaussians to the embeddings themselves,
``embedding="encoder"`` takes Dream-OOD's embeddings, ``resize_kernel="bilinear"`` one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator

from guard.errors import ConfigError
from guard.heads import unit
from guard.record import changed, option

from ..cache.held import Held
from ..engine.distributed import Processes
from ..generators.diffusion import Diffusion, DiffusionOptions, beside_model, make_diffusion
from ..generators.diffusion.stable_diffusion import StableDiffusion
from ..outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..outliers.conditioning.cvpn import Variant
from ..outliers.conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..outliers.conditioning.image_embeddings import embed_images
from ..outliers.conditioning.invariants import InvariantOptions, Linear, VolumePreserving, fitted_invariants
from ..outliers.conditioning.low_density import RIDGE, ClassGaussians, LowDensityOptions
from ..outliers.conditioning.prompt_tuning import EmbedOptions, conditioning_scale, tuning_prompt
from ..outliers.decoded import check_size, copies_kept
from ..outliers.resize import ResizeKernel, ResizeOptions, check_via, copies, resized
from ..outliers.store.drawing import Stored
from .base import MethodContext, register
from .decoded import EnergyOnDecoded, EnergyOptions
from .from_store import filled_store

EMBEDDINGS_AT_ONCE = 4096
STORE = 6400  # images in the paper's ablations
PER_DRAW = 64
RIDGE_ELSEWHERE = 1e-3  # than on Stable Diffusion


class NCISImageOptions(LowDensityOptions, ResizeOptions):
    """Options of the images."""

    diffusion: DiffusionOptions = option(DiffusionOptions(), "The diffusion model that decodes.", common=True)
    embedding: Literal["tuned", "encoder"] = option(
        "tuned",
        "How training images are embedded in its conditioning space: each tuned to its image, or the features of "
        "Dream-OOD's encoder at the length of their class's embedding, which the paper compares with.",
    )
    embed: EmbedOptions = option(EmbedOptions(), "How embeddings are tuned.", read_if={"embedding": "tuned"})
    encoder: EncoderOptions = option(EncoderOptions(), "The image encoder.", read_if={"embedding": "encoder"})
    invariants: InvariantOptions = option(InvariantOptions(), "How the invariants are learned.")
    variant: Variant = option("paper", "'paper', or the loss and the form of the invariants in the official 'code'.")
    resize_kernel: ResizeKernel = option(
        "both",
        "Pillow kernel by which decoded images are resized; 'both', as published, keeps each by nearest and by "
        "bilinear, and training draws a random one.",
    )

    @model_validator(mode="after")
    def _learned(self) -> Self:
        if "variant" in changed(self) and self.invariants.kind == "linear":
            raise ConfigError(
                f"variant={self.variant!r} is not read with invariants.kind='linear'; drop it, or give "
                "invariants.kind='cvpn'"
            )
        return self

    @model_validator(mode="after")
    def _tuned_with_what_there_is(self) -> Self:
        if "prompt" in changed(self.embed) and self.diffusion.model != "stable-diffusion":
            raise ConfigError(
                f"embed.prompt={self.embed.prompt!r} is not read with diffusion.model={self.diffusion.model!r}; "
                "drop it, or give diffusion.model='stable-diffusion'"
            )
        return self


class NCISOptions(EnergyOptions, NCISImageOptions):
    """Options of the images and of their use."""

    weight: float = option(1.0, "Weight beta of the energy loss.", ge=0, common=True)
    store_size: int | None = option(
        None,
        "Images to generate; default 6,400, or one per training image where these are fewer.",
        ge=1,
        common=True,
    )


def chosen_ridge(options: NCISImageOptions) -> float:
    """lambda: as published on Stable Diffusion, and wider on others.

    A small model decodes points of lambda = 1e-5 to images of their class, which as outliers teach "generated"
    (docs/diffusion_methods.md has the numbers).
    """
    if options.ridge is not None:
        return options.ridge
    return RIDGE if options.diffusion.model == "stable-diffusion" else RIDGE_ELSEWHERE


def told_to_tune(diffusion: Diffusion, context: PrepareContext, options: NCISImageOptions) -> Diffusion:
    """The model that embeddings are tuned with: Stable Diffusion under another prompt, by the parts of the same one."""
    asked = options.diffusion
    prompt = tuning_prompt(options.embed, asked)
    if prompt in (None, asked.prompt) or not isinstance(diffusion, StableDiffusion):
        return diffusion
    told = asked.model_copy(update={"prompt": prompt})
    return StableDiffusion(diffusion.pipeline, context.data.class_names, diffusion.channels, told, context.data.folder)


@dataclass
class _Prepared:
    """What `prepare` makes."""

    diffusion: Diffusion
    map: VolumePreserving
    gaussians: ClassGaussians
    scale: float
    size: tuple[int, int]


@register_synthesiser
class NCISImages(ImageSynthesiser):
    """Decoded from low-density points of the training images' embeddings, mapped by a volume-preserving network."""

    name: ClassVar[str] = "ncis"
    source: ClassVar[str] = "NCIS, Doorenbos, Sznitman & Marquez-Neila 2024"
    prepared: ClassVar[bool] = True
    Options: ClassVar = NCISImageOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._prepared: Held[_Prepared] = Held(
            "synthesiser 'ncis' has no diffusion model yet; call prepare(context) first"
        )

    def check(self, context: PrepareContext) -> None:
        check_size(context, self.options.diffusion, self.options)

    def copies(self, context: PrepareContext) -> int:
        return copies_kept(context, self.options.diffusion, self.options)

    def prepare_together(self, context: PrepareContext, us: Processes) -> None:
        o: NCISImageOptions = self.options
        if o.embedding == "encoder":
            self.prepare(context)
            return
        diffusion = make_diffusion(context, o.diffusion)
        tuning, shared = told_to_tune(diffusion, context, o), beside_model(context, o.diffusion)
        embed_images(tuning, shared, o.embed, o.diffusion, us)

    def prepare(self, context: PrepareContext) -> None:
        o: NCISImageOptions = self.options
        diffusion, shared = make_diffusion(context, o.diffusion), beside_model(context, o.diffusion)
        scale = conditioning_scale(diffusion, self.num_classes, context.device, o.embed, o.diffusion)
        e, classes = self._embedded(context, diffusion)
        u = e / scale
        linear = o.invariants.kind == "linear"
        f = Linear() if linear else fitted_invariants(shared, u, classes, o.invariants, o.variant).cvpn
        with torch.no_grad():
            pairs = zip(u.split(EMBEDDINGS_AT_ONCE), classes.split(EMBEDDINGS_AT_ONCE), strict=True)
            v = torch.cat([f(x.to(context.device), y.to(context.device)) for x, y in pairs])
        wide = o.model_copy(update={"ridge": chosen_ridge(o)})
        gaussians = ClassGaussians(v, classes.to(v.device), self.num_classes, wide)
        p = context.data.preprocess
        check_via(o.resize_via, diffusion.own_size, (p.height, p.width))
        self._prepared.put(_Prepared(diffusion, f, gaussians, scale, (p.height, p.width)))

    def _embedded(self, context: PrepareContext, diffusion: Diffusion) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (N, E) of training images, and their classes (N,)."""
        o: NCISImageOptions = self.options
        shared = beside_model(context, o.diffusion)
        if o.embedding == "tuned":
            embedded = embed_images(told_to_tune(diffusion, context, o), shared, o.embed, o.diffusion)
            return embedded.e, embedded.classes
        with torch.no_grad():
            anchors = diffusion.condition(torch.arange(self.num_classes, device=context.device)).float()
        features = training_features(shared, trained_encoder(shared, anchors, o.encoder), o.encoder)
        lengths = torch.linalg.vector_norm(anchors, dim=-1)[features.labels, None]
        return lengths * unit(features.data), features.labels

    @torch.no_grad()
    def embeddings(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One outlier's e' (K, E) for each of classes (K,)."""
        made = self._prepared.get()
        v = made.gaussians.sample(classes, generator)
        return made.scale * made.map.inverse(v, classes)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = self._prepared.get()
        kernel: ResizeKernel = self.options.resize_kernel
        each = copies(made.diffusion.own_size, made.size, kernel)
        decoded = -(-self.count // each)
        classes = torch.randint(self.num_classes, (decoded,), generator=generator, device=generator.device)
        images = made.diffusion.sample(self.embeddings(classes, generator), classes, generator)
        images = resized(images, *made.size, kernel, self.options.resize_via)[: self.count]
        parents = classes.repeat_interleave(each)[: self.count, None]
        return Outliers(images, "low density among non-linear invariants", parents=parents)


@register
class NCIS(EnergyOnDecoded):
    """Images decoded from low-density embeddings of the training images, held apart by energy (Doorenbos 2024)."""

    name = "ncis"
    Options = NCISOptions
    makers: ClassVar[tuple[str, ...]] = ("ncis",)

    def store(self, context: MethodContext, kind: type[Stored]) -> Stored:
        o, count = self.options, context.per_step(self.options.ratio)
        return filled_store(self.name, o, context, count, at_once=PER_DRAW, total=self.total(context), kind=kind)

    def total(self, context: MethodContext) -> int:
        return self.options.store_size or min(STORE, sum(context.class_counts))
