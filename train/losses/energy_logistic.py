"""R-ELR: energy with a learned logistic link (Du et al., ICLR 2022).

    g(x) = logsumexp f(x)                    energy "plain": Dream-OOD and NCIS, papers and code
         = log sum_c relu(w_c) exp f_c(x)    energy "weighted": VOS's code, w learned
    phi(g) = a g + b                         link "linear"
           = sum_j v_j relu(u_j g + r_j) + b   link "mlp", 512 units: the code of Dream-OOD and NCIS for ImageNet-100
    L = mean over all N + K items of the binary cross-entropy of phi(g), in-distribution = 1, outlier = 0

The mean runs over the concatenated batch: with 128 images and C outliers the latter weigh little, as published; with as
many outliers as images it is half of NCIS's Eq. 13, which adds the mean of each, and so is its official code's. The
official Linear(1, 2) and Linear(512, 2) with a softmax are the same models; a, v and b are their differences of slopes.

A link that starts at random may fall: then training raises the outliers' energies g, and the raw energy ranks the wrong
way round. `takes_over` says so, and the guard gets the link for its score (`train.engine.stages`).
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.errors import ConfigError
from guard.record import Record, option
from guard.scores import Score, create_score
from guard.scores.energy_logistic import EnergyLogistic, weighted_logsumexp

from .base import Batch, Regulariser

log = logging.getLogger("ood_guard")

UNITS = 512
MLP_LR = 0.01  # times the stage's: the official code trains 512 units at lr 0.001
MEMORY = 0.99  # of the running means of the energies
#: Scores that fall as the raw energy g rises.
READERS = frozenset({"energy", "max_logit", "react", "ash", "dice", "scale", "vim", "nnguide"})

LinkEnergy = Literal["plain", "weighted"]
Link = Literal["linear", "mlp"]


class LinkOptions(Record):
    """What is told apart, by which link."""

    energy: LinkEnergy = option(
        "plain",
        "What the link reads: the logsumexp of the logits ('plain'), or with learned class weights ('weighted': VOS's, "
        "whose default score is then energy_logistic).",
    )
    link: Link = option("linear", "Form of the learned link: 'linear', or 'mlp' with 512 hidden units.")
    link_init: Literal["positive", "random"] = option(
        "positive",
        "Start of the learned link: a rising one ('positive'; an MLP is held rising), or random as published.",
    )


def energy_logistic_loss(inliers: Tensor, outliers: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Mean BCE of slope * g + offset over inliers g (N,) with target 1 and outliers g (K,) with target 0."""
    return told_apart(slope * inliers + offset, slope * outliers + offset)


def told_apart(inliers: Tensor, outliers: Tensor) -> Tensor:
    """Mean BCE over log-odds of inliers (N,) with target 1 and of outliers (K,) with target 0."""
    target = torch.cat([torch.ones_like(inliers), torch.zeros_like(outliers)])
    return F.binary_cross_entropy_with_logits(torch.cat([inliers, outliers]), target)


