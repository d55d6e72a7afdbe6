"""Embeddings of images in a diffusion model's own conditioning space, by prompt tuning. Source: NCIS (methods.md A5).

    e <- T(y);   `iterations` times one step of Adam on e, of
        mean over `pairs` of |eps - eps_theta(x_t, t, e)|^2  +  prior |e - T(y)|^2
    with t from {1, 21, ..., 981} and eps ~ N(0, I)

Every image has an optimizer of its own. Adam works on each number by itself, so one Adam over the rows e (N, E) is the
same as N of them, and all images of a batch share the passes through the network.

The step belongs to Stable Diffusion's token embeddings, whose numbers are about 0.014 large. In a space of another
scale it would go next to nowhere or out of the world, so steps are taken in units of the anchors T(y): an e of ours is
scale * u, where u is as large as a token embedding, and `embed_lr` is a step of u (`conditioning_scale`).

An image's random numbers come from the seed and its own row, so that its embedding does not depend on which others are
embedded with it or how they are divided into batches.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from guard.data import ImageData
from guard.errors import ConfigError
from guard.record import Record, option

from ...cache.pieces import ALONE, kept_chunks
from ...engine.adaptive_batches import Batches
from ...engine.distributed import Processes
from ...generators.diffusion import Diffusion
from ..base import PrepareContext

log = logging.getLogger("ood_guard")

TOKEN_RMS = 0.014  # of a number in Stable Diffusion 1.x's token embeddings: norm 0.39 over 768
GRID = 50  # DDIM steps, which tuning takes its times from
BLOCK = 256  # images per file; a kill loses at most these
EVEN = 0.1  # of the times that a step looks at, whatever their gradients
SHARED = 16  # images that say where the gradients are large
PROBED = 4  # images that tell one diffusion model from another
ROWS, PIXELS = 256, 2**20  # at once at most
PROMPT = "An image of a {}"
IMAGES = 16  # tuned together at least, so that few rows at once are always as many


class EmbedOptions(Record):
    """How images are embedded. The official procedure is `embed_pairs=32, embed_lr=0.01, embed_times="random"`; the
    defaults reach a lower held-out denoising loss with 18 calls of the network than it does with 96
    (benchmarks/results/embedding_cost.md).

    Attributes:
        embed_iterations: steps of Adam per image.
        embed_pairs: calls of the network (one noise at one time each) per step.
        embed_lr: Adam's, in units of a token embedding of Stable Diffusion.
        embed_prior: weight of |e - T(y)|^2. Published: 0, as starting there and stopping soon is the prior.
        embed_times: "random" draws them; "stratified" takes one of each of `embed_pairs` equal stretches of the grid,
            and other ones in every step; "importance" does so where times with a large gradient have more of the
            stretches and less weight (`time_shares`).
        embed_noise: "antithetic" takes every noise with both signs, at one time.
        embed_scale: what the anchors are in units of a token embedding. None: 1 for Stable Diffusion, else measured.
        embed_per_class: images of each class that are embedded; None: all. A few hundred do: the Gaussian of a class
            in E dimensions wants some more than E of them, and what more of them give is little (Fig. 5d of the paper).
        embed_batch: rows (one noise for one image each) that go through the network and back at once. None: as many as
            have 2^20 pixels in all, at the size of the model's own images, and at most 256: 4 of 512 x 512 (Stable
            Diffusion 1), 256 up to 64 x 64. Halved, and halved again, where the device's memory does not suffice.
        embed_prompt: what Stable Diffusion is told that an image is while its e is tuned; {} is the class's name. None:
            `prompt`, which it is asked for when it samples.
    """

    embed_iterations: int = Field(default=3, ge=0)
    embed_pairs: int = Field(default=6, ge=1)
    embed_lr: float = Field(default=5e-3, gt=0)
    embed_prior: float = Field(default=0.0, ge=0)
    embed_times: Literal["random", "stratified", "importance"] = "importance"
    embed_noise: Literal["independent", "antithetic"] = "independent"
    embed_scale: float | None = Field(default=None, gt=0)
    embed_per_class: int | None = Field(default=None, ge=2)
    embed_batch: int | None = option(None, "Rows that go through the network and back at once.", knob=True, ge=1)
    embed_prompt: str | None = PROMPT

    @field_validator("embed_prompt")
    @classmethod
    def _with_a_place_for_the_name(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{}" not in prompt:
            raise ConfigError(f"embed_prompt={prompt!r} has no place for the class's name; put {{}} where it belongs")
        return prompt


class Embedded(NamedTuple):
    """Embeddings e (N, E), float32, the classes (N,) they are of, and the rows (N,) of the data."""

    e: Tensor
    classes: Tensor
    rows: Tensor


def tuning_prompt(options: EmbedOptions) -> str | None:
    """The prompt in which e stands for the class's name while it is tuned; None where the options name no model."""
    prompt: str | None = getattr(options, "prompt", None)
    if getattr(options, "diffusion", None) == "stable-diffusion":
        return options.embed_prompt or prompt
    return prompt


