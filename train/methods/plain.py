"""Cross-entropy, nothing else: the baseline every other method is measured against."""

from __future__ import annotations

from ..method import Context, Method, Stage
from ..registry import register


@register
class Plain(Method):
    """Cross-entropy on the in-distribution images. L = -log softmax(f(x))_y."""

    name = "plain"

    def stages(self, context: Context) -> list[Stage]:
        return [Stage("classifier", context.epochs, context.lr)]
