"""Embeddings of features that are pushed over the decision boundary. Source: BOOD, Liao et al., ICML 2025.

    z = h / |h|;   z <- unit(z + alpha sign(dL/dz)),   L = -log softmax_c( cos(z, T(c)) / t )_y
    steps = how many until argmax_c cos(z, T(c)) != y: the fewer, the nearer the boundary
    of each class the share r with the fewest steps;   they take c steps more;   e = |T(y)| z

There is no official code. Our readings: z goes back to unit length in every step, e is as long as the anchor. A feature
that lies with another class before the first step (a hard or mislabelled image) says nothing of the distance, and is
taken only where a class has too few others; one that never crosses comes last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guard.heads import unit
from guard.record import option

from .boundary import ScaleOptions
from .encoder import Features
from .table import Embeddings, Values, width_factor

ROWS = 8192  # features that are pushed at once


class CrossingOptions(ScaleOptions):
    """BOOD's published values."""

    step: float = option(0.015, "Step per coordinate, on features of unit length.", gt=0)
    further_steps: int = option(2, "Steps beyond the boundary.", ge=0)
    share: float = option(
        0.05, "Share of a class's features, those nearest the boundary, that are decoded.", gt=0, le=1
    )
    most_steps: int = option(100, "Steps after which a feature that has not crossed is given up.", ge=1)

    def step_in(self, width: int) -> float:
        """alpha in a space of that width."""
        return self.step * (width_factor(width) if self.scale_to_width else 1.0)


def pushed(z: Tensor, labels: Tensor, directions: Tensor, step: float, temperature: float) -> Tensor:
    """One step of unit rows z (N, E) away from their classes (N,), given the anchors' directions (C, E).

    The gradient of the loss in z is ((p - onehot) directions - its part along z) / (t |z|).
    """
    p = (z @ directions.T / temperature).softmax(-1)
    p[torch.arange(len(z), device=z.device), labels] -= 1
    gradient = p @ directions
    gradient = gradient - (gradient * z).sum(-1, keepdim=True) * z
    return unit(z + step * gradient.sign())


def steps_to_cross(
    z: Tensor, labels: Tensor, directions: Tensor, step: float, temperature: float, most: int
) -> tuple[Tensor, Tensor]:
    """How many steps each unit row z (N, E) takes until the nearest direction is not its class's, and where it is then.

    Returns:
        int64 (N,), 0 for rows that lie with another class already, -1 for those that do not cross in `most` steps; and
        (N, E).
    """
    z = z.clone()
    steps = torch.full_like(labels, -1)
    for count in range(most + 1):
        open_rows = (steps < 0).nonzero().flatten()
        crossed = (z[open_rows] @ directions.T).argmax(-1) != labels[open_rows]
        steps[open_rows[crossed]] = count
        left = open_rows[~crossed]
        if count == most or len(left) == 0:
            break
        z[left] = pushed(z[left], labels[left], directions, step, temperature)
    return steps, z


def nearest_share(steps: Tensor, share: float) -> Tensor:
    """Rows of the share of fewest steps >= 1 of steps (n,), at least one; then those of 0 steps, then of -1.

    Among equals those that come first.
    """
    last = steps.max().clamp_min(0) + 1
    rank = torch.where(steps > 0, steps, torch.where(steps == 0, last, last + 1))
    return rank.argsort(stable=True)[: max(1, round(share * len(steps)))]


@torch.no_grad()
def crossing_embeddings(
    features: Features, anchors: Tensor, options: CrossingOptions, temperature: float
) -> tuple[Embeddings, Values]:
    """Embeddings of the features nearest the decision boundary of each class, some steps beyond it.

    Args:
        features: of the training images, of any length; every class has some.
        anchors: T (C, E). temperature: t.
    """
    directions, step = unit(anchors), options.step_in(anchors.shape[1])
    found = [
        steps_to_cross(z, labels, directions, step, temperature, options.most_steps)
        for z, labels in zip(unit(features.data).split(ROWS), features.labels.split(ROWS), strict=True)
    ]
    steps, z = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
    chosen = []
    for c in range(len(anchors)):
        own = (features.labels == c).nonzero().flatten()
        chosen.append(own[nearest_share(steps[own], options.share)])
    rows = torch.cat(chosen)
    z, classes = z[rows], features.labels[rows]
    for _ in range(options.further_steps):
        z = pushed(z, classes, directions, step, temperature)
    taken = steps[rows]
    values = {
        "step": step,
        "most_steps_taken": int(taken.max()),
        "of_other_classes": int((taken == 0).sum()),
        "not_crossed": int((taken < 0).sum()),
    }
    e = z * torch.linalg.vector_norm(anchors, dim=-1)[classes, None]
    return Embeddings(e, classes, classes[:, None]), values
