"""Non-linear class-wise invariant sampling. Source: NCIS, Doorenbos, Sznitman & Marquez-Neila 2024 (methods.md A5).

    e_i     prompt-tuned embedding of training image i in the diffusion model's conditioning space   (`prompt_tuning`)
    f       conditional volume-preserving network, some of whose outputs are near 0 on all e_i       (`invariants`)
    v'      of low density under N(mu_y, Sigma_y + lambda I), fitted to v_i = f(e_i, y_i)            (`low_density`)
    x'      decoded from e' = f^-1(v', y), and resized by a random kernel

e' is left as long as it is. All of it happens in units of a token embedding of Stable Diffusion
(`prompt_tuning.conditioning_scale`), so that step sizes and lambda mean the same for every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator

from guard.errors import ConfigError

from ...engine.distributed import Processes
from ...generators.diffusion import Diffusion, DiffusionOptions, beside_model, make_diffusion
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..conditioning.invariants import InvariantOptions, Invariants, fitted_invariants
from ..conditioning.low_density import ClassGaussians, LowDensityOptions
from ..conditioning.prompt_tuning import EmbedOptions, conditioning_scale, embed_images, tuning_prompt
from ..resize import ResizeKernel, copies, resized

EMBEDDINGS_AT_ONCE = 4096


class NCISOptions(DiffusionOptions, EmbedOptions, InvariantOptions, LowDensityOptions):
    """Options of the model, the embeddings, the invariants and the sampling.

    `resize`: the kernel that decoded images are resized with where they are of another size. "both", as published:
    each image once by nearest and once by bilinear, so that a random one is drawn from a store.
    """

    resize: ResizeKernel = "both"

    @model_validator(mode="after")
    def _tuned_with_what_there_is(self) -> Self:
        given, default = self.embed_prompt, EmbedOptions.model_fields["embed_prompt"].default
        if given != default and self.diffusion != "stable-diffusion":
            raise ConfigError(
                f"diffusion={self.diffusion!r} does not read embed_prompt={given!r}; add diffusion='stable-diffusion', "
                "or drop it"
            )
        return self


def told_to_tune(diffusion: Diffusion, context: PrepareContext, options: NCISOptions) -> Diffusion:
    """The model that embeddings are tuned with: Stable Diffusion under another prompt, by the parts of the same one."""
    from ...generators.diffusion.stable_diffusion import StableDiffusion

    prompt = tuning_prompt(options)
    if prompt == options.prompt or not isinstance(diffusion, StableDiffusion):
        return diffusion
    told = options.model_copy(update={"prompt": prompt})
    return StableDiffusion(diffusion.pipeline, context.data.class_names, diffusion.channels, told)


@dataclass
class _Prepared:
    """What `prepare` makes; no module, so that checkpoints need not hold what has files of its own."""

    diffusion: Diffusion
    invariants: Invariants
    gaussians: ClassGaussians
    scale: float
    size: tuple[int, int]


@register_synthesiser
class NCIS(ImageSynthesiser):
    """Decoded from low-density points of the training images' embeddings, mapped by a volume-preserving network."""

    name: ClassVar[str] = "ncis"
    source: ClassVar[str] = "NCIS, Doorenbos, Sznitman & Marquez-Neila 2024"
    prepared: ClassVar[bool] = True
    Options: ClassVar = NCISOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._prepared: _Prepared | None = None

    def prepare_together(self, context: PrepareContext, us: Processes) -> None:
        with us.main_process_first():
            diffusion = make_diffusion(context, self.options)
        tuning = told_to_tune(diffusion, context, self.options)
        embed_images(tuning, beside_model(context, self.options), self.options, us)

    def prepare(self, context: PrepareContext) -> None:
        o: NCISOptions = self.options
        diffusion = make_diffusion(context, o)
        scale = conditioning_scale(diffusion, self.num_classes, context.device, o)
        shared = beside_model(context, o)
        embedded = embed_images(told_to_tune(diffusion, context, o), shared, o)
        u = embedded.e / scale
        invariants = fitted_invariants(shared, u, embedded.classes, o)
        with torch.no_grad():
            pairs = zip(u.split(EMBEDDINGS_AT_ONCE), embedded.classes.split(EMBEDDINGS_AT_ONCE), strict=True)
            v = torch.cat([invariants.cvpn(x.to(context.device), y.to(context.device)) for x, y in pairs])
        gaussians = ClassGaussians(v, embedded.classes.to(v.device), self.num_classes, o)
        p = context.data.preprocess
        self._prepared = _Prepared(diffusion, invariants, gaussians, scale, (p.height, p.width))

    @torch.no_grad()
    def embeddings(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One outlier's e' (K, E) for each of classes (K,)."""
        made = self._ready()
        v = made.gaussians.sample(classes, generator)
        return made.scale * made.invariants.cvpn.inverse(v, classes)

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = self._ready()
        kernel: ResizeKernel = self.options.resize
        each = copies(made.diffusion.own_size, made.size, kernel)
        decoded = -(-self.count // each)
        classes = torch.randint(self.num_classes, (decoded,), generator=generator, device=generator.device)
        images = made.diffusion.sample(self.embeddings(classes, generator), classes, generator)
        images = resized(images, *made.size, kernel)[: self.count]
        parents = classes.repeat_interleave(each)[: self.count, None]
        return Outliers(images, "low density among non-linear invariants", parents=parents)

    def _ready(self) -> _Prepared:
        if self._prepared is None:
            raise ConfigError("synthesiser 'ncis' has no diffusion model yet; call prepare(context) first")
        return self._prepared
