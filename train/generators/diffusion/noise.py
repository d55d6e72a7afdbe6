"""The noise that images are trained to be freed of: how much at which time, and what a network may say of it.

    z_t = alpha_t z + sigma_t eps,   alpha_t^2 = prod_{s <= t} (1 - beta_s) = 1 - sigma_t^2
    v = alpha_t eps - sigma_t z,     eps = sigma_t z_t + alpha_t v,     snr_t = alpha_t^2 / sigma_t^2

beta rises linearly from 1e-4 to 0.02 over 1,000 times (Ho et al., NeurIPS 2020); v is Salimans & Ho's, ICLR 2022.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import TIMES, SamplerName
from .schedulers import scheduler

BETAS = 1e-4, 0.02
SNR_CAP = 5.0

Prediction = Literal["epsilon", "v_prediction"]


def solver(prediction: Prediction, name: SamplerName = "dpm-solver++", spacing: str = "trailing") -> Any:
    """A fresh scheduler of diffusers for this noise (`schedulers.scheduler`)."""
    noise = {"num_train_timesteps": TIMES, "beta_start": BETAS[0], "beta_end": BETAS[1], "prediction_type": prediction}
    return scheduler(name, noise, spacing)


class Noise(nn.Module):
    """alpha_t and sigma_t of all times, and the arithmetic with them. z, eps: (N, c, h, w); times: int64 (N,)."""

    alphas: Tensor
    sigmas: Tensor

    def __init__(self) -> None:
        super().__init__()
        kept = torch.cumprod(1 - torch.linspace(*BETAS, TIMES, dtype=torch.float64), 0)
        self.register_buffer("alphas", kept.sqrt().float(), persistent=False)
        self.register_buffer("sigmas", (1 - kept).sqrt().float(), persistent=False)

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, (N, 1, 1, 1) each."""
        return self.alphas[times].view(-1, 1, 1, 1), self.sigmas[times].view(-1, 1, 1, 1)

    def add(self, z: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        """z_t."""
        alpha, sigma = self.at(times)
        return alpha * z + sigma * eps

    def target(self, z: Tensor, eps: Tensor, times: Tensor, prediction: Prediction) -> Tensor:
        """What the network is to say: eps, or v."""
        if prediction == "epsilon":
            return eps
        alpha, sigma = self.at(times)
        return alpha * eps - sigma * z

    def epsilon(self, said: Tensor, z_t: Tensor, times: Tensor, prediction: Prediction) -> Tensor:
        """The noise that what the network said of z_t stands for."""
        if prediction == "epsilon":
            return said
        alpha, sigma = self.at(times)
        return sigma * z_t + alpha * said

    def weight(self, times: Tensor, prediction: Prediction) -> Tensor:
        """Min-SNR weights (N,) of the squared error (Hang et al., ICCV 2023): min(snr, 5) in terms of the clean image.

        An error d of eps is one of d / sqrt(snr) of the image, an error d of v one of d / sqrt(snr + 1) of it.
        """
        snr = (self.alphas[times] / self.sigmas[times]).square()
        return snr.clamp_max(SNR_CAP) / (snr if prediction == "epsilon" else snr + 1)


def spread_times(count: int, generator: torch.Generator) -> Tensor:
    """Uniform times (count,), one in each of `count` equal stretches: a batch that sees all of them varies less."""
    u = torch.rand(1, generator=generator, device=generator.device)
    at = (torch.arange(count, device=generator.device) + u) / count
    return (at * TIMES).long().clamp_max(TIMES - 1)
