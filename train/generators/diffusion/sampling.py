"""Images from noise: guided steps of a sampler, one forward of both branches each."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import SamplerName
from .denoiser import Denoiser
from .noise import solver
from .schedulers import drawn_in_steps


@torch.no_grad()
def denoised(
    network: Denoiser,
    noise: Tensor,
    e: Tensor,
    seeds: Tensor | None = None,
    *,
    steps: int,
    guidance: float,
    sampler: SamplerName = "dpm-solver++",
    spacing: str = "trailing",
) -> Tensor:
    """z_0 (N, c, h, w) that noise (N, c, h, w) becomes under e (N, E) in `steps` calls of the network.

        said = f(z_t, null) + guidance (f(z_t, e) - f(z_t, null))

    Without guidance (1) the second branch is left out.

    Args:
        seeds: int64 (N,), of the noise that sampler "ddpm" draws for each image in every step.
    """
    scheduler = solver(network.prediction, sampler, spacing)
    scheduler.set_timesteps(steps)
    n, z, drawn = len(noise), noise, drawn_in_steps(scheduler, seeds)
    branches = torch.cat([e, network.null.expand(n, -1)]) if guidance != 1 else e
    for t in scheduler.timesteps:
        times = t.to(z.device).expand(len(branches))
        said = network(torch.cat([z, z]) if guidance != 1 else z, times, branches)
        if guidance != 1:
            with_class, without = said.split(n)
            said = torch.lerp(without, with_class, guidance)
        z = scheduler.step(said, t, z, return_dict=False, **drawn)[0]
    return z
