"""A small class-conditional diffusion model of the user's own images, behind the interface of `base`.

    images --fill up--> [-1, 1] --(autoencoder)--> z;   e = weights @ table;   denoised back

Sizes that the network cannot halve are filled up by repeating edges, and cut back when decoded, so that images come
out at the size of the training images.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from guard.record import Record

from ...engine.adaptive_batches import Batches
from ...engine.precision import mixed_precision
from .autoencoder import CHANNELS as LATENT_CHANNELS
from .autoencoder import Autoencoder, AutoencoderCard, halvings, to_signal
from .base import TIMES, DiffusionOptions, SamplerName
from .denoiser import Denoiser, padded_size
from .noise import Prediction
from .sampling import denoised
from .schedulers import checked_finite, image_seeds, shared_noise

STEPS, GUIDANCE = 20, 2.0
SAMPLER: SamplerName = "dpm-solver++"
WIDE = 48  # channels from which bf16 pays on a CPU that has it: step times 1.8, 1.1 and 0.67 of float32's at 16, 32, 64
LARGEST_IN_PIXELS = 64  # larger images are denoised as latents by default


class ModelCard(Record):
    """What decides the form of a model; the options are those of `DiffusionOptions`, `diffusion_width` its width."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: int
    class_names: list[str]
    conditioning: Literal["token", "label"]
    prediction: Prediction
    loss_weights: Literal["min-snr", "none"] = "min-snr"
    diffusion_width: int
    latent: bool
    patch: int | None


class BuiltInDiffusion(nn.Module):
    """The trained model: `train.generators.diffusion.base.Diffusion`.

    `autoencoder` is None where it works on pixels. steps, guidance, batch: of sampling.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.own_size = (card.height, card.width)
        k = halvings(*self.own_size) if card.latent else 0
        small = padded_size(-(-card.height // 2**k), -(-card.width // 2**k), card.patch)
        self.filled = (small[0] * 2**k, small[1] * 2**k)
        self.autoencoder = Autoencoder(AutoencoderCard(channels=card.channels, halvings=k)) if card.latent else None
        self.latent_shape = (LATENT_CHANNELS if card.latent else card.channels, *small)
        self.denoiser = Denoiser(
            self.latent_shape,
            len(card.class_names),
            card.diffusion_width,
            card.patch,
            card.conditioning,
            card.prediction,
            plain_loss=card.loss_weights == "none",
        )
        self.width, self.channels = self.denoiser.embedding_width, card.diffusion_width
        self.times = TIMES
        self.steps, self.guidance, self.batches = STEPS, GUIDANCE, Batches(64)
        self.sampler, self.spacing = SAMPLER, "trailing"

    def sampling(self, options: DiffusionOptions) -> BuiltInDiffusion:
        """Sample as the options say from now on."""
        self.sampler, self.spacing = options.sampler or SAMPLER, options.spacing
        self.steps = options.sampling_steps or (TIMES if self.sampler == "ddpm" else STEPS)
        self.guidance = GUIDANCE if options.guidance is None else options.guidance
        self.batches = Batches(options.sampling_batch)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float()
        if pixels.shape[-2:] != self.own_size:
            pixels = F.interpolate(pixels, self.own_size, mode="bilinear", antialias=True, align_corners=False)
        signal = to_signal(pixels, *self.filled)
        if self.autoencoder is None:
            return signal
        with self.autocast():
            return self.batches(self.autoencoder.encode, signal)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        signal = latents
        if self.autoencoder is not None:
            with self.autocast():
                signal = self.batches(self.autoencoder.decode, latents)
        height, width = self.own_size
        pixels = ((signal[..., :height, :width] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def condition(self, classes: Tensor) -> Tensor:
        return self.denoiser.condition(classes)

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        with self.autocast():
            return self.denoiser.noise_loss(latents, e, times, noise)

    @torch.no_grad()
    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        noise = shared_noise((len(e), *self.latent_shape), generator)
        more = [image_seeds(len(e), generator)] if self.sampler == "ddpm" else []
        with self.autocast():
            return checked_finite(self.batches(self.sampled, noise, e, *more), self.steps)

    def sampled(self, noise: Tensor, e: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the noise (N, c, h, w) becomes under e (N, E)."""
        return denoised(
            self.denoiser,
            noise,
            e,
            seeds,
            steps=self.steps,
            guidance=self.guidance,
            sampler=self.sampler,
            spacing=self.spacing,
        )

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        return self.decode(self.latents(e, classes, generator))

    def autocast(self) -> Any:
        """A context of its precision: on CPUs, bf16 costs narrow networks more than it saves."""
        device = self.denoiser.table.device
        if device.type == "cpu" and self.channels < WIDE:
            return contextlib.nullcontext()
        return mixed_precision(device)()