class EnergyLogisticLoss(Regulariser):
    """BCE of phi(g), with a learned link phi and, where `energy` is "weighted", learned w (C,).

    Args:
        weight: factor of the term.
        init: "positive": a = 2, b = 0, w = 1 (a plain energy at the start), u, v >= 0 throughout with sum u v = 2 at
            first (free ones fell in 3 of 3 runs on digits); "random": as published, w ~ U(0, 1) and the differences of
            two torch-initialised linear units.
        centred: b starts so that phi is 0 at the mean g of the first in-distribution images: -a mean g for a linear
            link. At b = 0 energies of 7 start at log-odds of 14, where the loss of in-distribution images has no
            gradient, and that of outliers the same one everywhere.
    """

    reads_labels = False

    means: Tensor  # (2,): running means of g over in-distribution images and over outliers

    def __init__(
        self,
        num_classes: int,
        weight: float = 0.1,
        init: Literal["positive", "random"] = "positive",
        *,
        energy: LinkEnergy = "weighted",
        link: Link = "linear",
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.num_classes, self.centred = weight, num_classes, centred
        positive = init == "positive"
        weights = torch.ones(num_classes) if positive else torch.rand(num_classes)
        self.class_weights = nn.Parameter(weights) if energy == "weighted" else None
        self.rising = False
        self.slope: nn.Parameter | None = None
        self.hidden: nn.ParameterList | None = None  # u, r, v (512,)
        if link == "linear":
            slope, offset = (torch.tensor(2.0), torch.tensor(0.0)) if positive else (_difference(), _difference())
            self.slope = nn.Parameter(slope)
        else:
            self.lr_factor, self.rising = MLP_LR, positive
            u, r, v, offset = _between(UNITS), _between(UNITS), _difference(UNITS), _difference(scale=UNITS**-0.5)
            v = v * UNITS**-0.5
            if positive:
                u, v, offset = u.abs(), v.abs(), torch.tensor(0.0)
                v = 2 * v / (u @ v)
            self.hidden = nn.ParameterList([u, r, v])
        self.offset = nn.Parameter(offset)
        self.register_buffer("means", torch.full((2,), torch.nan))

    def energies(self, logits: Tensor) -> Tensor:
        """g (N,) of logits (N, C)."""
        if self.class_weights is None:
            return logits.float().logsumexp(-1)
        return weighted_logsumexp(logits.float(), self.class_weights.relu())

    def log_odds(self, g: Tensor) -> Tensor:
        """phi(g) (N,) of energies (N,): above 0 where in-distribution is the likelier."""
        if self.hidden is None:
            assert self.slope is not None  # one of the two is there
            return self.slope * g + self.offset
        u, r, v = self.units()
        return (g[:, None] * u + r).relu() @ v + self.offset

    def units(self) -> list[Tensor]:
        """u, r and v of the hidden units; u and v at their absolute values where the link is held rising."""
        assert self.hidden is not None  # of an MLP
        u, r, v = self.hidden
        return [u.abs(), r, v.abs()] if self.rising else [u, r, v]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        inliers, outliers = self.energies(batch.inliers.logits), self.energies(batch.outliers.logits)
        counts = self.means.new_ones((), dtype=torch.bool) if batch.ready is None else batch.ready
        if self.centred:
            self._centre(inliers.detach(), counts)
        self._remember(inliers.detach(), outliers.detach(), counts)
        return {"energy": self.weight * told_apart(self.log_odds(inliers), self.log_odds(outliers))}

    @torch.no_grad()
    def _centre(self, inliers: Tensor, counts: Tensor) -> None:
        """b -= mean phi(g) in the first step that counts."""
        first = self.means.isnan().any() & counts
        self.offset.sub_(torch.where(first, self.log_odds(inliers).mean(), 0.0))

    @torch.no_grad()
    def _remember(self, inliers: Tensor, outliers: Tensor, counts: Tensor) -> None:
        if len(inliers) and len(outliers):
            now = torch.stack([inliers.mean(), outliers.mean()])
            after = torch.where(self.means.isnan(), now, self.means.lerp(now, 1 - MEMORY))
            self.means.copy_(torch.where(counts, after, self.means))

    @torch.no_grad()
    def falls(self) -> bool:
        """Whether the link takes the larger of two energies g for the outlier's.

        Of a linear one that is a slope below 0; of the other one that it is lower at the larger of the two mean
        energies. Not where in-distribution images have the larger ones all the same: then it never learned.
        """
        inside, outside = self.means.tolist()
        if inside > outside:
            return False
        if self.slope is not None:
            return self.slope.item() < 0
        low, high = self.log_odds(self.means).tolist()
        return bool(high < low)  # not where it never saw outliers: nan

    def hand_over(self, score: Score) -> None:
        if isinstance(score, EnergyLogistic):
            plain = self.offset.new_ones(self.num_classes) if self.class_weights is None else self.class_weights.relu()
            slope = torch.zeros_like(self.offset) if self.slope is None else self.slope
            score.set_link(plain, slope, self.offset, None if self.hidden is None else torch.stack(self.units()))

    def takes_over(self, score: Score) -> Score:
        readers = [part.name for part in score.parts() if part.name in READERS]
        if not readers or not self.falls():
            return score
        if score.name == "energy":
            log.warning(
                "the learned link falls: outliers have the larger log-sum-exp, so score 'energy' would be upside down, "
                "and the guard gets 'energy_logistic'; link_init='positive' avoids it"
            )
            link = create_score("energy_logistic")
            self.hand_over(link)
            return link
        raise ConfigError(
            f"the learned link falls, so that outliers have the larger log-sum-exp and score {readers[0]!r} would be "
            "upside down; train with link_init='positive', or with score='energy_logistic'"
        )


def _between(count: int) -> Tensor:
    """Weights of `count` linear units with one input, as torch starts them: U(-1, 1)."""
    return torch.rand(count) * 2 - 1


def _difference(count: int | None = None, scale: float = 1.0) -> Tensor:
    """Of two such numbers times `scale`, () or (count,)."""
    pair = (torch.rand(2) if count is None else torch.rand(2, count)) * 2 - 1
    return scale * (pair[1] - pair[0])
