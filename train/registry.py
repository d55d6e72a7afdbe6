"""Which methods there are. Registration happens where a method is defined; this file only collects."""

from __future__ import annotations

import fnmatch

from guard.errors import ConfigError, UnknownNameError

from .method import Method

_METHODS: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Class decorator: make a `Method` available by its `name`."""
    if _METHODS.get(method.name, method).__qualname__ != method.__qualname__:
        raise ConfigError(f"a method named {method.name!r} is registered already; choose another name")
    _METHODS[method.name] = method
    return method


def list_methods(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted."""
    _load()
    return sorted(fnmatch.filter(_METHODS, pattern))


def get_method(name: str) -> type[Method]:
    """The class registered under `name`; unknown names raise `UnknownNameError` with near matches."""
    _load()
    if name not in _METHODS:
        raise UnknownNameError("method", name, _METHODS, "See: guard methods.")
    return _METHODS[name]


def _load() -> None:
    from . import methods  # noqa: F401  (each file registers its method)
