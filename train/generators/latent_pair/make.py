"""The pair that the options name: the one that is trained here, a registered one, or what a factory makes."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from guard.errors import ConfigError

from ...outliers.base import PrepareContext
from .base import _PAIRS, Pair, PairFactory, PairOptions
from .training import style_pair


def make_pair(context: PrepareContext, options: PairOptions) -> Pair:
    """The pair that `options` name, trained or loaded.

    Raises:
        ConfigError: what the factory made has no `encode` or no `generate`, or there is no such factory.
    """
    factories: dict[str, PairFactory] = {"style": style_pair, **_PAIRS}
    if options.path is not None and not Path(options.path).exists():  # it was there when the run was asked for
        raise ConfigError(f"pair.path={options.path!r} is gone; put the file or folder back")
    factory = factories.get(options.model) or _imported(options.model)
    pair = factory(context, options)
    if not isinstance(pair, Pair):
        raise ConfigError(
            f"pair {options.model!r} must have encode(images) -> w (N, L, d) and generate(w) -> images, "
            f"got a {type(pair).__name__}"
        )
    return pair


def _imported(name: str) -> PairFactory:
    """The factory at ``package.module:callable``; the working directory is searched too.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"pair.model={name!r}: {error}; accepted: style, a registered name, or package.module:callable, the module "
            "in the working directory or installed"
        ) from None
    finally:
        sys.path.remove(os.getcwd())
    factory: PairFactory | None = getattr(found, attribute, None)
    if not callable(factory):
        raise ConfigError(
            f"pair.model={name!r}: module {module!r} has no {attribute!r} to call with (context, options); name a "
            "function that returns the pair"
        )
    return factory
