"""Which image synthesisers there are. Registration happens where one is defined; this file only collects."""

from __future__ import annotations

import fnmatch
from typing import Any

from guard.errors import ConfigError, UnknownNameError

from ..method import ImageSynthesiser

_SYNTHESISERS: dict[str, type[ImageSynthesiser]] = {}


def register_synthesiser(kind: type[ImageSynthesiser]) -> type[ImageSynthesiser]:
    """Class decorator: make an `ImageSynthesiser` available by its `name`."""
    if _SYNTHESISERS.get(kind.name, kind).__qualname__ != kind.__qualname__:
        raise ConfigError(f"a synthesiser named {kind.name!r} is registered already; choose another name")
    _SYNTHESISERS[kind.name] = kind
    return kind


def list_synthesisers(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted."""
    _load()
    return sorted(fnmatch.filter(_SYNTHESISERS, pattern))


def get_synthesiser(name: str) -> type[ImageSynthesiser]:
    """The class registered under `name`; unknown names raise `UnknownNameError` with near matches."""
    _load()
    if name not in _SYNTHESISERS:
        raise UnknownNameError("synthesiser", name, _SYNTHESISERS)
    return _SYNTHESISERS[name]


def create_synthesiser(name: str, count: int, num_classes: int, **options: Any) -> ImageSynthesiser:
    """A synthesiser of `count` outliers per call for data of `num_classes` classes.

    Raises:
        UnknownNameError: no such synthesiser; near matches are named.
        ConfigError: an option it does not have, or a value out of range.
    """
    return get_synthesiser(name)(count, num_classes, **options)


def _load() -> None:
    from . import images  # noqa: F401  (each file registers its synthesiser)
