"""The diffusion model that options name: the built-in one, Stable Diffusion, or a registered one."""

from __future__ import annotations

import json
from typing import NamedTuple

from guard.errors import ConfigError

from ...outliers.base import PrepareContext
from .base import _MODELS, Diffusion, DiffusionFactory, DiffusionOptions
from .built_in import built_in
from .pipeline import published_form
from .stable_diffusion import stable_diffusion


class Form(NamedTuple):
    """What is known of a model before it is there: E, and (H, W) of the images that it decodes (`Diffusion`)."""

    width: int
    own_size: tuple[int, int]


def make_diffusion(context: PrepareContext, options: DiffusionOptions) -> Diffusion:
    """The model that `options` name, trained or loaded.

    Raises:
        ConfigError: what the factory made does not speak the interface.
    """
    factories: dict[str, DiffusionFactory] = {"built-in": built_in, "stable-diffusion": stable_diffusion, **_MODELS}
    model = factories[options.model](context, options)
    if not isinstance(model, Diffusion):
        wanted = [*Diffusion.__annotations__, *(name for name in vars(Diffusion) if not name.startswith("_"))]
        lacking = ", ".join(name for name in wanted if not hasattr(model, name))
        raise ConfigError(f"diffusion model {options.model!r} is a {type(model).__name__} that lacks {lacking}")
    return model


def known_form(context: PrepareContext, options: DiffusionOptions) -> Form | None:
    """The form of the model that `options` name, which is neither trained nor loaded; None where that takes the model.

    Args:
        context: its folder is the run's or store's, as for `make_diffusion`.
    """
    if options.model == "stable-diffusion":
        found = published_form(options.pipeline)
        return None if found is None else Form(*found)
    if options.model != "built-in":
        return None
    p, width, conditioning = context.data.preprocess, options.width, options.conditioning
    try:
        from .denoiser import embedding_width  # diffusers takes seconds to import
    except ModuleNotFoundError:
        return None  # the factory says that it is missing
    card = options.kept_in(context.folder) / f"{options.kind}.json"
    if card.exists():
        try:
            model = json.loads(card.read_bytes())["model"]
            width, conditioning = model["diffusion_width"], model["conditioning"]
        except (ValueError, LookupError, TypeError):  # its own reader says what is wrong with it
            return None
    return Form(embedding_width(width, conditioning), (p.height, p.width))
