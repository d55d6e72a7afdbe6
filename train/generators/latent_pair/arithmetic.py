"""What DMR does with latents w (N, L, d) of a pair: class means, marginals, mixtures, and where their 0 is.

    mu_y = mean of E(x) over class y          w_mar = w - mu_y          1/k sum_i w_i

A generator's own 0 is where its training happened to put it: our pair's encodings lie about as far from it as they
spread, and what G makes of w - mu_y is then nothing that G was ever trained on. So 0 is taken to be the mean latent m:
G(w - mu_y) is ``generate(w - mu_y + m)``, and shifting a generator's latents changes no image.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.data import ImageData

from ...cache.keyed import images_identity, keyed_path, model_identity
from ...cache.pieces import read_piece
from ...engine.loader import Feed
from ...engine.progress import progress_bar
from .base import Pair, SamplingPair

ENCODED_AT_ONCE = 128
DRAWS_PER_CLASS = 2000


class Moments(NamedTuple):
    """Means of latents: of each class (C, L, d), and of all (L, d)."""

    classes: Tensor
    origin: Tensor


def classes_to_mix(k: int, num_classes: int) -> int:
    """min(k, C - 1), and 2 where C = 2."""
    return max(2, min(k, num_classes - 1))


def marginal(w: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """w - mu_y: what is left of latents (N, L, d) of classes (N,) without their class's mean, of means (C, L, d)."""
    return w - means[labels]


def mixed(w: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Means (K, L, d) of the latents w (N, L, d) that index (K, k) names, of those that are valid (K, k)."""
    weights = valid.to(w.dtype) / valid.sum(-1, keepdim=True)
    return torch.einsum("kj,kjld->kld", weights, w[index])


def class_means(pair: Pair, data: ImageData, device: torch.device) -> Tensor:
    """mu_y (C, L, d): the mean of E(x) over each class of `data`, summed in float64."""
    feed, num_classes = Feed(data), len(data.class_names)
    total: Tensor | None = None
    counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
    with progress_bar("class means", -(-len(feed) // ENCODED_AT_ONCE)) as advance:
        for batch in feed.batches(torch.arange(len(feed)), ENCODED_AT_ONCE, device):
            one_hot = torch.nn.functional.one_hot(batch.labels, num_classes).double()
            part = torch.einsum("nc,nld->cld", one_hot, pair.encode(batch.images).double())
            total, counts = part if total is None else total + part, counts + one_hot.sum(0)
            advance()
    assert total is not None  # data sets have images
    return (total / counts.clamp_min(1)[:, None, None]).float()


def encoded_moments(pair: Pair, data: ImageData, device: torch.device, folder: Path) -> Moments:
    """Those of E(x), x the images of `data`; kept in `folder` for this pair and these rows."""
    identity = {"pair": model_identity(pair), **images_identity(data)}
    path = keyed_path(folder, "class_means", identity)
    if path.exists():
        means = read_piece(path, "means")["means"].to(device)
    else:
        means = class_means(pair, data, device)
        write_atomic(path, save({"means": means.cpu().contiguous()}))
    labels = torch.as_tensor(data.labels, dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(means)).to(device, torch.float64)
    origin = torch.einsum("c,cld->ld", counts / counts.sum(), means.double())
    return Moments(means, origin.float())


def drawn_moments(pair: SamplingPair, num_classes: int, device: torch.device) -> Moments:
    """Those of the generator itself: of `pair.sample` over draws of each class.

    StyleGAN's class-average w is the running version of the same mean.
    """
    generator = torch.Generator(device).manual_seed(0)
    means = []
    for c in range(num_classes):
        labels = torch.full((DRAWS_PER_CLASS,), c, device=device)
        means.append(pair.sample(labels, generator).double().mean(0))
    stacked = torch.stack(means)
    return Moments(stacked.float(), stacked.mean(0).float())
