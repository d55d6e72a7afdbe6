"""The orders in which programs list class names: as text, where "10" comes before "2", and by their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def natural_orders(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Each order by its name -> int64 (C,): the place of each of `names` in it. Equal orders are given once.

    "text": as ``sorted`` and torchvision's ImageFolder; "numeric": digits by their value; and both without case, as
    file managers list folders.
    """
    keys: dict[str, Callable[[str], Any]] = {
        "text": str,
        "numeric": _by_numbers,
        "text, ignoring case": lambda name: (name.casefold(), name),
        "numeric, ignoring case": lambda name: (_by_numbers(name.casefold()), name),
    }
    found: dict[str, np.ndarray] = {}
    for title, key in keys.items():
        sorting = [key(name) for name in names]
        places = np.empty(len(names), np.int64)
        places[sorted(range(len(names)), key=sorting.__getitem__)] = np.arange(len(names))
        if not any(np.array_equal(places, other) for other in found.values()):
            found[title] = places
    return found


def _by_numbers(name: str) -> tuple[str | int, ...]:
    """Text and numbers in turn, so that no number is compared with text."""
    return tuple(int(part) if at % 2 else part for at, part in enumerate(re.split(r"([0-9]+)", name)))
