"""Hypersphere: features projected onto the unit sphere, one moving prototype per class. Source: CIDER (Ming et al.,
ICLR 2023) as NPOS uses it (Tao et al., ICLR 2023).

    z = unit(W2 relu(W1 h));   logits_c = z . mu_c / t                              t = 0.1, z of 128 dimensions
    mu_c <- unit(a^n mu_c + (1 - a^n) mean of the batch's n z of class c)           a = 0.999
    compactness   -log softmax(z . mu / t)_y
    dispersion    (1/C) sum_i log mean_{j != i} exp(mu_i . mu_j / t)

As in the authors' code, the batch moves the prototypes first; compactness takes the moved ones as constants, and the
dispersion's gradient reaches the network through them. Departures: (1) their loop over images, which moves a prototype
n times by 1 - a, is one step of the same reach, the same whatever the order of the batch; (2) prototypes start as
random directions, not as class means of the untrained network, which all but coincide; (3) a is 0.999, theirs 0.95:
with 13 images of a class in a batch, 0.95 takes the prototypes to where the network is within a few steps, and an
untrained one projects positive features to nearly one place; there they fell together, and where all are equal neither
term has a gradient (CIFAR-10, 8 epochs: 67.8 % right, and that only with batch norms in the projection; they train 500
epochs); (4) their constant factor t / 0.07 of both terms is omitted (it is a learning rate). With prototypes at hand
it is a classifier: label and probabilities are those of the nearest one.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..record import Record, option
from .angular import unit
from .base import Head, LastLayer, full_precision, register_head


def moved(prototypes: Tensor, features: Tensor, labels: Tensor, momentum: float) -> Tensor:
    """Prototypes (C, d) after a batch of unit features (N, d) with labels (N,); absent classes stay. Differentiable."""
    member = (labels[:, None] == torch.arange(len(prototypes), device=labels.device)).to(features.dtype)
    counts = member.sum(0)[:, None]
    keep = momentum**counts
    return unit(keep * prototypes + (1 - keep) * (member.T @ features) / counts.clamp_min(1))


def dispersion(prototypes: Tensor, temperature: float) -> Tensor:
    """(1/C) sum_i log mean_{j != i} exp(mu_i . mu_j / t) of unit prototypes (C, d): how alike the classes are."""
    itself = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
    similarity = (prototypes @ prototypes.T / temperature).masked_fill(itself, -torch.inf)
    return similarity.logsumexp(-1).mean() - math.log(len(prototypes) - 1)  # exp(1 / t) overflows from t = 0.011 down


@register_head
class HypersphereHead(Head):
    """Hypersphere: z . mu_c / t with z a unit projection of the features and mu_c a moving mean of the class.

    The features that scores see are z.
    """

    name: ClassVar[str] = "hypersphere"
    source: ClassVar[str] = "CIDER, Ming et al., ICLR 2023"
    prototypes: Tensor

    class Options(Record):
        dim: int = option(128, "Dimensions of the sphere's space: numbers in a projected feature.", common=True, ge=2)
        temperature: float = option(0.1, "t, above 0, that the cosines are divided by.", common=True, gt=0)
        momentum: float = option(
            0.999, "Share of itself, in [0, 1), that a prototype keeps per image of its class.", ge=0, lt=1
        )
        compactness: float = option(1.0, "Weight, above 0, of the loss that draws images to their prototype.", gt=0)
        dispersion: float = option(0.5, "Weight, at least 0, of the loss that pushes prototypes apart.", ge=0)

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.num_features = self.options.dim
        self.projection = nn.Sequential(
            nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, self.options.dim)
        )
        self.register_buffer("prototypes", unit(torch.randn(num_classes, self.options.dim)))

    def embed(self, pooled: Tensor) -> Tensor:
        return unit(full_precision(self.projection(pooled)))

    def _weight(self) -> Tensor:
        temperature: float = self.options.temperature
        return unit(self.prototypes) / temperature  # averaged weights (ema=) are not of unit length

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self._weight())

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        o = self.options
        z = unit(full_precision(features))
        after = moved(self.prototypes, z, labels, o.momentum)
        self.prototypes = after.detach()  # a new tensor: the old one is in the graph of this step's logits
        return {
            "compactness": o.compactness * F.cross_entropy(z @ self.prototypes.T / o.temperature, labels),
            "dispersion": o.dispersion * dispersion(after, o.temperature),
        }

    def last_layer(self) -> LastLayer:
        return LastLayer(self._weight().detach(), None)
