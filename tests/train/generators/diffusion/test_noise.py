"""Noise levels, targets and weights against their definitions, and sampling against networks that know the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from train.generators.diffusion.noise import TIMES, Noise, spread_times
from train.generators.diffusion.sampling import denoised

KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64), 0)


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Images, noise, times."""
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 5, 3, 4, 4, generator=generator)
    return z, eps, torch.tensor([0, 10, 300, 800, 999])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_network_is_to_say_stands_for_the_noise(prediction: Any, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    z, eps, times = drawn
    noise = Noise()
    z_t = noise.add(z, eps, times)
    kept = KEPT[times].view(-1, 1, 1, 1)
    assert z_t.allclose((kept.sqrt() * z + (1 - kept).sqrt() * eps).float(), atol=1e-5)
    assert noise.epsilon(noise.target(z, eps, times, prediction), z_t, times, prediction).allclose(eps, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_weights_are_min_snr_of_the_clean_images_error(prediction: Any, drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    z, eps, times = drawn
    noise, wrong = Noise(), torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    said = noise.target(z, eps, times, prediction) + wrong
    z_t, (alpha, sigma) = noise.add(z, eps, times).double(), (x.double() for x in noise.at(times))
    clean = (z_t - sigma * said) / alpha if prediction == "epsilon" else alpha * z_t - sigma * said
    snr = (KEPT / (1 - KEPT))[times]
    expected = snr.clamp(max=5) * (clean - z).square().mean((1, 2, 3))
    weighted = noise.weight(times, prediction) * wrong.square().mean((1, 2, 3))
    assert weighted.double().allclose(expected, rtol=1e-3)


def test_times_are_uniform_one_in_each_stretch() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spread_times(8, generator) for _ in range(500)])
    assert ((drawn // 125) == torch.arange(8)).all()
    assert float(drawn.float().mean()) == pytest.approx(499.5, abs=10)
    assert drawn.min() >= 0
    assert drawn.max() < TIMES


class Knowing:
    """Says the v or eps of a clean image M e, whatever it sees; counts its calls."""

    def __init__(self, prediction: str) -> None:
        self.prediction, self.noise, self.calls = prediction, Noise(), 0
        self.null = torch.tensor([0.5, -1.0])
        self.matrix = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))

    def image(self, e: Tensor) -> Tensor:
        return (e @ self.matrix).view(-1, 3, 2, 2)

    def __call__(self, z_t: Tensor, times: Tensor, e: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = self.noise.at(times)
        eps = (z_t - alpha * self.image(e)) / sigma
        return eps if self.prediction == "epsilon" else alpha * eps - sigma * self.image(e)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 2.0, 4.0])
def test_sampling_ends_at_the_image_that_the_network_means(prediction: str, guidance: float) -> None:
    network: Any = Knowing(prediction)
    generator = torch.Generator().manual_seed(0)
    e, noise = torch.randn(4, 2, generator=generator), torch.randn(4, 3, 2, 2, generator=generator)
    made = denoised(network, noise, e, steps=7, guidance=guidance)
    assert network.calls == 7  # both branches in one
    wanted = network.null + guidance * (e - network.null)
    assert made.allclose(network.image(wanted), atol=2e-2)
