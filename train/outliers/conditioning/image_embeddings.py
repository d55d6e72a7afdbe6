"""Prompt-tuned embeddings of the training images (`prompt_tuning`), in blocks that are kept and shared by processes.

An image's random numbers come from the seed and its own row, so that its embedding does not depend on which others are
embedded with it or how they are divided into batches.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData

from ...cache.keyed import images_identity, keyed_path, model_identity
from ...cache.pieces import ALONE, kept_chunks
from ...engine.adaptive_batches import Batches
from ...engine.distributed import Processes
from ...generators.diffusion import Diffusion, DiffusionOptions
from ..base import PrepareContext
from .prompt_tuning import EmbedOptions, conditioning_scale, row_batches, time_shares, tuned, tuning_prompt

log = logging.getLogger("ood_guard")

BLOCK = 256  # images per file; a kill loses at most these
SHARED = 16  # images that say where the gradients are large
IMAGES = 16  # tuned together at least, so that few rows at once are always as many


class Embedded(NamedTuple):
    """Embeddings e (N, E), float32, the classes (N,) they are of, and the rows (N,) of the data."""

    e: Tensor
    classes: Tensor
    rows: Tensor


def embed_images(
    diffusion: Diffusion,
    context: PrepareContext,
    options: EmbedOptions,
    asked: DiffusionOptions,
    us: Processes = ALONE,
) -> Embedded:
    """Embeddings of the context's images, or of `per_class` of each class, kept in its folder in blocks.

    A block is written whole or not at all; what a killed run has made is not made again, and a finished folder is
    read. Its name holds a digest of everything that decides the embeddings, the model among it. Where several
    processes call this at once, each makes its share of the blocks (`us`).

    Args:
        diffusion: where it has a prompt, told `tuning_prompt`. asked: the options that it was made by.

    Raises:
        ArtefactDamagedError: a block cannot be read.
    """
    data, device = context.data, context.device
    scale = conditioning_scale(diffusion, len(data.class_names), device, options, asked)
    rows = chosen_rows(data, options.per_class, context.seed)
    identity = _identity(diffusion, context, options, asked, rows)
    folder = keyed_path(context.folder, "embeddings", identity, "")
    blocks = np.array_split(rows, range(BLOCK, len(rows), BLOCK))
    batches = row_batches(diffusion, options.batch_size)
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
    if options.times != "importance":
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
    for part in torch.arange(len(block)).split(max(IMAGES, batches.size // options.pairs)):
        mine = [generators[i] for i in part.tolist()]
        vectors, loss = tuned(diffusion, latents[part], classes[part], mine, options, scale, shares, batches)
        e.append(vectors)
        losses.append(loss.T)
    return {"e": torch.cat(e), "anchors": diffusion.condition(classes).detach(), "losses": torch.cat(losses)}


def _identity(
    diffusion: Diffusion, context: PrepareContext, options: EmbedOptions, asked: DiffusionOptions, rows: np.ndarray
) -> dict[str, Any]:
    """What determines the embeddings: options, seed, images, and the weights of the model."""
    return {
        "options": options.model_dump(mode="json", exclude={"batch_size", "prompt", "per_class"}),
        "prompt": tuning_prompt(options, asked),
        "seed": context.seed,
        "classes": context.data.class_names,
        "model": model_identity(diffusion),
        **images_identity(context.data, rows),
    }


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
