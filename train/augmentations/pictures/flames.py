"""Attractors of random iterated function systems, played as a chaos game by many points at once.

A system is 2 .. 6 affine maps x -> A_i x + b_i, A_i = R(theta) diag(s_1, s_2) R(phi); half of the systems bend the
plane after each map (a swirl, sines, an inversion), as fractal flames do. A point goes through a map drawn at random,
again and again; what it visits is the attractor. Its colour is a running mean of the maps that it went through.
Sources: Barnsley, Fractals Everywhere, 1988; Draves & Reckase, The fractal flame algorithm, 2003. Singular values are
drawn near the sums that Anderson & Farrell (WACV 2022) found to give neither dust nor a blot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .colours import noise, palettes, uniform

MOST_MAPS = 6
TRIES = 32  # systems drawn for each one that is kept
UNSEEN, SEEN = 12, 28  # steps of a point
POINTS = 2**13  # at most, of a picture
FAR = 1e3  # a point that came so far begins anew


def flames(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """float (B, 3, h, w) in [0, 1]: attractors before backgrounds of other colours."""
    systems = _systems(count, generator)
    points = uniform((count, min(max(height * width // 4, 256), POINTS), 2), -1, 1, generator)
    colour = torch.rand(points.shape[:2], generator=generator)
    for _ in range(UNSEEN):
        points, colour = _step(points, colour, systems, generator)
    # the picture shows about two deviations around the middle
    middle = points.median(1, keepdim=True).values
    spread = (points - middle).abs().quantile(uniform((), 0.8, 0.97, generator).item(), dim=1, keepdim=True)
    zoom = uniform((count, 1, 1), 0.9, 1.4, generator) * spread.clamp_min(1e-3)
    size = torch.tensor([width, height])
    hits = torch.zeros(count, height * width)
    of_colour = torch.zeros(count, height * width)
    for _ in range(SEEN):
        points, colour = _step(points, colour, systems, generator)
        at = ((points - middle) / zoom + 1) / 2 * size
        inside = ((at >= 0) & (at < size)).all(-1)
        at = torch.where(inside[..., None], at, 0).long()
        pixel = at[..., 1] * width + at[..., 0]
        hits.scatter_add_(1, pixel, inside.float())
        of_colour.scatter_add_(1, pixel, inside * colour)
    return _painted(hits.view(-1, height, width), of_colour.view(-1, height, width), generator)


def _painted(hits: Tensor, of_colour: Tensor, generator: torch.Generator) -> Tensor:
    """The more often a pixel was visited, the less of the background shines through; brightness is logarithmic."""
    count, height, width = hits.shape
    density = (1 + hits).log()
    top = density.flatten(1).quantile(0.98, dim=1)[:, None, None].clamp_min(1e-3)
    density = (density / top).clamp(0, 1)
    t = of_colour / hits.clamp_min(1)
    front = palettes(count, generator)(t + uniform((count, 1, 1), 0.2, 1, generator) * density)
    power = uniform((count,), 1.2, 2.2, generator)
    behind = palettes(count, generator)(0.25 * noise(count, height, width, power, generator))
    behind = behind * uniform((count, 1, 1, 1), 0, 1, generator)  # from black to bright
    opaque = density[:, None].pow(uniform((count, 1, 1, 1), 0.2, 0.7, generator))
    return opaque * front + (1 - opaque) * behind


def _systems(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (B, 6, 6) as rows (a, b, c, d, e, f), how likely each is, cumulated (B, 6), and the bend (B,)."""
    maps = torch.randint(2, MOST_MAPS + 1, (count, 1), generator=generator)
    exists = torch.arange(MOST_MAPS) < maps  # (B, 6)
    s = uniform((count, TRIES, MOST_MAPS, 2), 0.05, 0.98, generator).sort(-1, descending=True).values
    total = ((s[..., 0] + 2 * s[..., 1]) * exists[:, None]).sum(-1)  # (B, tries)
    wanted = (5 + maps + torch.rand(count, 1, generator=generator)) / 2
    best = (total - wanted).abs().argmin(1)
    s = s[torch.arange(count), best]  # (B, 6, 2)
    theta, phi = uniform((2, count, MOST_MAPS), 0, 2 * math.pi, generator)
    sign = torch.randint(0, 2, (count, MOST_MAPS), generator=generator) * 2 - 1.0
    shift = uniform((count, MOST_MAPS, 2), -1, 1, generator)
    left = torch.stack(
        [theta.cos() * s[..., 0], -theta.sin() * s[..., 1], theta.sin() * s[..., 0], theta.cos() * s[..., 1]]
    )
    a = left[0] * phi.cos() + left[1] * phi.sin() * sign
    b = -left[0] * phi.sin() + left[1] * phi.cos() * sign
    d = left[2] * phi.cos() + left[3] * phi.sin() * sign
    e = -left[2] * phi.sin() + left[3] * phi.cos() * sign
    weight = (s.prod(-1) + 0.05) * exists
    rows = torch.stack([a, b, shift[..., 0], d, e, shift[..., 1]], -1)
    bend = torch.randint(0, 6, (count,), generator=generator)  # 0 .. 2: none
    return rows, (weight / weight.sum(1, keepdim=True)).cumsum(1), bend


def _step(
    points: Tensor, colour: Tensor, systems: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Every point (B, P, 2) through a map of its picture's."""
    rows, likely, bend = systems
    which = torch.searchsorted(likely, torch.rand(colour.shape, generator=generator)).clamp_max(MOST_MAPS - 1)
    m = rows.gather(1, which[..., None].expand(-1, -1, 6))
    x = m[..., 0] * points[..., 0] + m[..., 1] * points[..., 1] + m[..., 2]
    y = m[..., 3] * points[..., 0] + m[..., 4] * points[..., 1] + m[..., 5]
    points = _bent(torch.stack([x, y], -1), bend)
    lost = ~(points.abs() < FAR).all(-1, keepdim=True)
    points = torch.where(lost, torch.rand(points.shape, generator=generator), points)
    return points, (colour + which / (MOST_MAPS - 1)) / 2


def _bent(points: Tensor, bend: Tensor) -> Tensor:
    """The plane as it is, or through sines, an inversion or a swirl, for each picture."""
    bend = bend[:, None, None]
    square = (points**2).sum(-1, keepdim=True)
    x, y = points[..., :1], points[..., 1:]
    swirl = torch.cat([x * square.sin() - y * square.cos(), x * square.cos() + y * square.sin()], -1)
    bent = torch.where(bend == 3, points.sin() * 1.3, points)
    bent = torch.where(bend == 4, points / (square + 0.1), bent)
    return torch.where(bend == 5, swirl, bent)
