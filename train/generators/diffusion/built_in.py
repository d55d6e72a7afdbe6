"""``diffusion="built-in"``: a small class-conditional diffusion model of the user's own images.

noise         how much of it at which time, and what a network may say of it
denoiser      UNet2DConditionModel ("token") or UNet2DModel ("label") with a table of class embeddings
autoencoder   AutoencoderKL, for images that are large for a network on pixels
sampling      guided DPM-Solver++
model         these behind the interface of `base`
training      on the user's images, resumable; finished models are kept and shared by folder
"""

from __future__ import annotations

from guard.errors import MissingExtraError

from ...outliers.base import PrepareContext
from .base import Diffusion, DiffusionOptions


def built_in(context: PrepareContext, options: DiffusionOptions) -> Diffusion:
    """The model of the context's images: loaded where its folder has a finished one, else trained (further).

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder holds a model that does not fit.
        ArtefactDamagedError: it cannot be read.
    """
    try:
        from .training import built_in_diffusion  # diffusers takes seconds to import
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise MissingExtraError("diffusers", "diffusion") from None
    return built_in_diffusion(context, options)
