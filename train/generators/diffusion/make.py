"""The diffusion model that options name: the built-in one, Stable Diffusion, or a registered one."""

from __future__ import annotations

from guard.errors import ConfigError

from ...outliers.base import PrepareContext
from .base import _MODELS, Diffusion, DiffusionFactory, DiffusionOptions
from .built_in import built_in
from .stable_diffusion import stable_diffusion


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
