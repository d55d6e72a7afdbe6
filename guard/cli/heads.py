"""``guard heads``: the classifier heads and their options."""

from __future__ import annotations

from .cards import Pattern, show
from .flags import Debug, Json


def heads(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List the classifier heads, or show one head's options."""
    from ..errors import MissingExtraError

    try:
        from .. import heads as registry
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed by the heads)", "train") from error
    show("head", pattern, registry.list_heads(), registry.head_class, json)
