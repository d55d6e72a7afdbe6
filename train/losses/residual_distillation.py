"""What a general network knows beside the classes, kept in the features of the one that is fine-tuned (TGT, 2026).

    squared    mean over the batch of |g(h) - r|^2 / mean |r|^2
    cosine     mean over the batch of 1 - cos(g(h), r)

r is the teacher's feature without what tells the classes apart (`class_residual`), once per image; g is linear, or has
an MLP beside the line, learned along and dropped. Fine-tuning on few classes folds features into the space that tells
them apart, and what has none of these classes is no longer seen by distances. Divided by mean |r|^2 the first is the
share of r that g misses: 1 where g says nothing, whatever the teacher's scale.

Where training starts from a network that knows something, g starts as the ridge regression of r on its features, taken
to unit mean squared length. From random weights of g the first steps would tear them about: a term of 37 on
photographs, where 1 is saying nothing.
"""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.graph.outputs import Classifier

from ..engine.seeds import seeded
from ..frozen_teacher import FrozenTeacher, embedded_features
from ..outliers.base import PrepareContext
from .base import Batch, Regulariser
from .class_residual import class_residual, ridge, ridge_r2

log = logging.getLogger("ood_guard")

Objective = Literal["squared", "cosine"]
EXAMINED = 2000  # images of the regression that is reported
TINY = torch.finfo(torch.float32).tiny


class ResidualDistillation(Regulariser):
    """The term above, times `weight`.

    Args:
        teacher: whose features are taken when the stage begins.
        hidden: units of the MLP beside g's line; 0: g is linear.
    """

    def __init__(
        self, teacher: FrozenTeacher, weight: float = 1.0, objective: Objective = "squared", hidden: int = 0
    ) -> None:
        super().__init__()
        self.weight, self.objective, self.hidden = weight, objective, hidden
        self.project: nn.Module | None = None
        self._teacher = teacher
        self._residuals: Tensor | None = None  # (N, T), float16, mean squared length 1; checkpoints need not hold it

    def check(self, context: PrepareContext) -> None:
        self._teacher.check(context)

    def prepare(self, context: PrepareContext) -> None:
        labels = torch.from_numpy(np.array(context.data.labels, np.int64))
        features = self._teacher.features(context)
        residuals = class_residual(features, labels)
        size = residuals.square().sum(-1).mean().sqrt()
        spread = (features - features.mean(0)).square().sum(-1).mean().sqrt()
        log.info("teacher: %.0f %% of its features' variance is not between classes", 100 * (size / spread) ** 2)
        if self._teacher.is_start:
            own = _embedded(context.module.classifier, features)
        else:
            own = embedded_features(context.module, context.data)
            _examine(own, residuals)
        with seeded(context.seed):
            self.begin(own, residuals / size.clamp_min(TINY), context.device)

    def begin(self, features: Tensor, residuals: Tensor, device: torch.device) -> None:
        """Take the images' features (N, D) before training, and residuals (N, T) of mean squared length 1."""
        self._residuals = residuals.half().to(device)
        self.project = Projection(features, residuals, self.hidden, fitted=self._teacher.has_start).to(device)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self._residuals is not None and self.project is not None  # noqa: PT018  (prepared before the first step)
        assert batch.rows is not None  # the loop gives them
        told, residuals = self.project(batch.inliers.features.float()), self._residuals[batch.rows].float()
        if self.objective == "cosine":
            term = 1 - F.cosine_similarity(told, residuals, dim=-1).mean()
        else:
            term = (told - residuals).square().sum(-1).mean()
        return {"residual": self.weight * term}


class Projection(nn.Module):
    """g: features (N, D) of the network -> residuals (N, T); at first their ridge regression, or 0.

    Args:
        features, residuals: (N, D) and (N, T), before training.
        hidden: units of an MLP beside the line, which says nothing at first; 0: none.
        fitted: whether the line starts as the regression. On features of random weights, which hardly vary, that is so
            steep that its gradients would throw them about: there it starts at 0.
    """

    size: Tensor

    def __init__(self, features: Tensor, residuals: Tensor, hidden: int, *, fitted: bool) -> None:
        super().__init__()
        self.register_buffer("size", features.square().sum(-1).mean().sqrt().clamp_min(TINY))
        inputs, outputs = features.shape[1], residuals.shape[1]
        self.line = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        if fitted:
            weight, bias = ridge(features / self.size, residuals)
            with torch.no_grad():
                self.line.weight.copy_(weight)
                self.line.bias.copy_(bias)
        self.bend: nn.Module | None = None
        if hidden:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.bend = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        h = features / self.size
        line: Tensor = self.line(h)
        return line if self.bend is None else line + self.bend(h)


@torch.no_grad()
def _embedded(classifier: nn.Module, pooled: Tensor) -> Tensor:
    """`embedded_features` of images whose pooled features (N, P) the same backbone gave already."""
    assert isinstance(classifier, Classifier)  # guard.train builds no other
    device = next(classifier.head.parameters()).device
    return classifier.head.embed(pooled.to(device)).cpu()


def _examine(own: Tensor, residuals: Tensor) -> None:
    """Warn where the network's features say nothing of the residuals as training begins."""
    rows = torch.linspace(0, len(residuals) - 1, min(len(residuals), EXAMINED)).long().unique()
    r2 = ridge_r2(own[rows], residuals[rows])
    if r2 > 0:
        log.info("teacher: R^2 of its residuals from the network's features is %.2f as training begins", r2)
        return
    log.warning(
        "the network's features tell nothing of what the teacher knows beside the classes (R^2 %.2f of a ridge "
        "regression): expect no gain, or a loss near the classes; name another teacher, or weight=0",
        r2,
    )
