"""Embeddings of images in a diffusion model's own conditioning space, by prompt tuning. Source: NCIS, Doorenbos
et al. 2024.

    e <- T(y);   `iterations` times one step of Adam on e, of
        mean over `pairs` of |eps - eps_theta(x_t, t, e)|^2  +  prior |e - T(y)|^2
    with t from {1, 21, ..., 981} and eps ~ N(0, I)

Every image has an optimizer of its own. Adam works on each number by itself, so one Adam over the rows e (N, E) is the
same as N of them, and all images of a batch share the passes through the network.

The step belongs to Stable Diffusion's token embeddings, whose numbers are about 0.014 large. In a space of another
scale it would go next to nowhere or out of the world, so steps are taken in units of the anchors T(y): an e of ours is
scale * u, where u is as large as a token embedding, and `lr` is a step of u (`conditioning_scale`).

`image_embeddings` does so for a whole data set, in blocks that are kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import field_validator
from torch import Tensor

from guard.record import Record, option

from ...engine.adaptive_batches import Batches
from ...generators.diffusion import Diffusion, DiffusionOptions
from ...generators.diffusion.base import check_prompt

TOKEN_RMS = 0.014  # of a number in Stable Diffusion 1.x's token embeddings: norm 0.39 over 768
GRID = 50  # DDIM steps, which tuning takes its times from
EVEN = 0.1  # of the times that a step looks at, whatever their gradients
ROWS, PIXELS = 256, 2**20  # at once at most
PROMPT = "An image of a {}"


class EmbedOptions(Record):
    """How images are embedded. The official procedure is ``pairs=32, lr=0.01, times="random"``; the defaults reach a
    lower held-out denoising loss with 18 calls of the network than it does with 96
    (benchmarks/results/embedding_cost.md)."""

    iterations: int = option(3, "Steps of Adam per image.", ge=0)
    pairs: int = option(6, "Calls of the network, each with one noise at one time, per step.", ge=1)
    lr: float = option(5e-3, "Learning rate of Adam, in units of a token embedding of Stable Diffusion.", gt=0)
    prior: float = option(
        0.0, "Weight of |e - T(y)|^2; 0 as published, for the embedding starts at T(y) and soon stops.", ge=0
    )
    times: Literal["random", "stratified", "importance"] = option(
        "importance",
        "'random' draws the times; 'stratified' takes one of each of equal stretches; 'importance' has more stretches, "
        "of less weight, where gradients are large.",
    )
    noise: Literal["independent", "antithetic"] = option(
        "independent", "'antithetic' takes every noise with both signs, at one time."
    )
    scale: float | None = option(
        None, "Size of the anchors in token embeddings; default 1 for Stable Diffusion, else measured.", gt=0
    )
    per_class: int | None = option(
        None, "Images of each class that are embedded; default all; a few hundred suffice.", ge=2
    )
    batch_size: int | None = option(
        None,
        "Rows (one noise for one image each) that go through the network and back at once; default as many as have "
        "2^20 pixels, at most 256; halved where memory does not suffice.",
        ge=1,
        knob=True,
    )
    prompt: str | None = option(
        PROMPT,
        "What Stable Diffusion is told that an image is while its embedding is tuned; {} is the name of the class; "
        "None: the prompt that it is sampled with.",
    )

    @field_validator("prompt")
    @classmethod
    def _with_a_place_for_the_name(cls, prompt: str | None) -> str | None:
        if prompt is not None:
            check_prompt("prompt", prompt)
        return prompt


def tuning_prompt(options: EmbedOptions, asked: DiffusionOptions) -> str | None:
    """The prompt in which e stands for the class's name while it is tuned; None where the model takes none."""
    return (options.prompt or asked.prompt) if asked.model == "stable-diffusion" else None


def conditioning_scale(
    diffusion: Diffusion, classes: int, device: torch.device, options: EmbedOptions, asked: DiffusionOptions
) -> float:
    """How many times as large as a token embedding of Stable Diffusion this model's anchors are."""
    if options.scale is not None:
        return options.scale
    if asked.model == "stable-diffusion":
        return 1.0
    anchors = diffusion.condition(torch.arange(classes, device=device))
    return float(anchors.square().mean().sqrt()) / TOKEN_RMS


