"""Embeddings beyond the edge of a class's features. Source: FodFoM, Chen et al., ACM MM 2024.

    m = mean of the class's features f;   edge = the share of them that is least like m
    e_k = f + k step (f - m),   k = 1 .. outward,   f on the edge

In the official code the direction is a number, |f - m|, that is added to every coordinate: e_k = f + k step |f - m| 1,
with step 3e-5. That moves a feature of 768 coordinates by at most 0.004 |f - m|, and so does 3e-5 along the vector f -
m, as the paper has it, by less still: what is decoded there are the edge features themselves. Along the vector the
default step is therefore 0.2, which takes the last of five to twice the distance.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.record import Record, option

SHRINKAGE = 0.1  # of a covariance: with fewer features than coordinates all would be equally far


class EdgeOptions(Record):
    """Which features are the edge of their class, and how far beyond it embeddings lie."""

    share: float = option(0.2, "Share of a class's features, least like their mean, that are its edge.", gt=0, le=1)
    by: Literal["cosine", "mahalanobis"] = option(
        "cosine", "How likeness to the mean is measured; the official code takes Mahalanobis for CIFAR-10."
    )
    outward: int = option(5, "Embeddings per edge feature, each a step farther out.", ge=1)
    step: float = option(0.2, "Step between them, in distances from the mean.", gt=0)


class Beyond(NamedTuple):
    """Points (M, D) beyond the edges, and the classes int64 (M,) whose edges they are."""

    data: Tensor
    classes: Tensor


def beyond_edges(features: Tensor, labels: Tensor, num_classes: int, options: EdgeOptions) -> Beyond:
    """`outward` points for every feature on its class's edge; every class has features.

    Args:
        features: (N, D), of any length. labels: int64 (N,).
    """
    made = [beyond_edge(features[labels == c], options) for c in range(num_classes)]
    classes = [labels.new_full((len(points),), c) for c, points in enumerate(made)]
    return Beyond(torch.cat(made), torch.cat(classes))


def beyond_edge(features: Tensor, options: EdgeOptions) -> Tensor:
    """The points of one class, (M, D), of its features (n, D); those of one edge feature follow each other."""
    mean = features.mean(0)
    count = max(1, round(options.share * len(features)))
    edge = features[likeness(features, mean, options.by).argsort(stable=True)[:count]]
    direction = edge - mean
    k = torch.arange(1, options.outward + 1, device=features.device, dtype=features.dtype)
    return (edge[:, None] + k[:, None] * options.step * direction[:, None]).flatten(0, 1)


def likeness(features: Tensor, mean: Tensor, by: Literal["cosine", "mahalanobis"]) -> Tensor:
    """How like the mean (D,) each of the features (n, D) is, (n,): the cosine, or minus the squared Mahalanobis
    distance, under a covariance that is shrunk by a tenth towards a multiple of the identity."""
    if by == "cosine":
        return F.cosine_similarity(features, mean[None], dim=-1)
    centred = (features - mean).double()
    covariance = centred.T @ centred / max(1, len(features) - 1)
    width = covariance.shape[0]
    spread = covariance.diagonal().sum() / width
    eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    shrunk = (1 - SHRINKAGE) * covariance + (SHRINKAGE * spread).clamp_min(1e-12) * eye
    distance: Tensor = (centred * torch.linalg.solve(shrunk, centred.T).T).sum(-1)
    return -distance.to(features.dtype)
