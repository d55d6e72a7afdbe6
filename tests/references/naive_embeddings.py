"""Dream-OOD's and BOOD's embeddings as one would write them first: one feature at a time, all distances sorted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def boundary_embeddings(
    features: np.ndarray,
    noises: list[np.ndarray],
    centres: list[list[int]],
    *,
    k: int,
    select: int,
    sigma: float,
    keep: int,
    length: float,
    inlier: bool,
) -> np.ndarray:
    """Embeddings (repeats * pick * keep, E) around features (n, E) of one class, in float64.

    Args:
        noises: of each repeat, (n_noise, E) standard normal numbers.
        centres: of each repeat, which of the boundary rows (ascending) are picked, in order.
        length: of the embeddings.
    """
    z = features / np.linalg.norm(features, axis=1, keepdims=True)

    def kth(v: np.ndarray) -> float:
        return float(np.sort(((z - v) ** 2).sum(1))[k - 1])

    sign = 1 if inlier else -1
    sparse = np.array([kth(row) for row in z])
    boundary = np.sort(np.argsort(sign * sparse, kind="stable")[:select])
    made = []
    for noise, picked in zip(noises, centres, strict=True):
        for which in picked:
            candidates = z[boundary[which]] + sigma * noise
            candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
            distances = np.array([kth(candidate) for candidate in candidates])
            made.append(candidates[np.argsort(sign * distances, kind="stable")[:keep]])
    return length * np.concatenate(made)


def push(z: Tensor, label: int, anchors: Tensor, step: float, temperature: float) -> Tensor:
    """One step of one feature z (E,) along the sign of the gradient of its loss, by autograd; then at unit length."""
    z = z.clone().requires_grad_()
    logits = F.cosine_similarity(z[None], anchors) / temperature
    F.cross_entropy(logits[None], torch.tensor([label])).backward()
    assert z.grad is not None
    with torch.no_grad():
        return F.normalize(z + step * z.grad.sign(), dim=0)


def crossing(
    z: Tensor, label: int, anchors: Tensor, step: float, temperature: float, most: int, further: int
) -> tuple[int, Tensor]:
    """Steps until another anchor is the nearest (-1: not within `most`), and the feature `further` steps beyond."""
    z, steps = F.normalize(z, dim=0), 0
    while F.cosine_similarity(z[None], anchors).argmax() == label:
        if steps == most:
            steps = -1
            break
        z, steps = push(z, label, anchors, step, temperature), steps + 1
    for _ in range(further):
        z = push(z, label, anchors, step, temperature)
    return steps, z
