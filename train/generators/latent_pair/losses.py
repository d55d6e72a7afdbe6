"""What the style pair's training minimises.

    encoder, generator, mapping:  mean |x - G(E(x))| + perceptual * feature_distance + adversarial * mean softplus(-D)
    discriminator:                mean softplus(D(fake)) + mean softplus(-D(real)) + R1 in every 16th step

The fakes are reconstructions and images of sampled z, a quarter as many. The adversarial loss is the non-saturating one
(Goodfellow et al. 2014), R1 is Mescheder et al., ICML 2018, done lazily as in StyleGAN2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def non_saturating(fake_logits: Tensor) -> Tensor:
    """What the generator minimises: mean softplus(-D(fake))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean softplus(-D(real)) + mean softplus(D(fake))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """mean over images of ||dD(x)/dx||^2 / 2; `real_images` needs a gradient."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def feature_distance(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Mean over the maps of sum |a - b| / sum |a|: 0 for equal maps, whatever their scale."""
    parts = [
        (a.detach() - b).abs().float().mean() / (a.detach().abs().float().mean() + 1e-8)
        for a, b in zip(real, made, strict=True)
    ]
    return torch.stack(parts).mean()
