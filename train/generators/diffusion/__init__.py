"""Diffusion models of images: one's own, trained on the user's images, and Stable Diffusion, by one interface.

base               the interface, the options, and the registry
own                a small class-conditional model of the user's images, on diffusers' networks and schedulers
stable_diffusion   any StableDiffusionPipeline, with token-embedding substitution
"""

from .base import Diffusion, DiffusionOptions, beside_model, make_diffusion, register_diffusion

__all__ = ["Diffusion", "DiffusionOptions", "beside_model", "make_diffusion", "register_diffusion"]
