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
    for given in ({"sampling_steps": 501}, {"sampling_steps": 1}, {"sampling_steps": 1000}, {"sampler": "ddpm"}):
        with pytest.raises(ValidationError, match="a number of steps between 1 and 1000 that divides 1000"):
            DiffusionOptions(**{"sampler": "ddim", "spacing": "leading", **given, **model})
    with pytest.raises(ValidationError, match="would not begin near pure noise with sampler='dpm-solver"):
        DiffusionOptions(sampling_steps=50, sampler="dpm-solver++", spacing="leading", **model)
    with pytest.raises(ValidationError, match="sampler='plms' takes equal steps"):
        DiffusionOptions(sampling_steps=30, sampler="plms", **model)


def test_latents_that_are_not_finite_are_an_error() -> None:
    latents = torch.zeros(3, 1, 2, 2)
    assert checked_finite(latents, 5) is latents
    latents[1, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite for 1 of 3 images in 5 steps"):
        checked_finite(latents, 5)


@pytest.mark.parametrize("steps", [2, 20, 50, 250, 500])
@pytest.mark.parametrize("sampler", ["ddim", "plms", "ddpm"])
def test_what_is_accepted_begins_a_stride_below_pure_noise(sampler: Any, steps: int) -> None:
    options = DiffusionOptions(sampler=sampler, sampling_steps=steps, spacing="leading")
    made = solver("epsilon", sampler, options.spacing)
    made.set_timesteps(steps)
    assert int(made.timesteps[0]) == TIMES - TIMES // steps + 1
