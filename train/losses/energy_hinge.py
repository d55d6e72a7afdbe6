"""R-EH: energies held on their sides of two margins (Liu et al., NeurIPS 2020).

    E(x) = -logsumexp f(x)
    L = mean_in relu(E - m_in)^2 + mean_out relu(m_out - E)^2,   m_in < m_out

Margins are energies, so they depend on the classes, the head and the training: the paper's -23 and -5 for CIFAR-10 are
out of a cosine head's reach. Margins that are not given are quantiles under the network as the stage finds it, as in
CMG: m_in the 20th percentile of the in-distribution energies, m_out the 80th of the outliers' energies.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from guard.errors import ConfigError

from ..engine.modes import evaluating
from ..outliers.base import IDBatch, PrepareContext, Synthesiser
from .base import Batch, Regulariser

log = logging.getLogger("ood_guard")

IMAGES = 2000  # that margins are estimated from, of either kind
QUANTILES = (0.2, 0.8)


class Margins(NamedTuple):
    """Energies: in-distribution images belong below `inside`, outliers above `outside`. None: by quantile."""

    inside: float | None = None
    outside: float | None = None


BY_QUANTILE = Margins()


def energy_hinge_loss(inliers: Tensor, outliers: Tensor, inside: Tensor | float, outside: Tensor | float) -> Tensor:
    """Mean squared excess of energies: inliers (N,) over `inside`, and of `outside` over outliers (K,). >= 0."""
    return (inliers - inside).relu().square().mean() + (outside - outliers).relu().square().mean()


def energy(logits: Tensor) -> Tensor:
    """E (N,) = -logsumexp of logits (N, C): low where a class is certain."""
    return -logits.float().logsumexp(-1)


class EnergyHingeLoss(Regulariser):
    """`energy_hinge_loss` of the logits times `weight`.

    Args:
        margins: m_in and m_out; what is None is taken by quantile when the stage begins.
        outliers: the stage's image synthesiser, for the quantiles; needed unless both margins are given.
        weight: factor of the term.

    Raises:
        ConfigError: m_in is not below m_out.
    """

    reads_labels = False

    margins: Tensor

    def __init__(
        self, margins: Margins = BY_QUANTILE, outliers: Synthesiser | None = None, weight: float = 0.1
    ) -> None:
        super().__init__()
        inside, outside = margins
        if inside is not None and outside is not None and inside >= outside:
            raise ConfigError(f"energy margin_in must be below margin_out, got {inside} and {outside}; swap the two")
        self.weight = weight
        self._outliers = (outliers,)  # in a tuple: it is the stage's, and no part of this one
        values = [torch.nan if m is None else float(m) for m in margins]
        self.register_buffer("margins", torch.tensor(values))  # in checkpoints: a resumed run keeps the first ones

    def prepare(self, context: PrepareContext) -> None:
        missing = self.margins.isnan()
        if not missing.any():
            return
        (synthesiser,) = self._outliers
        assert synthesiser is not None  # methods give it
        inside, outside = sample_energies(context, synthesiser)
        quantiles = [energies.quantile(q) for energies, q in zip((inside, outside), QUANTILES, strict=True)]
        found = torch.where(missing, torch.stack(quantiles), self.margins)
        if missing.all():  # where the network finds outliers the more certain, the lower is still for in-distribution
            found = found.sort().values
        elif found[0] > found[1]:  # one is given, and the other's quantile lies on its wrong side: no gap then
            found = torch.where(missing, found.flip(0), found)
        self.margins.copy_(found)
        log.info("energy margins: %.3f for in-distribution images, %.3f for outliers", *self.margins.tolist())

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        inliers, outliers = energy(batch.inliers.logits), energy(batch.outliers.logits)
        return {"energy": self.weight * energy_hinge_loss(inliers, outliers, self.margins[0], self.margins[1])}


@torch.no_grad()
def sample_energies(context: PrepareContext, synthesiser: Synthesiser, batch_size: int = 100) -> tuple[Tensor, Tensor]:
    """Energies, in eval mode, of up to `IMAGES` images spread over the training data, and of K outliers per 100."""
    module, data = context.module, context.data
    generator = torch.Generator(context.device).manual_seed(context.seed)
    rows = np.linspace(0, len(data) - 1, min(IMAGES, len(data))).round().astype(np.int64)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(context.seed)).numpy()]
    inside, outside = [], []
    with evaluating(module):
        synthesiser.start_epoch(-(-len(rows) // batch_size), generator)
        for images_np, labels_np in data.batches(batch_size, order=rows):
            images = torch.from_numpy(np.ascontiguousarray(images_np)).to(context.device)
            labels = torch.from_numpy(np.asarray(labels_np)).to(context.device)
            inside.append(energy(module.classifier(module.normalise(images)).logits))
            made = synthesiser.sample(IDBatch(images, labels), generator)
            logits = module.classifier(module.normalise(made.data)).logits
            outside.append(energy(logits if made.labels is None else logits[made.labels < 0]))
    return torch.cat(inside), torch.cat(outside)
