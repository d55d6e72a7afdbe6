"""Diffusion models of images: the built-in one, trained on the user's images, and Stable Diffusion, by one interface.

base               the interface, the options, and the registry
built_in           a small class-conditional model of the user's images, on diffusers' networks and schedulers
stable_diffusion   any StableDiffusionPipeline, with token-embedding substitution
make               the model that options name
"""

from .base import Diffusion, DiffusionOptions, beside_model, register_diffusion
from .make import known_form, make_diffusion

__all__ = ["Diffusion", "DiffusionOptions", "beside_model", "known_form", "make_diffusion", "register_diffusion"]
