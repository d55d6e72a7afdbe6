"""Classifier heads (torch): features (N, D) -> logits (N, C). One file per head.

linear   w.h + b                                    softmax classifier
cosine   s * cos(h, w_c), s learned                 scaled cosine classifier (methods A2)
"""

from __future__ import annotations

from ..errors import UnknownNameError
from .base import Head, LastLayer
from .cosine import CosineHead, unit
from .linear import LinearHead

_HEADS: dict[str, type[Head]] = {head.name: head for head in (LinearHead, CosineHead)}


def list_heads() -> list[str]:
    """Registered head names, sorted."""
    return sorted(_HEADS)


def head_class(name: str) -> type[Head]:
    """The class of a head; unknown names raise `UnknownNameError` with near matches."""
    if name not in _HEADS:
        raise UnknownNameError("head", name, _HEADS)
    return _HEADS[name]


def create_head(name: str, num_features: int, num_classes: int) -> Head:
    """A head with fresh weights."""
    return head_class(name)(num_features, num_classes)


__all__ = ["CosineHead", "Head", "LastLayer", "LinearHead", "create_head", "list_heads", "unit"]