def time_grid(times: int) -> Tensor:
    """{1, 21, ..., 981} of 1,000 times, in proportion for another number of them; int64 (50,)."""
    return ((1 + 20 * torch.arange(GRID)) * times // 1000).clamp_max(times - 1)


def planned(options: EmbedOptions, generator: torch.Generator) -> Tensor:
    """Where in [0, 1) of all times an image's steps look: (iterations, pairs).

    Unless "random", each pair of a step has a stretch of its own, and each step a part of its own of every stretch.
    """
    steps, n, device = options.iterations, options.pairs, generator.device
    antithetic = options.noise == "antithetic"
    distinct = -(-n // 2) if antithetic else n
    u = torch.rand(steps, distinct, generator=generator, device=device)
    if options.times != "random":
        order = torch.rand(steps, distinct, generator=generator, device=device).argsort(0)
        u = (torch.arange(distinct, device=device) + (order + u) / max(1, steps)) / distinct
    return torch.cat([u, u], 1)[:, :n] if antithetic else u


def drawn_noise(shape: tuple[int, ...], options: EmbedOptions, generator: torch.Generator) -> Tensor:
    """The noises of one step for one image, (pairs, *shape); "antithetic": the second half is the first's negative."""
    n, antithetic = options.pairs, options.noise == "antithetic"
    noise = torch.randn(-(-n // 2) if antithetic else n, *shape, generator=generator, device=generator.device)
    return torch.cat([noise, -noise])[:n] if antithetic else noise


def row_batches(diffusion: Diffusion, batch_size: int | None = None) -> Batches:
    """Rows of the network at once: `batch_size`, or what suits the size of the model's images (`EmbedOptions`)."""
    height, width = diffusion.own_size
    return Batches(batch_size or min(ROWS, max(1, PIXELS // (height * width))))


def loss_and_gradient(
    diffusion: Diffusion,
    batches: Batches,
    latents: Tensor,
    e: Tensor,
    classes: Tensor,
    times: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """The denoising loss of each row (R,), and its gradient in the row's e (R, E), some rows at once.

    Args:
        latents, noise: (R, c, h, w). e: (R, E). classes, times: int64 (R,).

    Raises:
        torch.OutOfMemoryError: a single row is too much.
    """

    def both(latents: Tensor, e: Tensor, classes: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            e = e.detach().requires_grad_()
            loss = diffusion.noise_loss(latents, e, classes, times=times, noise=noise)
            (gradient,) = torch.autograd.grad(loss.sum(), e)  # each row's own, as none depends on another
        return torch.cat([loss.detach()[:, None], gradient], 1)

    made = batches(both, latents, e, classes, times, noise)
    return made[:, 0], made[:, 1:]


def time_shares(
    diffusion: Diffusion,
    latents: Tensor,
    classes: Tensor,
    generator: torch.Generator,
    batches: Batches | None = None,
) -> Tensor:
    """How often each time of the grid is best looked at, (50,) with sum 1: in proportion to |d loss / d e| there.

    Of the unbiased estimates of the mean gradient over the grid, by single draws with weights, this has the least
    variance. The loss of predicting noise at t = 1 is many times that of all other times, and so is its gradient: drawn
    evenly, whether t = 1 is among a step's times decides the step. A tenth is spread evenly, for norms are estimates.

    Args:
        latents: (n, c, h, w) of a few images of classes (n,); 50 calls of the network for each.
        batches: rows at once. None: `row_batches`.
    """
    batches = batches or row_batches(diffusion)
    e = diffusion.condition(classes).detach()
    norms = []
    for t in time_grid(diffusion.times).to(latents.device):
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        _, gradient = loss_and_gradient(diffusion, batches, latents, e, classes, t.expand(len(latents)), noise)
        norms.append(gradient.square().sum(-1).mean().sqrt())
    share = torch.stack(norms).double().clamp_min(1e-30)
    return EVEN / GRID + (1 - EVEN) * share / share.sum()


def tuned(
    diffusion: Diffusion,
    latents: Tensor,
    classes: Tensor,
    generators: list[torch.Generator],
    options: EmbedOptions,
    scale: float,
    shares: Tensor | None = None,
    batches: Batches | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings e (N, E) of latents (N, c, h, w), and their loss at the first step and the last (2, N).

    Args:
        classes: int64 (N,).
        generators: one per image.
        scale: `conditioning_scale`.
        shares: `time_shares`, which every loss is divided by; None: all times alike.
        batches: rows at once, of one image or several. None: `row_batches`.
    """
    device, n, k = latents.device, len(latents), options.pairs
    batches = batches or row_batches(diffusion, options.batch_size)
    anchors = diffusion.condition(classes).detach()
    e = anchors.clone()
    optimizer = torch.optim.Adam([e], lr=options.lr * scale)
    times = time_grid(diffusion.times).to(device)
    p = (torch.full((GRID,), 1 / GRID, dtype=torch.float64) if shares is None else shares).to(device)
    plans = torch.stack([planned(options, generator) for generator in generators], 1)  # (iterations, N, pairs)
    at = torch.searchsorted(p.cumsum(0), plans.double(), right=True).clamp_max(GRID - 1)
    weights = (1 / (GRID * p)).float()[at] / k
    image = torch.arange(n, device=device).repeat_interleave(k)  # of each row
    losses = []
    for step in range(options.iterations):
        noise = torch.cat([drawn_noise(tuple(latents.shape[1:]), options, generator) for generator in generators])
        rows = latents[image], e[image], classes[image], times[at[step]].flatten(), noise
        loss, gradient = loss_and_gradient(diffusion, batches, *rows)
        e.grad = (weights[step, :, :, None] * gradient.view(n, k, -1)).sum(1)
        e.grad += 2 * options.prior * (e - anchors) / scale**2
        optimizer.step()
        losses.append((weights[step] * loss.view(n, k)).sum(1))
    kept = torch.stack([losses[0], losses[-1]]) if losses else torch.zeros(2, n, device=device)
    return e.detach(), kept  # without its .grad
