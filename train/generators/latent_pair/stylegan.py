"""An adapter for StyleGAN-style networks given as torch modules (StyleGAN2-ADA, StyleGAN3, StyleGAN-XL ...)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.errors import ConfigError

from ...cache.keyed import LONG, digest


class StyleGANPair:
    """A pair made of the official networks' parts; see `train.generators.latent_pair.base.SamplingPair`.

    Args:
        mapping: called as in the official code, ``mapping(z (N, z_dim), c (N, C) one-hot or None,
            truncation_psi=psi)``, gives w (N, L, d).
        synthesis: ``synthesis(w (N, L, d), **synthesis_options)`` gives images (N, channels, R, R) in [-1, 1].
        image_shape: (H, W, channels) of the data's images; what the generator makes is resized to it, and turned to
            grey where channels is 1.
        encoder: images (N, channels, H, W) in [-1, 1] -> w (N, L, d) or (N, d); None where there is none: the latents
            then come from `sample` (``variant="code"`` of the DMR family).
        z_dim: width of z.
        num_classes: of the labels that the mapping was trained with; 0 for an unconditional one.
        num_styles: L, for an encoder that gives one w (N, d).
        truncation: psi; 1 is none.
        synthesis_options: e.g. ``{"noise_mode": "const"}``, which the official networks need to be deterministic.

    Example::

        G = load_official_network(...).eval()
        pair = StyleGANPair(G.mapping, G.synthesis, (32, 32, 3), z_dim=G.z_dim, num_classes=G.c_dim,
                            synthesis_options={"noise_mode": "const"})
        register_pair("stylegan", lambda context, options: pair)
        guard.train(data, method="dmr", pair="stylegan", variant="code")

    Attributes:
        identity: which pair it is, by the weights of its networks and what else changes its images; stores of outliers
            keep it.
    """

    def __init__(
        self,
        mapping: Callable[..., Tensor],
        synthesis: Callable[..., Tensor],
        image_shape: tuple[int, int, int],
        *,
        encoder: Callable[[Tensor], Tensor] | None = None,
        z_dim: int = 512,
        num_classes: int = 0,
        num_styles: int | None = None,
        truncation: float = 1.0,
        synthesis_options: dict[str, object] | None = None,
    ) -> None:
        self.mapping, self.synthesis, self.encoder = mapping, synthesis, encoder
        self.image_shape, self.z_dim, self.num_classes, self.num_styles = image_shape, z_dim, num_classes, num_styles
        self.truncation, self.synthesis_options = truncation, dict(synthesis_options or {})

    @property
    def identity(self) -> str:
        parts = (self.mapping, self.synthesis, self.encoder)
        named = [part if isinstance(part, torch.nn.Module) else getattr(part, "__qualname__", None) for part in parts]
        numbers = [self.z_dim, self.num_classes, self.num_styles, self.truncation, str(self.synthesis_options)]
        return digest([named, list(self.image_shape), numbers], LONG)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        if self.encoder is None:
            raise ConfigError("this pair has no encoder; sample its latents with variant='code', or give encoder=")
        w = self.encoder(images.permute(0, 3, 1, 2).float() / 127.5 - 1).float()
        if w.ndim == 3:
            return w
        if self.num_styles is None:
            raise ConfigError(f"the encoder gives one w of shape {tuple(w.shape)} per image; say num_styles=")
        return w[:, None].repeat(1, self.num_styles, 1)

    @torch.no_grad()
    def generate(self, w: Tensor) -> Tensor:
        height, width, channels = self.image_shape
        x = self.synthesis(w, **self.synthesis_options).float()
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bicubic", align_corners=False, antialias=True)
        if channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(labels), self.z_dim, generator=generator, device=labels.device)
        c = F.one_hot(labels, self.num_classes).float() if self.num_classes else None
        return self.mapping(z, c, truncation_psi=self.truncation).float()
