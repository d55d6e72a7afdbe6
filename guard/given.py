"""Single values that users give in Python."""

from __future__ import annotations

import math
import numbers
from typing import Any

from .errors import ConfigError


def number_given(given: Any, what: str) -> float:
    """What was given as the number.

    Raises:
        ConfigError: it is none, or not finite.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or not math.isfinite(given):
        raise ConfigError(f"{what} must be a finite number, got {given!r}")
    return float(given)


def count_given(given: Any, what: str, *, least: int) -> int:
    """What was given as the whole number.

    Raises:
        ConfigError: it is none, or below `least`.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise ConfigError(f"{what} must be a whole number, got {given!r}")
    if given < least:
        raise ConfigError(f"{what} must be at least {least}, got {given}")
    return int(given)
