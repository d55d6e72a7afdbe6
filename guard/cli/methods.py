"""``guard methods``: the training methods and their options."""

from __future__ import annotations

from .._siblings import needs
from .cards import Pattern, show
from .flags import Debug, Json


def methods(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List the training methods, or show one method's options."""
    registry = needs("train", "train.methods")
    show("method", pattern, registry.list_methods(), registry.get_method, json)
