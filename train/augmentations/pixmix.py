"""PixMix: images mixed with pictures that have structure and no class. Source: Hendrycks et al., CVPR 2022.

Half of the images start as they are, half as a varied copy. Each is then mixed in 0 .. k rounds, as many alike likely,
with its picture or, half the time, with another varied copy of itself, by one of two mixers; x, m in [0, 1], clipped:

    add       (a (2x - 1) + b (2m - 1) + 1) / 2
    multiply  (2x)^a (2m)^b / 2

    a, b      half the time Beta(beta, 1) and Beta(1, beta), else 1 + Beta(1, beta) and -Beta(1, beta)

k = 4 and beta = 3. The label stays. As in the official code, an image meets the same picture in all of its rounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import AugmentContext, Step, register_step
from .choices import choose
from .operations import varied
from .pictures import cut, drawn_pictures, picture_sides

ROUNDS, BETA = 4, 3.0
WHITE = 255.0
DARKEST = 1e-37  # of m where it is raised to a negative power, as in the official code


def add_(x: Tensor, m: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The first mixer, in place of x; x and m in [0, 255]: a x + b m + 255 (1 - a - b) / 2; not clipped."""
    return x.mul_(a).addcmul_(b, m).add_(WHITE / 2 * (1 - a - b))


def multiply_(x: Tensor, m: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The second, likewise, by logarithms, which are cheaper than powers; not clipped. a > 0."""
    x.log_().mul_(a).addcmul_(b, m.clamp_min(DARKEST * WHITE).log_())
    return x.add_(math.log(WHITE / 2) * (1 - a - b)).exp_()


def weights(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """a and b, each (N, 1, 1, 1). Beta(1, beta) is 1 - u^(1 / beta) for a uniform u, and Beta(beta, 1) u^(1 / beta)."""
    u = torch.rand(3, n, 1, 1, 1, generator=generator, device=generator.device)
    high = u[:2].pow(1 / BETA)
    between = u[2] < 0.5
    a = torch.where(between, high[0], 2 - high[0]).clamp_min(1e-6)  # a = 0 would make 0^a no number
    b = torch.where(between, 1 - high[1], high[1] - 1)
    return a, b


def rounds_of(n: int, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """How many rounds the image at each of n places has, float (n,), rising from 0 to k; and for each round the first
    place that may have it, where the host must know how many that are.

    A place drawn at random has every number of rounds with the same probability, 1 / (k + 1).
    """
    place = torch.arange(n, device=generator.device)
    shift = torch.rand(1, generator=generator, device=generator.device)
    rounds = ((place + shift) * ((ROUNDS + 1) / n)).floor()
    return rounds, [max(0, math.ceil(r * n / (ROUNDS + 1)) - 1) for r in range(1, ROUNDS + 1)]


def pixmix(images: Tensor, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Images mixed with their pictures.

    They are put into a random order in which those of more rounds come later, so that each round is a slice.

    Args:
        images: uint8 (N, H, W, channels).
        pictures: uint8 (N, channels, H, W).

    Returns:
        uint8 (N, H, W, channels), a new tensor.
    """
    n, device = len(images), images.device
    order = torch.randperm(n, generator=generator, device=device)
    x = _planes(images.index_select(0, order).permute(0, 3, 1, 2))
    rounds, firsts = rounds_of(n, generator)
    start = choose(n, 2, generator)
    choices = [choose(n - first, 4, generator) for first in firsts]
    copied = [start.members[0], *(c.members[:2].flatten() + first for c, first in zip(choices, firsts, strict=True))]
    copies = varied(x, torch.cat(copied), generator).split([len(rows) for rows in copied])
    mixed = torch.cat([copies[0], x.index_select(0, start.members[1])]).index_select(0, start.places)
    for r, (choice, first, copy) in enumerate(zip(choices, firsts, copies[1:], strict=True), 1):
        rows = choice.members.flatten() + first
        a, b = weights(len(rows), generator)
        takes_part = (rounds[rows] >= r).view(a.shape)
        a, b = torch.where(takes_part, a, 1), torch.where(takes_part, b, 0)  # else x = 1 x + 0 m
        made = mixed.index_select(0, rows)
        shown = _planes(pictures.index_select(0, order[rows[len(copy) :]]))
        others = (*copy.chunk(2), *shown.chunk(2))
        quarters = zip((add_, multiply_, add_, multiply_), made.chunk(4), others, a.chunk(4), b.chunk(4), strict=True)
        for mixer, *quarter in quarters:  # what is worked on at once stays in the cache
            mixer(*quarter).clamp_(0, WHITE)
        torch.index_select(made, 0, choice.places, out=mixed[first:])
    made = mixed.add_(0.5).to(torch.uint8)  # rounded
    return made.index_select(0, order.argsort()).permute(0, 2, 3, 1).contiguous()


def _planes(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format)


@register_step
class PixMix(Step):
    """`pixmix` with the pictures given, or with some that the program draws, 2,000 or fewer, once for a training."""

    name = "pixmix"
    summary = "Mixed up to 4 times with drawn fractals and patterns, or with varied copies of itself."
    source = "Hendrycks et al., CVPR 2022"
    elaborate = True

    def __init__(self, context: AugmentContext) -> None:
        super().__init__(context)
        height, width = picture_sides(context.height, context.width)
        given = context.pictures
        pictures = drawn_pictures(height, width, context.channels, context.seed) if given is None else given
        self.pictures = pictures.to(context.device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.pictures), (len(images),), generator=generator, device=images.device)
        return pixmix(images, cut(self.pictures, which, images.shape[1], images.shape[2], generator), generator)
