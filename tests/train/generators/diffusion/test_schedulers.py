"""Every sampler against what is known: where data are Gaussian, the best denoiser is a formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from guard.errors import ModelError
from train.generators.diffusion import DiffusionOptions
from train.generators.diffusion.noise import TIMES, Noise, solver
from train.generators.diffusion.schedulers import checked_finite, image_generators

SPREAD = 0.5


def sampled(name: Any, prediction: Any, steps: int, spacing: str = "trailing") -> tuple[Tensor, Any]:
    """What a sampler makes of noise for images z ~ N(0, 0.25), whose noise is sigma z_t / (alpha^2 0.25 + sigma^2)."""
    scheduler, noise = solver(prediction, name, spacing), Noise()
    scheduler.set_timesteps(steps)
    z = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = {"generator": image_generators(torch.arange(32))} if name == "ddpm" else {}
    for t in scheduler.timesteps:
        alpha, sigma = noise.alphas[t], noise.sigmas[t]
        eps = sigma * z / (alpha**2 * SPREAD**2 + sigma**2)
        said = eps if prediction == "epsilon" else alpha * eps - sigma * (z - sigma * eps) / alpha
        z = scheduler.step(said, t, z, return_dict=False, **drawn)[0]
    return z, scheduler


@pytest.mark.parametrize("steps", [250, 501, 999, 1000])
@pytest.mark.parametrize("name", ["dpm-solver++", "ddim", "ddpm", "plms"])
def test_many_steps_end_at_the_data(name: str, steps: int) -> None:
    if name == "plms" and TIMES % steps:
        pytest.skip("it takes equal steps only")
    z, scheduler = sampled(name, "v_prediction", steps)
    assert float(z.std()) == pytest.approx(SPREAD, rel=0.04)
    assert int(scheduler.timesteps[0]) == TIMES - 1  # from pure noise on


def test_leading_times_are_the_published_ones() -> None:
    _, scheduler = sampled("ddim", "epsilon", 50, "leading")
    assert scheduler.timesteps.tolist() == list(range(981, 0, -20))


@pytest.mark.parametrize("model", [{}, {"model": "stable-diffusion", "pipeline": "a/b"}])
def test_steps_are_bounded_before_anything_is_trained(model: dict[str, Any]) -> None:
    for steps in (1001, 5000, 0):
        with pytest.raises(ValidationError, match="sampling_steps"):
            DiffusionOptions(sampling_steps=steps, **model)
    with pytest.raises(ValidationError, match="spacing='leading' would not begin at pure noise"):
        DiffusionOptions(sampling_steps=501, spacing="leading", **model)
    with pytest.raises(ValidationError, match="sampler='plms' takes equal steps"):
        DiffusionOptions(sampling_steps=30, sampler="plms", **model)


def test_latents_that_are_not_finite_are_an_error() -> None:
    latents = torch.zeros(3, 1, 2, 2)
    assert checked_finite(latents, 5) is latents
    latents[1, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite for 1 of 3 images in 5 steps"):
        checked_finite(latents, 5)
