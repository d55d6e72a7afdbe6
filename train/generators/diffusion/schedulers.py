"""The samplers: which scheduler of diffusers each is, and how it takes a step.

    dpm-solver++   second order, multistep (Lu et al., 2022)
    ddim           eta 0 (Song, Meng & Ermon, ICLR 2021)
    plms           pseudo linear multistep of fourth order (Liu et al., ICLR 2022); one call of the network more
    ddpm           ancestral: noise in every step (Ho, Jain & Abbeel, NeurIPS 2020); all 1,000 times in its paper

Times are "trailing": the first step is at the noisiest time, so that it starts from what pure noise is. "leading", as
published with Stable Diffusion, starts a stride below.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guard.errors import ModelError

from .base import SamplerName

CLASSES: dict[str, str] = {
    "dpm-solver++": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "plms": "PNDMScheduler",
    "ddpm": "DDPMScheduler",
}


def scheduler(name: SamplerName, config: Mapping[str, Any], spacing: str) -> Any:
    """A fresh one of diffusers for a model trained with the noise of `config`."""
    import diffusers

    how: dict[str, Any] = {"timestep_spacing": spacing}
    if name == "ddim":
        how |= {"clip_sample": False, "set_alpha_to_one": False}
    elif name == "plms":
        how |= {"skip_prk_steps": True, "set_alpha_to_one": False}
    elif name == "ddpm":
        how |= {"clip_sample": False}
    if spacing == "leading":
        how["steps_offset"] = 1
    kind = _exact_ddim() if name == "ddim" else getattr(diffusers, CLASSES[name])
    return kind.from_config(dict(config), **how)


class _Stride(int):
    """A number of steps, of which any number of times is so far apart: ``T // steps`` is the stride."""

    def __rfloordiv__(self, times: int) -> int:
        return int(self)


@functools.cache
def _exact_ddim() -> Any:
    """DDIM whose steps end at the next time: diffusers' end a whole number of times below, 1 in place of 2 in 501 steps
    of 1,000, which leaves noise in."""
    import diffusers

    base: Any = diffusers.DDIMScheduler

    class DDIM(base):
        num_inference_steps: Any

        def step(self, model_output: Tensor, timestep: Any, *args: Any, **more: Any) -> Any:
            steps, times = self.num_inference_steps, self.timesteps
            below = times[times < timestep]
            stride = int(timestep) - (int(below[0]) if len(below) else -1)
            self.num_inference_steps = _Stride(stride)
            try:
                return super().step(model_output, timestep, *args, **more)
            finally:
                self.num_inference_steps = steps

    return DDIM


def image_seeds(count: int, generator: torch.Generator) -> Tensor:
    """A seed for each image (count,), int64, so that what is drawn for it does not depend on who it is sampled with."""
    return torch.randint(2**62, (count,), generator=generator, device=generator.device)


def image_generators(seeds: Tensor) -> list[torch.Generator]:
    """One per image, on the device of its seed."""
    return [torch.Generator(seeds.device).manual_seed(seed) for seed in seeds.tolist()]


def drawn_in_steps(scheduler: Any, seeds: Tensor | None) -> dict[str, Any]:
    """Further arguments of `step`: generators, one per image, for a sampler that draws in every step."""
    ancestral = type(scheduler).__name__ == CLASSES["ddpm"]
    return {"generator": image_generators(seeds)} if ancestral and seeds is not None else {}


def checked_finite(latents: Tensor, steps: int) -> Tensor:
    """The latents, if all their numbers are finite.

    Raises:
        ModelError: some are not.
    """
    bad = int((~latents.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ModelError(
            f"the diffusion model gave latents that are not finite for {bad} of {len(latents)} images in {steps} "
            "steps; take another sampling_steps or sampler, less guidance, or a model trained with a lower lr"
        )
    return latents


def shared_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal noise that sampling starts from."""
    return torch.randn(*shape, generator=generator, device=generator.device)
