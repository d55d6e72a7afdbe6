"""R-MI: an upper bound of the mutual information between in-distribution features and outliers.

CLUB, Cheng et al., ICML 2020, as OAL uses it (Gao, He & Pu 2024). For pairs (u_i, f_i), i = 1 .. B, of an outlier and a
feature, and a conditional q(f | u) = N(mu(u), diag exp(lv(u))),

    CLUB = 1/B sum_i [ log q(f_i | u_i) - 1/B sum_j log q(f_j | u_i) ]
         = 1/B sum_i sum_d { (1/B sum_j (mu_id - f_jd)^2) - (mu_id - f_id)^2 } / (2 exp lv_id)

j = i is among the others; the log variances cancel. With p(f | u) for q it is at least I(u; f); with a learned q only
as far as q is near. Two things decide whether it says anything:

*q.* "likelihood": q has an Adam of its own, and takes a few steps of maximum likelihood before every step of the
network, which sees q frozen: CLUB as its authors mean it. "joint": q descends on the bound itself together with the
network, as OAL's code does; the number is no bound then, and falls without end.

*Pairs.* I(u; f) is a property of the joint distribution, and OAL's code pairs every image with any outlier. Averaged
over all pairings the two sums above are equal: the expected loss and the expected gradient are 0, and what a step sees
is noise. Here an image of class c is paired with an outlier that was made for class c; what they share is the class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..engine.seeds import seeded
from ..outliers.base import PrepareContext
from ..outliers.features.outlier_bank import OutlierBank
from .base import Batch, Regulariser

QUpdate = Literal["likelihood", "joint"]


def club_bound(mean: Tensor, log_variance: Tensor, features: Tensor) -> Tensor:
    """CLUB, a scalar in nats, of q's mean and log variance (B, D) for each u and the features (B, D) paired with it.

    The sum over all pairs needs no (B, B, D) differences: the mean of (mu - f_j)^2 over j is (mu - mean f)^2 + var f.
    """
    centre = features.mean(0)
    spread = (features - centre).square().mean(0)
    others = (mean - centre).square() + spread
    own = (mean - features).square()
    return ((others - own) / (2 * log_variance.exp())).sum(-1).mean()


def gaussian_loss(mean: Tensor, log_variance: Tensor, features: Tensor) -> Tensor:
    """Mean over B of -2 log q(f | u) without its constants: sum_d (mu - f)^2 / exp lv + lv."""
    return ((mean - features).square() / log_variance.exp() + log_variance).sum(-1).mean()


class GaussianConditional(nn.Module):
    """q(f | u) = N(mu(u), diag exp(lv(u))).

    Args:
        inputs, outputs: widths of u and f.
        mean, log_variance: widths of the hidden layers of the two networks. lv ends in a tanh, so it is in [-1, 1].
    """

    def __init__(self, inputs: int, outputs: int, mean: tuple[int, ...], log_variance: tuple[int, ...]) -> None:
        super().__init__()
        self.mean = _perceptron((inputs, *mean, outputs))
        self.log_variance = nn.Sequential(_perceptron((inputs, *log_variance, outputs)), nn.Tanh())

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """mu and lv, each (B, D), of u (B, W)."""
        return self.mean(u), self.log_variance(u)


def _perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def boundary_conditional(inputs: int, outputs: int) -> GaussianConditional:
    """OAL's q of MICL1, for boundary samples of a teacher."""
    return GaussianConditional(inputs, outputs, mean=(256,), log_variance=(256,))


def latent_conditional(inputs: int, outputs: int) -> GaussianConditional:
    """OAL's q of MICL2, for averaged latents of a diffusion model."""
    return GaussianConditional(inputs, outputs, mean=(32, 16, 256), log_variance=(256,))


class MutualInformationLoss(Regulariser):
    """`club_bound` of the in-distribution features and outliers of a bank, times `weight`.

    It sums over the features' D dimensions and grows with them, and with their scale.

    Args:
        name: of the term.
        bank: the outliers, made when the stage begins; as wide as they like.
        conditional: makes q from the widths of outliers and features.
        q_update: above.
        q_steps, q_lr: with "likelihood": Adam's steps per step of the network, and its learning rate.
        lr_factor: with "joint": q's learning rate as a factor of the stage's.
        check: of the bank, before anything is trained.
    """

    def __init__(
        self,
        name: str,
        bank: Callable[[PrepareContext], OutlierBank],
        conditional: Callable[[int, int], GaussianConditional],
        weight: float,
        *,
        q_update: QUpdate = "likelihood",
        q_steps: int = 5,
        q_lr: float = 1e-4,
        lr_factor: float = 1.0,
        check: Callable[[PrepareContext], object] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weight, self.q_update = name, weight, q_update
        self.q_steps, self.q_lr, self.lr_factor = q_steps, q_lr, lr_factor
        self.q: GaussianConditional | None = None
        self._make_bank, self._make_q = bank, conditional
        self._bank: OutlierBank | None = None
        self._check = check
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def check(self, context: PrepareContext) -> None:
        if self._check is not None:
            self._check(context)

    def prepare(self, context: PrepareContext) -> None:
        self._bank = self._make_bank(context)
        with seeded(context.seed):
            self.q = self._make_q(self._bank.width, context.module.classifier.num_features).to(context.device)
        if self.q_update == "likelihood":
            self._optimizers = {"q": torch.optim.Adam(self.q.parameters(), lr=self.q_lr)}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return self._optimizers

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        q, bank = self.q, self._bank
        assert q is not None and bank is not None  # noqa: PT018  (the loop prepares before its first step)
        features = batch.inliers.features.float()
        u = bank.draw(batch.labels, batch.generator)
        if self.q_update == "likelihood":
            self._fit(q, u, features.detach())
        with torch.set_grad_enabled(self.q_update == "joint"):
            mean, log_variance = q(u)
        return {self.name: self.weight * club_bound(mean, log_variance, features)}

    def _fit(self, q: GaussianConditional, u: Tensor, features: Tensor) -> None:
        """A few steps of maximum likelihood on the pairs of this step."""
        optimizer = self._optimizers["q"]
        for _ in range(self.q_steps):
            optimizer.zero_grad(set_to_none=True)
            mean, log_variance = q(u)
            gaussian_loss(mean, log_variance, features).backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # the loop's step of it changes nothing
