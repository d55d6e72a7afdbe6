"""The pair that the options name: the one that is trained here, or a registered one."""

from __future__ import annotations

from guard.errors import ConfigError

from ...outliers.base import PrepareContext
from .base import _PAIRS, Pair, PairFactory, PairOptions
from .training import style_pair


def make_pair(context: PrepareContext, options: PairOptions) -> Pair:
    """The pair that `options` name, trained or loaded.

    Raises:
        ConfigError: what the factory made has no `encode` or no `generate`.
    """
    factories: dict[str, PairFactory] = {"style": style_pair, **_PAIRS}
    pair = factories[options.model](context, options)
    if not isinstance(pair, Pair):
        raise ConfigError(
            f"pair {options.model!r} must have encode(images) -> w (N, L, d) and generate(w) -> images, "
            f"got a {type(pair).__name__}"
        )
    return pair
