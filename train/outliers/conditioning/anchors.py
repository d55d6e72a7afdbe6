"""Embeddings made from the anchors T(y) alone, which the paper compares its boundary samples with. Source: Dream-OOD,
Du et al., NeurIPS 2023, appendices E and F.

    interpolation   e = alpha T(a) + (1 - alpha) T(b),  a != b       in-distribution-like images
    gaussian        e = T(y) + sigma eps,  eps ~ N(0, I)             in-distribution-like, or far off
    learnable       e = T(y) + delta_y,  delta learned with the features (`AnchoredEncoder`)   completely off the class
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .table import TOKEN_NORM, Embeddings, width_factor

BLOCK = 1000  # rows drawn at once


def in_blocks(count: int, draw: Callable[[int], Tensor]) -> Tensor:
    """`count` rows of whole blocks, so that the first ones are the same however many are asked for."""
    return torch.cat([draw(BLOCK) for _ in range(-(-count // BLOCK))])[:count]


def interpolated(anchors: Tensor, alphas: tuple[float, ...], count: int, generator: torch.Generator) -> Embeddings:
    """`count` mixtures of the anchors (C, E) of two different classes, alpha one of `alphas`; at least one per class.

    The first parent, whose weight is alpha, takes the classes in turn and gives the name in a prompt.
    """
    num_classes, device = len(anchors), anchors.device
    rows = max(count, num_classes)
    drawn = in_blocks(rows, lambda n: torch.rand(n, 2, generator=generator, device=device, dtype=torch.float64)).T
    first = torch.arange(rows, device=device) % num_classes
    second = (first + 1 + (drawn[0] * (num_classes - 1)).long()) % num_classes
    alpha = torch.tensor(alphas, device=device)[(drawn[1] * len(alphas)).long()][:, None]
    e = alpha * anchors[first] + (1 - alpha) * anchors[second]
    return Embeddings(e, first, torch.stack([first, second], -1))


def with_noise(
    anchors: Tensor, sigma: float, count: int, generator: torch.Generator, *, scale_to_width: bool = True
) -> Embeddings:
    """`count` anchors with Gaussian noise, the classes in turn; at least one per class.

    Args:
        sigma: of the noise per coordinate, beside anchors of norm 0.39 in 768 dimensions (Stable Diffusion's tokens).
        scale_to_width: take sigma |T(y)| / 0.39 sqrt(768 / E), so that noise and anchor keep their ratio.
    """
    num_classes, width = anchors.shape
    classes = torch.arange(max(count, num_classes), device=anchors.device) % num_classes
    length = torch.linalg.vector_norm(anchors, dim=-1)
    deviation = torch.full_like(length, sigma)
    if scale_to_width:
        deviation = sigma * length / TOKEN_NORM * width_factor(width)
    eps = in_blocks(len(classes), lambda n: torch.randn(n, width, generator=generator, device=anchors.device))
    e = anchors[classes] + deviation[classes, None] * eps
    return Embeddings(e, classes, classes[:, None])


def moved(anchors: Tensor, delta: Tensor) -> Embeddings:
    """The anchors (C, E) with their learned offsets delta (C, E), one embedding per class."""
    classes = torch.arange(len(anchors), device=anchors.device)
    return Embeddings(anchors + delta, classes, classes[:, None])
