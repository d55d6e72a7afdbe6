"""``guard synthesisers``: what makes outlier images, and its options."""

from __future__ import annotations

from .._siblings import needs
from .cards import Pattern, show
from .flags import Debug, Json


def synthesisers(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List what makes outlier images, or show one synthesiser's options."""
    registry = needs("train", "train.outliers.base")
    show("synthesiser", pattern, registry.list_synthesisers(), registry.get_synthesiser, json)
