"""Paths that users give: text or a path, and one that a file system can have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import ConfigError

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of Linux and macOS


def path_given(given: Any, what: str = "path") -> Path:
    """What was given as the path, ``~`` replaced by the home folder.

    Raises:
        ConfigError: it is none, or no file can be called so.
    """
    if not isinstance(given, (str, os.PathLike)) or isinstance(given, bytes):
        raise ConfigError(f"{what} must be a path, got {given!r}")
    if why := unusable(given):
        raise ConfigError(f"{what}={os.fspath(given)!r} {why}")
    return expanded(given)


def expanded(path: str | os.PathLike[str]) -> Path:
    """With ``~`` replaced by the home folder that it stands for.

    Raises:
        ConfigError: of a user that this machine does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = os.fspath(path).partition("/")[0]
        raise ConfigError(
            f"{os.fspath(path)!r}: this machine has no home folder for {user!r}; give the path from / on"
        ) from None


def at_home(options: Any) -> Any:
    """Options in which every text that begins with ``~`` is the path that it stands for: no name begins so.

    Raises:
        ConfigError: of a user that this machine does not know.
    """
    if isinstance(options, dict):
        return {name: at_home(value) for name, value in options.items()}
    return str(expanded(options)) if isinstance(options, str) and options.startswith("~") else options


def unusable(given: str | os.PathLike[str]) -> str:
    """Why no file can be called so; empty where one can."""
    text = os.fspath(given)
    if not text:
        return "is empty"
    if "\0" in text:
        return "has a NUL character, which no name can have"
    encoded = os.fsencode(text) if text.isascii() else text.encode(errors="surrogatepass")
    if len(encoded) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in encoded.split(b"/")):
        return f"is too long for a name or path ({len(text)} letters)"
    return ""