def conditioning_scale(diffusion: Diffusion, classes: int, device: torch.device, options: EmbedOptions) -> float:
    """How many times as large as a token embedding of Stable Diffusion this model's anchors are."""
    if options.embed_scale is not None:
        return options.embed_scale
    if getattr(options, "diffusion", None) == "stable-diffusion":
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
    steps, n, device = options.embed_iterations, options.embed_pairs, generator.device
    antithetic = options.embed_noise == "antithetic"
    distinct = -(-n // 2) if antithetic else n
    u = torch.rand(steps, distinct, generator=generator, device=device)
    if options.embed_times != "random":
        order = torch.rand(steps, distinct, generator=generator, device=device).argsort(0)
        u = (torch.arange(distinct, device=device) + (order + u) / max(1, steps)) / distinct
    return torch.cat([u, u], 1)[:, :n] if antithetic else u


def drawn_noise(shape: tuple[int, ...], options: EmbedOptions, generator: torch.Generator) -> Tensor:
    """The noises of one step for one image, (pairs, *shape); "antithetic": the second half is the first's negative."""
    n, antithetic = options.embed_pairs, options.embed_noise == "antithetic"
    noise = torch.randn(-(-n // 2) if antithetic else n, *shape, generator=generator, device=generator.device)
    return torch.cat([noise, -noise])[:n] if antithetic else noise


def row_batches(diffusion: Diffusion, embed_batch: int | None = None) -> Batches:
    """Rows of the network at once: `embed_batch`, or what suits the size of the model's images (`EmbedOptions`)."""
    height, width = diffusion.own_size
    return Batches(embed_batch or min(ROWS, max(1, PIXELS // (height * width))))


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
    device, n, k = latents.device, len(latents), options.embed_pairs
    batches = batches or row_batches(diffusion, options.embed_batch)
    anchors = diffusion.condition(classes).detach()
    e = anchors.clone()
    optimizer = torch.optim.Adam([e], lr=options.embed_lr * scale)
    times = time_grid(diffusion.times).to(device)
    p = (torch.full((GRID,), 1 / GRID, dtype=torch.float64) if shares is None else shares).to(device)
    plans = torch.stack([planned(options, generator) for generator in generators], 1)  # (iterations, N, pairs)
    at = torch.searchsorted(p.cumsum(0), plans.double(), right=True).clamp_max(GRID - 1)
    weights = (1 / (GRID * p)).float()[at] / k
    image = torch.arange(n, device=device).repeat_interleave(k)  # of each row
    losses = []
    for step in range(options.embed_iterations):
        noise = torch.cat([drawn_noise(tuple(latents.shape[1:]), options, generator) for generator in generators])
        rows = latents[image], e[image], classes[image], times[at[step]].flatten(), noise
        loss, gradient = loss_and_gradient(diffusion, batches, *rows)
        e.grad = (weights[step, :, :, None] * gradient.view(n, k, -1)).sum(1)
        e.grad += 2 * options.embed_prior * (e - anchors) / scale**2
        optimizer.step()
        losses.append((weights[step] * loss.view(n, k)).sum(1))
    kept = torch.stack([losses[0], losses[-1]]) if losses else torch.zeros(2, n, device=device)
    return e.detach(), kept  # without its .grad


def embed_images(
    diffusion: Diffusion, context: PrepareContext, options: EmbedOptions, us: Processes = ALONE
) -> Embedded:
    """Embeddings of the context's images, or of `embed_per_class` of each class, kept in its folder in blocks.

    A block is written whole or not at all; what a killed run has made is not made again, and a finished folder is
    read. Its name holds a digest of everything that decides the embeddings, the model among it. Where several
    processes call this at once, each makes its share of the blocks (`us`).

    Args:
        diffusion: where it has a prompt, told `tuning_prompt`.

    Raises:
        ArtefactDamagedError: a block cannot be read.
    """
    data, device = context.data, context.device
    scale = conditioning_scale(diffusion, len(data.class_names), device, options)
    rows = chosen_rows(data, options.embed_per_class, context.seed)
    folder = context.folder / f"embeddings-{_digest(diffusion, context, options, rows, scale)}"
    blocks = np.array_split(rows, range(BLOCK, len(rows), BLOCK))
    batches = row_batches(diffusion, options.embed_batch)
    shares = functools.cache(lambda: _shares(diffusion, context, options, batches))  # where something is left to embed

    def make(number: int) -> dict[str, Tensor]:
        return _block(diffusion, context, options, scale, shares(), batches, blocks[number])

    made = kept_chunks(folder, len(blocks), make, "embeddings", us)
    _report(made["e"], made["anchors"], made["losses"])
    assert data.labels is not None  # checked when the data was loaded for training
    return Embedded(made["e"], torch.from_numpy(data.labels[rows].copy()), torch.from_numpy(rows))


def chosen_rows(data: ImageData, per_class: int | None, seed: int) -> np.ndarray:
    """Indices of the images to embed, ascending: all, or `per_class` random ones of each class."""
    assert data.labels is not None
    if per_class is None:
        return np.arange(len(data))
    order = np.random.default_rng([seed, 0xE3BED]).permutation(len(data))
    taken = [order[data.labels[order] == c][:per_class] for c in range(len(data.class_names))]
    return np.sort(np.concatenate(taken))


def _shares(diffusion: Diffusion, context: PrepareContext, options: EmbedOptions, batches: Batches) -> Tensor | None:
    """`time_shares` by some of all images, whichever are embedded."""
    data, device = context.data, context.device
    if options.embed_times != "importance":
        return None
    assert data.labels is not None
    some = np.unique(np.linspace(0, len(data) - 1, SHARED).astype(np.int64))
    latents = diffusion.encode(torch.from_numpy(data.take(some).copy()).to(device))
    classes = torch.from_numpy(data.labels[some].copy()).to(device)
    return time_shares(diffusion, latents, classes, torch.Generator(device).manual_seed(context.seed), batches)


def _block(
    diffusion: Diffusion,
    context: PrepareContext,
    options: EmbedOptions,
    scale: float,
    shares: Tensor | None,
    batches: Batches,
    block: np.ndarray,
) -> dict[str, Tensor]:
    """e, T(y) (b, E) and losses (b, 2) of the images at `block` (b,)."""
    data, device = context.data, context.device
    assert data.labels is not None
    latents = diffusion.encode(torch.from_numpy(data.take(block).copy()).to(device))
    classes = torch.from_numpy(data.labels[block].copy()).to(device)
    seeds = [np.random.SeedSequence([context.seed, int(data.rows[i]), 0xE3BED]) for i in block]
    generators = [torch.Generator(device).manual_seed(int(s.generate_state(1, np.uint64)[0] >> 1)) for s in seeds]
    e, losses = [], []
    for part in torch.arange(len(block)).split(max(IMAGES, batches.size // options.embed_pairs)):
        mine = [generators[i] for i in part.tolist()]
        vectors, loss = tuned(diffusion, latents[part], classes[part], mine, options, scale, shares, batches)
        e.append(vectors)
        losses.append(loss.T)
    return {"e": torch.cat(e), "anchors": diffusion.condition(classes).detach(), "losses": torch.cat(losses)}


def _digest(
    diffusion: Diffusion, context: PrepareContext, options: EmbedOptions, rows: np.ndarray, scale: float
) -> str:
    """Of options, seed, images and model: its anchors, and what it says of a few noisy images."""
    data, device = context.data, context.device
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(data.take(rows[:PROBED]).copy()).to(device)
    classes = torch.arange(len(images), device=device) % len(data.class_names)
    with torch.no_grad():
        latents, e = diffusion.encode(images), diffusion.condition(classes)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = torch.full((len(images),), diffusion.times // 4, device=device)
        said, _ = loss_and_gradient(diffusion, Batches(PROBED), latents, e, classes, times, noise)
    identity = {
        "options": {
            name: getattr(options, name)
            for name in EmbedOptions.model_fields
            if name not in ("embed_batch", "embed_prompt", "embed_scale", "embed_per_class")
        },
        "scale": f"{scale:.4g}",
        "prompt": tuning_prompt(options),
        "seed": context.seed,
        "data": data.fingerprint,
        "rows": hashlib.sha256(data.rows[rows].tobytes()).hexdigest(),
        "pixels": data.preprocess.model_dump(mode="json"),
        "model": [f"{value:.3g}" for value in [*said.tolist(), *e.mean(-1).tolist()]],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _report(e: Tensor, anchors: Tensor, losses: Tensor) -> None:
    """Log how far the embeddings went, which lr and iterations decide."""
    moved = (e - anchors).norm(dim=-1)
    first, last = losses.mean(0).tolist()
    log.info(
        "embeddings: %d images; |e - T(y)| %.3g on average, %.3g of |T(y)|; denoising loss %.4g at the first step, "
        "%.4g at the last",
        len(e),
        float(moved.mean()),
        float((moved / anchors.norm(dim=-1).clamp_min(1e-12)).mean()),
        first,
        last,
    )
