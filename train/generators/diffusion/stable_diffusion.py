"""Stable Diffusion by the interface of `train.generators.diffusion.base`, on the parts of any StableDiffusionPipeline.

e               rows of the text encoder's input token table; T(y) is the row of the class's name (Dream-OOD's)
encode, decode  the VAE's mode and its decoder, latents scaled to about unit variance
latents         the pipeline's own loop: DDIM, eta 0, 50 steps, guidance 7.5 unless the options say otherwise
                (`schedulers` has the others)
noise_loss      z_t = alpha_t z + sigma_t eps;  mean (eps - eps_theta(z_t, t, hidden(e)))^2, where a v-predicting
                network's v says eps_theta = alpha_t v + sigma_t z_t
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guard.errors import ConfigError

from ...cache.keyed import LONG, digest
from ...engine.adaptive_batches import Batches
from ...outliers.base import PrepareContext
from ...outliers.resize import resized
from .base import DiffusionOptions
from .pipeline import open_pipeline, pipeline_identity
from .prompts import Prompts
from .schedulers import CLASSES, checked_finite, image_generators, image_seeds, scheduler, shared_noise

STEPS, GUIDANCE = 50, 7.5
GRADIENT_SCALE = 2.0**12  # of half precision; a power of two changes no digit


class StableDiffusion:
    """A `Diffusion` over a pipeline from `open_pipeline`.

    Args:
        channels: of the training images, 1 or 3; what is decoded has as many.
    """

    def __init__(
        self,
        pipeline: Any,
        class_names: tuple[str, ...],
        channels: int,
        options: DiffusionOptions,
        folder: Path | None = None,
    ) -> None:
        self.pipeline, self.channels = pipeline, channels
        self.class_names, self.folder = class_names, folder
        self.times: int = pipeline.scheduler.config.num_train_timesteps
        name = options.sampler or "ddim"
        self.steps = options.sampling_steps or (self.times if name == "ddpm" else STEPS)
        if self.steps > self.times:
            raise ConfigError(
                f"sampling_steps={self.steps} is more than the {self.times} noise levels of the pipeline; give at most "
                "so many"
            )
        self.guidance = options.guidance or GUIDANCE
        self.scheduler = scheduler(name, pipeline.scheduler.config, options.spacing)
        self.prompts = Prompts(pipeline, class_names, options.prompt, options.class_prompts, folder)
        size = pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        factor = pipeline.vae_scale_factor
        self.width: int = self.prompts.anchors.shape[1]
        self.latent_shape: tuple[int, int, int] = (pipeline.unet.config.in_channels, height, width)
        self.own_size: tuple[int, int] = (height * factor, width * factor)
        self._batches = Batches(options.sampling_batch)

    @property
    def identity(self) -> str:
        """Which model it is, for keys of what is made with it: the pipeline, and the prompts where they are not the
        classes' names."""
        own = pipeline_identity(self.pipeline)
        return digest([own, self.prompts.texts, self.prompts.tokens], LONG) if self.prompts.own_names else own

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) of any size -> latents (N, c, h, w), float32: the VAE's mode."""
        return self._batches(self._encode, images)

    def _encode(self, images: Tensor) -> Tensor:
        vae = self.pipeline.vae
        rgb = resized(images, *self.own_size).expand(-1, -1, -1, 3).permute(0, 3, 1, 2)
        pixels = rgb.to(vae.device, vae.dtype) / 127.5 - 1
        latents: Tensor = vae.encode(pixels).latent_dist.mode().float() * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> uint8 (N, H, W, channels) of `own_size`."""
        return self._batches(self._decode, latents)

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0].float()
        unit = self.pipeline.image_processor.postprocess(pixels, output_type="pt")
        rgb = (255 * unit).round().to(torch.uint8).permute(0, 2, 3, 1)
        return rgb if self.channels == 3 else luminance(rgb)

    def condition(self, classes: Tensor) -> Tensor:
        """Classes (N,), or weights (N, C), -> (weighted sums of) the input token embeddings of their names (N, E)."""
        anchors = self.prompts.anchors
        return classes.float() @ anchors if classes.is_floating_point() else anchors[classes]

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error (N,) of the predicted noise, differentiable in e through the text encoder."""
        scheduler, unet = self.pipeline.scheduler, self.pipeline.unet
        half = unet.dtype == torch.float16
        if half:
            e = _scaled_gradient(e, 1 / GRADIENT_SCALE)
        noisy = scheduler.add_noise(latents, noise, times)
        hidden = self.prompts.hidden(e, classes)
        said = unet(noisy.to(unet.dtype), times, encoder_hidden_states=hidden, return_dict=False)[0].float()
        if scheduler.config.prediction_type == "v_prediction":
            said = self._noise_said(said, noisy, times)
        loss = (said - noise).square().mean((1, 2, 3))
        return _scaled_gradient(loss, GRADIENT_SCALE) if half else loss

    def _noise_said(self, v: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        kept: Tensor = self.pipeline.scheduler.alphas_cumprod.to(v.device)[times].view(-1, 1, 1, 1)
        return kept.sqrt() * v + (1 - kept).sqrt() * noisy

    @torch.no_grad()
    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Denoised latents (N, c, h, w), float32, sampled with e (N, E), which stands for classes (N,)."""

        def denoised(noise: Tensor, e: Tensor, classes: Tensor, *seeds: Tensor) -> Tensor:
            return self._denoised(noise, self.prompts.hidden(e, classes), *seeds)

        noise, seeds = self._noise(e, generator)
        return checked_finite(self._batches(denoised, noise, e, classes, *seeds), self.steps)

    def _noise(self, e: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """What sampling starts from, and the images' seeds where it draws in every step."""
        noise = shared_noise((len(e), *self.latent_shape), generator).to(e.device)
        ancestral = type(self.scheduler).__name__ == CLASSES["ddpm"]
        return noise, [image_seeds(len(e), generator)] if ancestral else []

    def _denoised(self, noise: Tensor, hidden: Tensor, seeds: Tensor | None = None) -> Tensor:
        pipeline, own = self.pipeline, self.pipeline.scheduler
        pipeline.scheduler = self.scheduler
        try:
            return self._by_pipeline(noise, hidden, seeds)
        finally:
            pipeline.scheduler = own

    def _by_pipeline(self, noise: Tensor, hidden: Tensor, seeds: Tensor | None) -> Tensor:
        pipeline = self.pipeline
        denoised: Tensor = pipeline(
            prompt_embeds=hidden,
            negative_prompt_embeds=self.prompts.unconditional(len(noise)),
            latents=noise.to(pipeline.unet.dtype),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=None if seeds is None else image_generators(seeds),
            output_type="latent",
        ).images
        return denoised.float()

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (N, H, W, channels) of `own_size`."""
        return self.decode(self.latents(e, classes, generator))

    def class_words(self) -> list[str]:
        """What the classes are called, in words."""
        return self.prompts.words

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's output at the end token of each text: (N, W), float32."""
        return self.prompts.at_end(texts).float()

    @torch.no_grad()
    def sample_text(self, features: Tensor, text: str, generator: torch.Generator) -> Tensor:
        """As `sample`, with text features (N, W) at the end token of `text` for a condition."""

        def denoised(noise: Tensor, features: Tensor, *seeds: Tensor) -> Tensor:
            return self._denoised(noise, self.prompts.with_end(features, text), *seeds)

        noise, seeds = self._noise(features, generator)
        return self.decode(checked_finite(self._batches(denoised, noise, features, *seeds), self.steps))


def luminance(rgb: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> (N, H, W, 1), ITU-R 601 in 16-bit fixed point: Pillow's ``convert("L")`` to the bit."""
    weights = torch.tensor([19595, 38470, 7471], device=rgb.device)  # 2^16 (0.299, 0.587, 0.114)
    return (((rgb.int() * weights).sum(-1, keepdim=True) + 2**15) >> 16).to(torch.uint8)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied: small ones would vanish between two of these in half precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _ScaledGradient.apply(x, factor)
    return scaled


def stable_diffusion(context: PrepareContext, options: DiffusionOptions) -> StableDiffusion:
    """The pipeline that the options name, for the classes and channels of the context's images."""
    pipeline = open_pipeline(options.pipeline, context.device)
    data = context.data
    return StableDiffusion(pipeline, data.class_names, data.preprocess.channels, options, data.folder)
