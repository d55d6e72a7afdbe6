"""Cross-entropy, nothing else: the baseline every other method is measured against, and the default.

    L = -log softmax(f(x))_y
    ood_score = -log p_energy - log p_fdbd - log p_multilayer_mahalanobis,   p the share of held-out images as far out

An energy alone accepts images unlike anything in training when they excite one class (colour noise, photographs). What
several layers say of an image catches those, and the distances to the boundaries between classes what lies between
them. The measurements behind this choice are in docs/methods.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import Method, MethodContext, Stage, register

PARTS = ("energy", "fdbd", "multilayer_mahalanobis")  # what detects best today, on CIFAR-10 and on digits


@register
class Plain(Method):
    """Cross-entropy on the in-distribution images. L = -log softmax(f(x))_y."""

    name: ClassVar[str] = "plain"
    score = "combined"
    only_classifies = True

    def score_options(self) -> dict[str, Any]:
        return {"parts": PARTS}

    def stages(self, context: MethodContext) -> list[Stage]:
        return [Stage("classifier", context.epochs, context.lr)]
