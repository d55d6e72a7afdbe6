"""Images from noise: guided DPM-Solver++ steps, one forward of both branches each."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser
from .noise import solver


@torch.no_grad()
def denoised(network: Denoiser, noise: Tensor, e: Tensor, *, steps: int, guidance: float) -> Tensor:
    """z_0 (N, c, h, w) that noise (N, c, h, w) becomes under e (N, E) in `steps` calls of the network.

        said = f(z_t, null) + guidance (f(z_t, e) - f(z_t, null))

    Without guidance (1) the second branch is left out.
    """
    scheduler = solver(network.prediction)
    scheduler.set_timesteps(steps)
    n, z = len(noise), noise
    branches = torch.cat([e, network.null.expand(n, -1)]) if guidance != 1 else e
    for t in scheduler.timesteps:
        times = t.to(z.device).expand(len(branches))
        said = network(torch.cat([z, z]) if guidance != 1 else z, times, branches)
        if guidance != 1:
            with_class, without = said.split(n)
            said = torch.lerp(without, with_class, guidance)
        z = scheduler.step(said, t, z, return_dict=False)[0]
    return z
